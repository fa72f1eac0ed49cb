"""One Service and its EndpointSlices -> the rules of one node. Pure.

Sources: Kubernetes "Virtual IPs and Service Proxies"; KEP-1669 (terminating endpoints), KEP-2086 (internal
traffic policy), KEP-1860 (ipMode), KEP-4444 (traffic distribution), KEP-3015 (PreferSameNode).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, NamedTuple

from podwire.model.errors import Problem
from podwire.model.objects import Obj, describe, key_of, labels_of
from podwire.proxy.desired import (
    PROTOCOLS,
    Exposure,
    Frontend,
    FrontKey,
    Here,
    IPAddress,
    IPNetwork,
    Kind,
    ServiceRules,
    Target,
)

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
_DEFAULT_AFFINITY_S = 10800

Report = Callable[[str, str], None]


class Endpoint(NamedTuple):
    """One address behind one Service port, with what decides whether it is used."""

    target: Target
    ready: bool
    serving: bool
    terminating: bool
    local: bool
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


def is_ours(service: Mapping[str, Any]) -> bool:
    """Return whether this proxy programs the Service at all.

    Not: ExternalName, headless ones, and those whose label names another proxy.
    """
    spec = service.get("spec") or {}
    cluster_ip = spec.get("clusterIP", "")
    return (
        spec.get("type") != "ExternalName"
        and cluster_ip not in ("", "None")
        and PROXY_NAME_LABEL not in labels_of(service)
    )


def plan_service(service: Obj, slices: Sequence[Obj], here: Here) -> ServiceRules:
    """Return the rules for ``service`` on the node ``here``.

    A value that cannot be used becomes a Problem and is left out; the rest of the Service stands.
    """
    key = key_of(service)
    rank = (service["metadata"].get("creationTimestamp") or "~", *key)
    if not is_ours(service):
        return ServiceRules(key, rank)
    problems: list[Problem] = []

    def report(field: str, why: str) -> None:
        problems.append(Problem(describe(service), field, why))

    spec = service["spec"]
    cluster_ips = tuple(_addresses(_cluster_ips(spec), "spec.clusterIPs", report))
    frontends: list[Frontend] = []
    hairpins: dict[IPAddress, None] = {}
    local_ready: set[IPAddress] = set()
    # A pod elsewhere may come here for a node port whose policy keeps its address, and be sent to itself.
    afar = spec.get("externalTrafficPolicy") == "Local"
    for index, port in enumerate(spec.get("ports") or ()):
        if not _port_is_usable(port, f"spec.ports[{index}]", report):
            continue
        choices = {v: _choose(_endpoints(slices, port, v, here, report), here) for v in (4, 6)}
        for choice in choices.values():
            hairpins.update((e.target.address, None) for e in (*choice.cluster, *choice.local) if e.local or afar)
            local_ready.update(e.target.address for e in choice.local if e.ready)
        frontends += _frontends(service, port, cluster_ips, choices, here, report)
    return ServiceRules(
        key, rank, _without_repeats(frontends), cluster_ips, tuple(sorted(hairpins, key=_order)),
        int(spec.get("healthCheckNodePort") or 0), len(local_ready), tuple(problems),
    )  # fmt: skip


def _order(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)


def _without_repeats(frontends: Sequence[Frontend]) -> tuple[Frontend, ...]:
    return tuple({f.key: f for f in reversed(frontends)}.values())[::-1]


def _cluster_ips(spec: Mapping[str, Any]) -> Sequence[str]:
    return spec.get("clusterIPs") or [spec["clusterIP"]]


def _addresses(texts: Sequence[str], field: str, report: Report) -> Iterator[IPAddress]:
    for text in texts:
        try:
            yield ip_address(text)
        except ValueError:
            report(field, f"{text!r} is not an IP address")


def _port_is_usable(port: Mapping[str, Any], field: str, report: Report) -> bool:
    number = port.get("port")
    if not isinstance(number, int) or not 0 < number < 65536:
        report(f"{field}.port", f"{number!r} is not a port (1-65535)")
        return False
    if port.get("protocol", "TCP") not in PROTOCOLS:
        report(f"{field}.protocol", f"{port.get('protocol')!r} is not TCP, UDP or SCTP")
        return False
    return True


def _endpoints(
    slices: Sequence[Obj], port: Mapping[str, Any], version: int, here: Here, report: Report
) -> tuple[Endpoint, ...]:
    """Return the endpoints of a Service port in one IP family.

    A target in two slices (a slice being split) counts once; the ready one wins.
    """
    found: dict[tuple[str, int], Endpoint] = {}  # not by Target: an address costs as much to hash as to parse
    for piece in slices:
        if piece.get("addressType") != f"IPv{version}":
            continue
        for slice_port in piece.get("ports") or ():
            if (slice_port.get("name") or "") != (port.get("name") or ""):
                continue
            if slice_port.get("protocol", "TCP") != port.get("protocol", "TCP"):
                continue
            number = slice_port.get("port")
            if not isinstance(number, int) or not 0 < number < 65536:
                if number is not None:
                    report("endpoints", f"{describe(piece)}: {number!r} is not a port")
                continue
            for raw in piece.get("endpoints") or ():
                endpoint = _endpoint(raw, number, here, piece, report)
                if endpoint is not None:
                    name = raw["addresses"][0], number
                    old = found.get(name)
                    if old is None or (endpoint.ready, endpoint.serving) > (old.ready, old.serving):
                        found[name] = endpoint
    return tuple(found.values())


def _endpoint(raw: Mapping[str, Any], port: int, here: Here, piece: Obj, report: Report) -> Endpoint | None:
    text = (raw.get("addresses") or [""])[0]  # the API: further addresses are ignored
    address = _endpoint_address(text)
    if isinstance(address, str):
        report("endpoints", f"{describe(piece)}: {address}")
        return None
    conditions = raw.get("conditions") or {}
    ready = conditions.get("ready") is not False  # the API: unknown means ready
    serving = conditions.get("serving")
    hints = raw.get("hints") or {}
    return Endpoint(
        Target(address, port),
        ready,
        ready if serving is None else bool(serving),
        bool(conditions.get("terminating")),
        raw.get("nodeName") == here.node,
        tuple(z["name"] for z in hints.get("forZones") or ()),
        tuple(n["name"] for n in hints.get("forNodes") or ()),
    )


_OCTETS = {str(n): n for n in range(256)}  # so that 041 is refused, as the API does


def _parse_ipv4(text: str) -> IPv4Address:
    """Return the address, in a third of the time that ``ipaddress`` takes for text. Raises ValueError."""
    try:
        a, b, c, d = map(_OCTETS.__getitem__, text.split("."))
    except KeyError:
        raise ValueError(text) from None
    return IPv4Address(a << 24 | b << 16 | c << 8 | d)


@lru_cache(maxsize=8192)
def _endpoint_address(text: str) -> IPAddress | str:
    """Return the address, or why it may not be an endpoint's."""
    try:
        address = IPv6Address(text) if ":" in text else _parse_ipv4(text)
    except ValueError:
        return f"{text!r} is not an IP address"
    if address.version == 4 and (first := int(address) >> 24) not in (0, 127, 169) and first < 224:
        return address
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        return f"{text} may not be an endpoint"
    return address


