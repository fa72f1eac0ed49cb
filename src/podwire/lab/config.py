"""What a person asked of a cluster: flags, a YAML file, or what an earlier `up` wrote down.

Parsed and checked once, at the door; every mistake is a ``Problem`` that names the field and the remedy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Literal, TypeAlias

from podwire.model.errors import BadInput, Problem
from podwire.proxy import modes

IPFamily = Literal["ipv4", "ipv6", "dual"]
Backend = Literal["vxlan", "host-gw"]
CniProfile = Literal["podwire", "flannel"]
ProxyMode = Literal["nftables", "iptables"]
Network: TypeAlias = IPv4Network | IPv6Network

MAX_NODES = 200  # node addresses are 192.168.71.10 .. .209
NODE_PREFIX = {4: 24, 6: 64}  # each node's share of the pod CIDR (kube-controller-manager's defaults)
POD_CIDR = {4: "10.244.0.0/16", 6: "fd00:10:244::/56"}
SERVICE_CIDR = {4: "10.96.0.0/12", 6: "fd00:10:96::/112"}
UNDERLAY = {4: ip_network("192.168.71.0/24"), 6: ip_network("fd00:71::/64")}
MIN_MTU = {"ipv4": 576, "ipv6": 1280, "dual": 1280}


@dataclass(frozen=True, slots=True)
class Publish:
    """``127.0.0.1:8080:svc/NS/NAME:80``: a port of this machine that leads to a Service."""

    host: str
    port: int
    namespace: str
    service: str
    service_port: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}:svc/{self.namespace}/{self.service}:{self.service_port}"


@dataclass(frozen=True, slots=True)
class LabConfig:
    """One cluster. ``pod_cidrs`` and ``service_cidrs`` hold one network a family, the primary first."""

    name: str = "podwire"
    nodes: int = 3
    ip_family: IPFamily = "ipv4"
    pod_cidrs: tuple[Network, ...] = (IPv4Network("10.244.0.0/16"),)
    service_cidrs: tuple[Network, ...] = (IPv4Network("10.96.0.0/12"),)
    backend: Backend = "vxlan"
    proxy_mode: ProxyMode = "nftables"
    underlay_mtu_bytes: int = 1500
    images: Mapping[str, str] = field(default_factory=dict)
    publish: tuple[Publish, ...] = ()
    api_port: int = 0  # on 127.0.0.1; 0: 6443 when it is free, else one that is
    dry_kernel: bool = False
    domain: str = "cluster.local"
    upstream_zone: str = ""  # a zone file's text: what the cluster DNS answers for names of elsewhere
    cni_profile: CniProfile = "podwire"  # flannel: pods are connected as ever, and no policy is enforced

    @property
    def families(self) -> tuple[int, ...]:
        """The IP versions of the cluster, the primary first."""
        return {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}[self.ip_family]

    @property
    def node_names(self) -> tuple[str, ...]:
        """node-0, node-1 ..."""
        return tuple(f"node-{i}" for i in range(self.nodes))


_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_PUBLISH = re.compile(
    r"(?:(?P<host>\[[0-9a-fA-F:]+\]|[0-9.]+):)?(?P<port>\d+):svc/(?:(?P<ns>[^/]+)/)?(?P<name>[^/:]+):(?P<sport>[a-z0-9-]+)"
)
_FIELDS = {
    "name", "nodes", "ipFamily", "podCIDR", "serviceCIDR", "backend", "mtu", "proxyMode", "images", "publish",
    "apiPort", "cniProfile", "upstreamZone",
}  # fmt: skip


def parse(raw: Mapping[str, Any], *, source: str = "options") -> LabConfig:
    """Return the checked configuration of ``raw``, whose keys are those of a configuration file.

    Raises BadInput with every problem found, not only the first.
    """
    problems: list[Problem] = []

    def fail(where: str, why: str) -> None:
        problems.append(Problem(source, where, why))

    for unknown in sorted(set(raw) - _FIELDS):
        fail(unknown, f"unknown field; known are {', '.join(sorted(_FIELDS))}")
    family = raw.get("ipFamily", "ipv4")
    if family not in ("ipv4", "ipv6", "dual"):
        fail("ipFamily", f"{family!r} is none of ipv4, ipv6, dual")
        family = "ipv4"
    config = LabConfig(ip_family=family)
    name = raw.get("name", config.name)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        fail("name", f"{name!r} must be 1 to 40 of a-z, 0-9 and '-', and begin and end with a letter or digit")
        name = config.name
    nodes = raw.get("nodes", config.nodes)
    if not isinstance(nodes, int) or isinstance(nodes, bool) or not 1 <= nodes <= MAX_NODES:
        fail("nodes", f"{nodes!r} must be a number from 1 to {MAX_NODES}")
        nodes = config.nodes
    backend = raw.get("backend", config.backend)
    if backend not in ("vxlan", "host-gw"):
        fail("backend", f"{backend!r} is none of vxlan, host-gw")
        backend = config.backend
    profile = raw.get("cniProfile", config.cni_profile)
    if profile not in ("podwire", "flannel"):
        fail("cniProfile", f"{profile!r} is none of podwire, flannel (which enforces no NetworkPolicy)")
        profile = config.cni_profile
    mtu = raw.get("mtu", config.underlay_mtu_bytes)
    if not isinstance(mtu, int) or isinstance(mtu, bool) or not MIN_MTU[family] + 70 <= mtu <= 65535:
        fail("mtu", f"{mtu!r} must be a number from {MIN_MTU[family] + 70} to 65535 (bytes on the underlay)")
        mtu = config.underlay_mtu_bytes
    mode = raw.get("proxyMode", config.proxy_mode)
    if why := modes.refusal(str(mode)):
        fail("proxyMode", why)
        mode = config.proxy_mode
    api_port = raw.get("apiPort", 0)
    if not isinstance(api_port, int) or isinstance(api_port, bool) or not 0 <= api_port <= 65535:
        fail("apiPort", f"{api_port!r} must be a port from 1 to 65535, or 0 for a free one")
        api_port = 0
    pods = _cidrs(raw.get("podCIDR"), POD_CIDR, config.families, "podCIDR", fail)
    services = _cidrs(raw.get("serviceCIDR"), SERVICE_CIDR, config.families, "serviceCIDR", fail)
    _check_sizes(pods, services, nodes, fail)
    _check_overlaps(pods, services, fail)
    images = _images(raw.get("images") or {}, fail)
    publish = _publications(raw.get("publish") or [], fail)
    zone = _zone(str(raw.get("upstreamZone") or ""), fail)
    if problems:
        raise BadInput(*problems)
    return replace(
        config, name=name, nodes=nodes, backend=backend, proxy_mode=mode, underlay_mtu_bytes=mtu, api_port=api_port,
        pod_cidrs=pods, service_cidrs=services, images=images, publish=publish, cni_profile=profile,
        upstream_zone=zone,
    )  # fmt: skip


def _cidrs(
    raw: Any, defaults: Mapping[int, str], families: tuple[int, ...], where: str, fail: Any
) -> tuple[Network, ...]:
    """Return one network a family, defaults for the families that ``raw`` does not name."""
    given: dict[int, Network] = {}
    texts = raw.split(",") if isinstance(raw, str) else (raw or [])
    for text in texts:
        try:
            network = ip_network(str(text).strip())
        except ValueError as error:
            fail(where, f"{text!r} is no CIDR: {error}; an example is {defaults[families[0]]}")
            continue
        if network.version not in families:
            fail(where, f"{text} is IPv{network.version}, which ipFamily leaves out; add ipFamily: dual")
        elif network.version in given:
            fail(where, f"{text} is a second IPv{network.version} network; give one a family")
        else:
            given[network.version] = network
    return tuple(given.get(v) or ip_network(defaults[v]) for v in families)


def _check_sizes(pods: tuple[Network, ...], services: tuple[Network, ...], nodes: int, fail: Any) -> None:
    for network in pods:
        prefix = NODE_PREFIX[network.version]
        room = 2 ** max(0, prefix - network.prefixlen) if network.prefixlen <= prefix else 0
        if room < nodes:
            need = prefix - (nodes - 1).bit_length()
            fail(
                "podCIDR",
                f"{network} is too small: {nodes} nodes with a /{prefix} each need a /{need} or larger",
            )
    for network in services:
        if network.num_addresses < 16:
            fail("serviceCIDR", f"{network} is too small: it must hold at least 16 addresses")
        if network.version == 6 and network.prefixlen < 108:
            fail("serviceCIDR", f"{network} is too large: a Kubernetes IPv6 service range is a /108 or smaller")


def _check_overlaps(pods: tuple[Network, ...], services: tuple[Network, ...], fail: Any) -> None:
    for version in (4, 6):
        named = [("podCIDR", n) for n in pods if n.version == version]
        named += [("serviceCIDR", n) for n in services if n.version == version]
        named += [("the node network", UNDERLAY[version])]
        for i, (one, a) in enumerate(named):
            for other, b in named[i + 1 :]:
                if a.overlaps(b):
                    fail(one, f"{a} overlaps {other} {b}; choose a range that does not")


def _images(raw: Any, fail: Any) -> dict[str, str]:
    pairs = raw.items() if isinstance(raw, Mapping) else (str(t).partition("=")[::2] for t in raw)
    images = {}
    for name, path in pairs:
        if not name or not path:
            fail("images", f"{name or path!r} must read NAME=PATH")
        elif not Path(path).expanduser().exists():
            fail("images", f"{name}: no such file or directory: {path}")
        else:
            images[name] = str(Path(path).expanduser().resolve())
    return images


def _zone(path: str, fail: Any) -> str:
    """Return the text of a zone file that can be read and understood; "" for none."""
    from podwire.dns.zonetext import parse_zone

    if not path:
        return ""
    try:
        text = Path(path).expanduser().read_text()
        parse_zone(text, ".", path)
    except (OSError, UnicodeDecodeError) as error:
        fail("upstreamZone", f"{path} cannot be read: {error}")
        return ""
    except BadInput as error:
        fail("upstreamZone", str(error))
        return ""
    return text


def _publications(raw: Any, fail: Any) -> tuple[Publish, ...]:
    found = []
    for text in raw:
        m = _PUBLISH.fullmatch(str(text))
        if m is None:
            fail(
                "publish",
                f"{text!r} must read [ADDRESS:]PORT:svc/NAMESPACE/NAME:PORT, as 8080:svc/default/web:80",
            )
            continue
        host = (m["host"] or "127.0.0.1").strip("[]")
        try:
            loopback = ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            fail("publish", f"{text!r}: podwire listens on loopback addresses only, such as 127.0.0.1")
        elif not 1 <= int(m["port"]) <= 65535:
            fail("publish", f"{text!r}: port {m['port']} must be from 1 to 65535")
        else:
            found.append(Publish(host, int(m["port"]), m["ns"] or "default", m["name"], m["sport"]))
    return tuple(found)


def dump(config: LabConfig) -> str:
    """Return the configuration as the JSON of ``cluster.json``."""
    raw = {
        "name": config.name, "nodes": config.nodes, "ipFamily": config.ip_family,
        "podCIDR": [str(n) for n in config.pod_cidrs], "serviceCIDR": [str(n) for n in config.service_cidrs],
        "backend": config.backend, "proxyMode": config.proxy_mode, "mtu": config.underlay_mtu_bytes,
        "images": dict(config.images), "publish": [str(p) for p in config.publish], "apiPort": config.api_port,
        "cniProfile": config.cni_profile,
    }  # fmt: skip
    more = {"dryKernel": config.dry_kernel, "upstreamZone": config.upstream_zone}
    return json.dumps({"config": raw, **more}, indent=2) + "\n"


def load(text: str, source: str) -> LabConfig:
    """Return what ``dump`` wrote. Raises BadInput."""
    raw = json.loads(text)
    config = parse(raw["config"], source=source)
    return replace(config, dry_kernel=bool(raw.get("dryKernel")), upstream_zone=str(raw.get("upstreamZone") or ""))


def differences(old: LabConfig, new: LabConfig) -> list[str]:
    """Return the fields in which a running or stopped cluster differs from what is asked, as text."""
    ignored = {"api_port", "images", "publish", "dry_kernel"}
    return [
        f"{f.name}: {_text(getattr(old, f.name))}, not {_text(getattr(new, f.name))}"
        for f in fields(LabConfig)
        if f.name not in ignored and getattr(old, f.name) != getattr(new, f.name)
    ]


def _text(value: object) -> str:
    if isinstance(value, str) and "\n" in value:
        return f"a file of {value.count(chr(10))} lines"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
