"""Nodes -> paths, one peer at a time.

A peer is planned when its Node carries flannel's annotations (flannel's subnet manager "kube"). What makes a
peer unreachable is a Problem of that peer and no one else's. Where two peers claim one thing (a subnet, a
MAC), the first by name has it, whatever the order in which they were seen: equal clusters give equal kernels.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from ipaddress import ip_address, ip_network

from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Home, Path, Site
from podwire.kernel.link.values import IPAddress
from podwire.kernel.route.values import IPNetwork
from podwire.model.errors import Problem
from podwire.model.objects import Obj, annotations_of, describe

ANNOTATIONS = "flannel.alpha.coreos.com/"
MANAGED = ANNOTATIONS + "kube-subnet-manager"
BACKEND_TYPE = ANNOTATIONS + "backend-type"
BACKEND_DATA = {4: ANNOTATIONS + "backend-data", 6: ANNOTATIONS + "backend-v6-data"}
PUBLIC_IP = {4: ANNOTATIONS + "public-ip", 6: ANNOTATIONS + "public-ipv6"}
PUBLIC_IP_OVERWRITE = {4: PUBLIC_IP[4] + "-overwrite", 6: PUBLIC_IP[6] + "-overwrite"}


def relevant(node: Obj | None) -> Hashable:
    """Return what the fabric reads of a Node: two nodes that agree here need no reconcile."""
    if node is None:
        return None
    spec, status = node.get("spec") or {}, node.get("status") or {}
    ours = sorted((k, v) for k, v in annotations_of(node).items() if k.startswith(ANNOTATIONS))
    addresses = tuple(a.get("address") for a in status.get("addresses") or () if a.get("type") == "InternalIP")
    return tuple(ours), tuple(spec.get("podCIDRs") or ()), spec.get("podCIDR"), addresses


def subnet_of(node: Obj, version: int) -> IPNetwork | Problem | None:
    """Return the node's pod CIDR of an IP version; None when it has none (yet)."""
    spec = node.get("spec") or {}
    for i, text in enumerate(spec.get("podCIDRs") or filter(None, [spec.get("podCIDR")])):
        try:
            network = ip_network(text)
        except ValueError as error:
            return Problem(describe(node), f"spec.podCIDRs[{i}]", str(error))
        if network.version == version:
            return network
    return None


def internal_ips(node: Obj) -> tuple[IPAddress, ...]:
    """Return the node's InternalIP addresses that can be read."""
    found = []
    for entry in (node.get("status") or {}).get("addresses") or ():
        if entry.get("type") == "InternalIP":
            try:
                found.append(ip_address(entry.get("address", "")))
            except ValueError:
                continue  # the node's own agent answers for its addresses
    return tuple(found)


def read_site(node: Obj, version: int) -> Site | Problem | None:
    """Return what a Node announces in one family; None when it takes no part (yet) in the fabric."""
    notes = annotations_of(node)
    public = notes.get(PUBLIC_IP[version])
    subnet = subnet_of(node, version)
    if notes.get(MANAGED) != "true" or subnet is None or public is None:
        return None
    if isinstance(subnet, Problem):
        return subnet
    name, backend = node["metadata"]["name"], notes.get(BACKEND_TYPE, "")
    try:
        public_ip = ip_address(public)
        if public_ip.version != version:
            raise ValueError(f"{public} is not an IPv{version} address")
        if public_ip.is_multicast or public_ip.is_unspecified or public_ip.is_loopback:
            raise ValueError(f"{public} is no address of a node")
    except ValueError as error:
        return Problem(describe(node), f"metadata.annotations[{PUBLIC_IP[version]}]", str(error))
    if backend != "vxlan":
        return Site(name, version, subnet, public_ip, backend)
    try:
        vni, mac = parse_backend(notes.get(BACKEND_DATA[version], ""))
    except ValueError as error:
        return Problem(describe(node), f"metadata.annotations[{BACKEND_DATA[version]}]", str(error))
    return Site(name, version, subnet, public_ip, backend, vni, mac)


def parse_backend(text: str) -> tuple[int, str]:
    """Return (VNI, MAC) of VXLAN backend data, ``{"VNI":1,"VtepMAC":"…"}``. Raises ValueError.

    flannel before 0.14 wrote no VNI: 0 stands for "as configured".
    """
    value = json.loads(text)
    mac = value.get("VtepMAC") if isinstance(value, dict) else None
    octets = mac.lower().split(":") if isinstance(mac, str) else []
    if len(octets) != 6 or not all(len(o) == 2 and int(o, 16) >= 0 for o in octets):
        raise ValueError(f"VtepMAC is not a MAC address: {mac!r}")
    if int(octets[0], 16) & 1 or not any(int(o, 16) for o in octets):
        raise ValueError(f"VtepMAC {mac} is no address of one device")
    vni = value.get("VNI", 0)
    if isinstance(vni, bool) or not isinstance(vni, int):
        raise ValueError(f"VNI is not a number: {vni!r}")
    return vni, ":".join(octets)