def usable(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return the endpoints that may receive new connections, sorted, so that equal clusters render equally.

    Ready ones; if none is ready, those still serving while they terminate (KEP-1669). Empty: none at all.
    """
    chosen = [e for e in endpoints if e.ready] or [e for e in endpoints if e.serving and e.terminating]
    return tuple(sorted(chosen, key=lambda e: (int(e.target.address), e.target.port)))


def preferred(endpoints: Sequence[Endpoint], here: Here) -> tuple[Endpoint, ...]:
    """Return the endpoints hinted at this node, else at its zone, else all.

    Hints count only when every endpoint carries them: a half-written slice must not overload a few.
    """
    if here.node and endpoints and all(e.nodes for e in endpoints):
        near = tuple(e for e in endpoints if here.node in e.nodes)
        if near:
            return near
    if here.zone and endpoints and all(e.zones for e in endpoints):
        near = tuple(e for e in endpoints if here.zone in e.zones)
        if near:
            return near
    return tuple(endpoints)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The endpoints under each of the two traffic policies."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return tuple(e.target for e in self.cluster)

    @property
    def local_targets(self) -> tuple[Target, ...]:
        return tuple(e.target for e in self.local)


def _choose(everything: Sequence[Endpoint], here: Here) -> _Choice:
    return _Choice(preferred(usable(everything), here), usable([e for e in everything if e.local]))


def _frontends(
    service: Obj,
    port: Mapping[str, Any],
    cluster_ips: Sequence[IPAddress],
    choices: Mapping[int, _Choice],
    here: Here,
    report: Report,
) -> Iterator[Frontend]:
    spec = service["spec"]
    name = f"{key_of(service)}:{port['name']}" if port.get("name") else str(key_of(service))
    protocol, number = PROTOCOLS[port.get("protocol", "TCP")], port["port"]
    affinity_s = _affinity_s(spec)
    inside_local = spec.get("internalTrafficPolicy") == "Local"
    for address in cluster_ips:
        choice = choices[address.version]
        targets = choice.local_targets if inside_local else choice.all_targets
        yield Frontend(
            FrontKey(address, protocol, number), name, "cluster IP", "cluster-local" if inside_local else "cluster",
            targets, refusal="drop" if inside_local and choice.cluster else "reject", affinity_s=affinity_s,
        )  # fmt: skip
    outside: Exposure = "external-local" if spec.get("externalTrafficPolicy") == "Local" else "external"
    for kind, address, outer_port, sources in _outside_addresses(service, port, cluster_ips, here, report):
        choice = choices[address.version]
        yield Frontend(
            FrontKey(address, protocol, outer_port), name, kind, outside, choice.all_targets,
            choice.local_targets if outside == "external-local" else (),
            affinity_s=affinity_s, sources=sources,
        )  # fmt: skip


def _outside_addresses(
    service: Obj, port: Mapping[str, Any], cluster_ips: Sequence[IPAddress], here: Here, report: Report
) -> Iterator[tuple[Kind, IPAddress, int, tuple[IPNetwork, ...] | None]]:
    """Yield (kind, address, port, allowed sources) of external IPs, load-balancer IPs and node ports."""
    spec = service["spec"]
    for address in _addresses(spec.get("externalIPs") or (), "spec.externalIPs", report):
        yield "external IP", address, port["port"], None
    if spec.get("type") == "LoadBalancer":
        ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        # ipMode Proxy: the balancer itself must see the traffic, from pods too (KEP-1860).
        texts = [i["ip"] for i in ingress if i.get("ip") and i.get("ipMode", "VIP") == "VIP"]
        for address in _addresses(texts, "status.loadBalancer.ingress", report):
            yield "loadbalancer IP", address, port["port"], _sources(spec, address.version, report)
    node_port = port.get("nodePort") or 0
    if spec.get("type") in ("NodePort", "LoadBalancer") and node_port:
        families = {a.version for a in cluster_ips}
        for address in here.addresses:
            if address.version in families:
                yield "node port", address, node_port, None


def _sources(spec: Mapping[str, Any], version: int, report: Report) -> tuple[IPNetwork, ...] | None:
    texts = spec.get("loadBalancerSourceRanges") or ()
    if not texts:
        return None
    found: list[IPNetwork] = []
    for text in texts:
        try:
            network = ip_network(text.strip(), strict=False)
        except ValueError:  # left out, so it allows nobody: closed
            report("spec.loadBalancerSourceRanges", f"{text!r} is not a CIDR")
            continue
        if network.version == version:
            found.append(network)
    return tuple(found)


def _affinity_s(spec: Mapping[str, Any]) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    client_ip = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(client_ip.get("timeoutSeconds") or _DEFAULT_AFFINITY_S)
