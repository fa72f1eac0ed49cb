"""flannel's configuration: ``net-conf.json`` of the ConfigMap kube-flannel/kube-flannel-cfg.

    {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472}}

Keys that only other subnet managers or Windows use (SubnetLen, SubnetMin, GBP on Windows ...) are taken and
ignored, as flannel does; ``EnableNFTables`` too: podwire uses nftables always. A backend or a value that
podwire cannot honour is a Problem.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal

from podwire.kernel.route.values import IPNetwork
from podwire.model.errors import Problem
from podwire.model.objects import Obj, describe

NAMESPACE, NAME = "kube-flannel", "kube-flannel-cfg"
_FIELD = "data[net-conf.json]"
_KNOWN_BACKENDS = ("vxlan", "host-gw")
_OTHER_BACKENDS = (
    "alloc", "udp", "wireguard", "ipsec", "extension", "ipip", "tencent-vpc", "aws-vpc", "gce", "ali-vpc",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FabricConfig:
    """A checked configuration. ``mtu_bytes`` 0: from the underlay."""

    networks: tuple[IPNetwork, ...]  # at most one a family, IPv4 first
    backend: Literal["vxlan", "host-gw"] = "vxlan"
    vni: int = 1
    port: int = 8472
    mtu_bytes: int = 0
    direct_routing: bool = False
    learning: bool = False

    def network(self, version: int) -> IPNetwork | None:
        """Return the cluster's pod network of an IP version, or None when that is not enabled."""
        return next((n for n in self.networks if n.version == version), None)


class _Bad(Exception):
    """(field below net-conf.json, why)"""


def parse_config(configmap: Obj) -> FabricConfig | Problem:
    """Return the configuration in a ConfigMap, or the first thing that is wrong with it."""
    text = (configmap.get("data") or {}).get("net-conf.json")
    if text is None:
        return Problem(describe(configmap), _FIELD, "is missing")
    try:
        return _parse(text)
    except _Bad as bad:
        field, why = bad.args
        return Problem(describe(configmap), f"{_FIELD}{field}", why)


def _parse(text: str) -> FabricConfig:
    try:
        conf = json.loads(text)
    except ValueError as error:
        raise _Bad("", f"is not JSON: {error}") from None
    if not isinstance(conf, dict):
        raise _Bad("", "is not a JSON object")
    backend = conf.get("Backend", {})
    if not isinstance(backend, dict):
        raise _Bad(".Backend", "is not a JSON object")
    kind = backend.get("Type", "vxlan")
    if kind not in _KNOWN_BACKENDS:
        more = "is a flannel backend that podwire does not have" if kind in _OTHER_BACKENDS else "is unknown"
        raise _Bad(".Backend.Type", f"{kind!r} {more}; use one of {', '.join(_KNOWN_BACKENDS)}")
    if _flag(backend, ".Backend", "GBP", False):
        raise _Bad(".Backend.GBP", "is not supported")
    return FabricConfig(
        networks=_networks(conf),
        backend=kind,
        vni=_number(backend, "VNI", 1, 1, (1 << 24) - 1),
        port=_number(backend, "Port", 8472, 1, 65535) if backend.get("Port") else 8472,
        mtu_bytes=_number(backend, "MTU", 0, 576, 65535) if backend.get("MTU") else 0,
        direct_routing=_flag(backend, ".Backend", "DirectRouting", False),
        learning=_flag(backend, ".Backend", "Learning", False),
    )


def _networks(conf: dict[str, Any]) -> tuple[IPNetwork, ...]:
    found: list[IPNetwork] = []
    if _flag(conf, "", "EnableIPv4", True):
        found.append(_network(conf, "Network", 4))
    if _flag(conf, "", "EnableIPv6", False):
        found.append(_network(conf, "IPv6Network", 6))
    if not found:
        raise _Bad("", "enables neither IPv4 nor IPv6")
    return tuple(found)


def _network(conf: dict[str, Any], key: str, version: int) -> IPNetwork:
    text = conf.get(key)
    if not isinstance(text, str) or not text:
        raise _Bad(f".{key}", f"must name the pods' IPv{version} network")
    try:
        network: IPNetwork = IPv4Network(text) if version == 4 else IPv6Network(text)
    except ValueError as error:
        raise _Bad(f".{key}", f"is not an IPv{version} network: {error}") from None
    if network.prefixlen > (28 if version == 4 else 124):
        raise _Bad(f".{key}", f"{text} is too small to hold the nodes' subnets")
    return network


def _flag(conf: dict[str, Any], where: str, key: str, default: bool) -> bool:
    value = conf.get(key, default)
    if not isinstance(value, bool):
        raise _Bad(f"{where}.{key}", f"must be true or false, is {value!r}")
    return value


def _number(backend: dict[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = backend.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _Bad(f".Backend.{key}", f"must be a number from {low} to {high}, is {value!r}")
    return value
