"""Rules on the machinery: proxy modes that are gone, nodes that run out of addresses, commands that do not parse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from podwire.verify.lint.finding import Finding, Rule
from podwire.verify.located import Located
from podwire.verify.sources import of_kind
from podwire.verify.world import World

PROXY_MODE = Rule("PW301", "proxy-mode-gone", "error", "A kube-proxy mode that Linux nodes do not have",
    "https://kubernetes.io/docs/reference/networking/virtual-ips/#proxy-modes")  # fmt: skip
POD_ADDRESSES = Rule("PW302", "pod-addresses-short", "warning",
    "A node may run more pods than its subnet has addresses",
    "https://kubernetes.io/docs/concepts/cluster-administration/networking/")  # fmt: skip
BPFTOOL = Rule("PW303", "bpftool-attach-order", "error", "bpftool's attach type comes before the program",
    "https://man7.org/linux/man-pages/man8/bpftool-net.8.html")  # fmt: skip

RULES = (PROXY_MODE, POD_ADDRESSES, BPFTOOL)

_MODE = re.compile(r"""^\s*"?mode"?\s*:\s*["']?(userspace|kernelspace)["']?\s*,?\s*$""", re.M)
_ATTACH = re.compile(r"bpftool\s+net\s+attach\s+(?:pinned|id|tag|name)\s+\S+\s+type\s+\S+")


def check(world: World) -> Iterator[Finding]:
    """Yield what these rules find."""
    for located in world.objects:
        kind = located.object["kind"]
        if kind == "KubeProxyConfiguration":
            yield from _mode(located, "mode", str(located.object.get("mode") or ""))
        elif kind == "ConfigMap":
            for name, text in (located.object.get("data") or {}).items():
                if "KubeProxyConfiguration" in str(text) and (m := _MODE.search(str(text))):
                    yield from _mode(located, f'data["{name}"]', m[1])
        for path, text in _strings(located.object, ""):
            if _ATTACH.search(text):
                yield Finding(
                    BPFTOOL, located, path, "`bpftool net attach` takes the attach type first, so this command fails",
                    "write: bpftool net attach xdp pinned FILE dev DEVICE",
                )  # fmt: skip
    yield from _nodes(world)


def _mode(located: Located, path: str, mode: str) -> Iterator[Finding]:
    why = {
        "userspace": "the userspace mode was removed in Kubernetes 1.26",
        "kernelspace": "kernelspace is for Windows nodes only",
    }.get(mode)
    if why:
        yield Finding(PROXY_MODE, located, path, why, "write mode: nftables, or iptables for old kernels")


def _nodes(world: World) -> Iterator[Finding]:
    for node in of_kind(world.objects, "Node"):
        cidr = (node.object.get("spec") or {}).get("podCIDR")
        pods = str(((node.object.get("status") or {}).get("capacity") or {}).get("pods") or "")
        if not cidr or not pods.isdigit():
            continue
        network = ip_network(cidr, strict=False)
        usable = network.num_addresses - 3  # the network's own, the bridge's .1 and the broadcast address
        if int(pods) > usable:
            why = (
                f"{network} holds {usable} pod addresses once the bridge has its own, and the node may run {pods} pods"
            )
            yield Finding(
                POD_ADDRESSES, node, "spec.podCIDR", why, f"give nodes a larger subnet, or set maxPods to {usable}"
            )


def _strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of every string in an object that could hold a command."""
    if isinstance(value, str):
        if "bpftool" in value:
            yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            step = f'["{key}"]' if "." in str(key) or "/" in str(key) else f".{key}" if path else str(key)
            yield from _strings(inner, f"{path}{step}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _strings(inner, f"{path}[{index}]")