def plan_path(config: FabricConfig, home: Home, site: Site, adjacent: bool) -> Path | str:
    """Return how ``home`` reaches ``site``, or why it cannot.

    ``adjacent``: the peer's public address is on one of this node's own links.
    """
    if not site.subnet.subnet_of(home.network):  # type: ignore[arg-type]
        return f"pod CIDR {site.subnet} lies outside the cluster network {home.network}"
    if site.subnet.overlaps(home.subnet):
        return f"pod CIDR {site.subnet} overlaps this node's own {home.subnet}"
    if site.public_ip == home.public_ip:
        return f"announces this node's own address {site.public_ip}"
    if site.backend != config.backend:
        return f"uses backend {site.backend!r}, this node {config.backend!r}"
    direct = Path(site.version, site.subnet, site.public_ip)
    if config.backend == "host-gw":
        return direct if adjacent else _NOT_ADJACENT.format(site.public_ip)
    if config.direct_routing and adjacent:
        return direct
    if site.vni not in (0, config.vni):
        return f"uses VNI {site.vni}, this node {config.vni}"
    return Path(site.version, site.subnet, site.public_ip, site.mac)


_NOT_ADJACENT = "{} is not on a link of this node; host-gw needs all nodes on one link, else use vxlan"


class Ledger:
    """The paths of all peers, kept key by key. ``problems`` says why a peer has no path."""

    def __init__(self, config: FabricConfig, homes: Iterable[Home], own_name: str) -> None:
        self.config, self.homes, self._own_name = config, tuple(homes), own_name
        self.paths: dict[str, tuple[Path, ...]] = {}
        self.problems: dict[str, tuple[Problem, ...]] = {}
        self._sites: dict[str, tuple[Site, ...]] = {}
        self._objects: dict[str, str] = {}
        self._unreadable: dict[str, tuple[Problem, ...]] = {}
        self._claimants: dict[Hashable, set[str]] = {}

    def update(self, name: str, node: Obj | None, adjacent: frozenset[IPAddress]) -> frozenset[str]:
        """Plan one node anew; return the names whose paths may have changed with it.

        ``adjacent``: those of the nodes' public addresses that are on this node's links.
        """
        if name == self._own_name:
            return frozenset()
        touched = {name} | self._rivals(name)
        for key in self._claims(name):
            self._claimants[key].discard(name)
            if not self._claimants[key]:
                del self._claimants[key]
        self._read(name, node)
        for key in self._claims(name):
            self._claimants.setdefault(key, set()).add(name)
        touched |= self._rivals(name)
        for each in touched:
            self._plan(each, adjacent)
        return frozenset(touched)

    def _read(self, name: str, node: Obj | None) -> None:
        found = [] if node is None else [read_site(node, home.version) for home in self.homes]
        self._sites[name] = tuple(s for s in found if isinstance(s, Site))
        self._unreadable[name] = tuple(p for p in found if isinstance(p, Problem))
        if node is None:
            del self._sites[name], self._unreadable[name]
        else:
            self._objects[name] = describe(node)

    def _claims(self, name: str) -> list[Hashable]:
        claims: list[Hashable] = []
        for site in self._sites.get(name, ()):
            claims.append(site.subnet.network_address)  # a peer's gateway and neighbour entry on the device
            if site.mac:
                claims.append((site.version, site.mac))
        return claims

    def _rivals(self, name: str) -> set[str]:
        return {rival for key in self._claims(name) for rival in self._claimants.get(key, ())}

    def _plan(self, name: str, adjacent: frozenset[IPAddress]) -> None:
        paths: list[Path] = []
        problems = list(self._unreadable.get(name, ()))
        for site in self._sites.get(name, ()):
            home = next(h for h in self.homes if h.version == site.version)
            answer = self._contested(name, site) or plan_path(self.config, home, site, site.public_ip in adjacent)
            if isinstance(answer, Path):
                paths.append(answer)
            else:
                problems.append(Problem(self._objects[name], "", answer))
        for held, value in ((self.paths, tuple(paths)), (self.problems, tuple(problems))):
            held.pop(name, None)
            if value:
                held[name] = value  # type: ignore[assignment]

    def _contested(self, name: str, site: Site) -> str:
        subnet, mac = site.subnet.network_address, (site.version, site.mac)
        for key, what in ((subnet, f"pod CIDR {site.subnet}"), (mac, site.mac)):
            first = min(self._claimants.get(key, (name,)))
            if first != name:
                return f"{what} is held by node {first} already"
        return ""
