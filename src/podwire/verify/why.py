"""Can A reach B on this port, and why: every hop, the deciding object, and the smallest change. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product

from podwire.model.errors import BadInput, Problem
from podwire.policy.evaluate import Decision, Packet, Verdict, evaluate
from podwire.policy.snapshot import Endpoint
from podwire.verify import route
from podwire.verify.answer import Answer, Fix, Hop
from podwire.verify.fix import about, fixes
from podwire.verify.judge import end_of, place_of
from podwire.verify.lint.dns import can_ask, dns_pods
from podwire.verify.lint.services import nearest
from podwire.verify.located import Place
from podwire.verify.names import Destination, Party, parse_destination, parse_party
from podwire.verify.services import Excluded, ServicePort, ServiceView
from podwire.verify.workloads import PodView
from podwire.verify.world import World

MOST_PAIRS = 4096
"""More pairs of pods than this are not judged one by one: the answer says so."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """One client, one server, and the port that the server sees."""

    src: PodView | None
    dst: PodView | None
    packet: Packet


def why(world: World, source: str, destination: str, namespace: str = "default") -> Answer:
    """Return whether ``source`` reaches ``destination`` and what decides it.

    Allowed means: from every pod that ``source`` means to every pod that ``destination`` means. Raises BadInput for
    names that mean nothing.
    """
    client = parse_party(world, source, namespace)
    home = client.pods[0].key.namespace if client.pods else namespace
    wanted = parse_destination(world, destination, home)
    if client.service is not None and not client.pods:
        raise BadInput(Problem(source, "", "no pod stands behind this Service, so nothing can start from it"))
    service = wanted.party.service
    if service is not None:
        return _through_service(world, client, wanted, service)
    pairs = _pairs(
        world, client, [(pod, wanted.party.ip, *port_of(wanted, pod)) for pod in wanted.party.pods or (None,)]
    )
    return _judged(world, client, wanted, pairs, [])


def port_of(wanted: Destination, pod: PodView | None) -> tuple[str, int]:
    """Return (protocol, number) on one pod: a name means the pod's own port of that name.

    Raises BadInput when the pod has no such port, or one must be said.
    """
    declared = list(pod.ports()) if pod is not None else []
    if wanted.port:
        return wanted.protocol or "TCP", wanted.port
    if wanted.port_name:
        for name, protocol, number in declared:
            if name == wanted.port_name and wanted.protocol in ("", protocol):
                return protocol, number
        known = ", ".join(n for n, _, _ in declared if n) or "none"
        raise BadInput(Problem(wanted.party.name, wanted.port_name, f"no container port has this name; named: {known}"))
    fitting = [(p, n) for _, p, n in declared if wanted.protocol in ("", p)]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(f"{n}/{p}" for p, n in fitting) or "none is declared"
    raise BadInput(Problem(wanted.party.name, "", f"which port? write :PORT ({shown})"))


def _pairs(world: World, client: Party, servers: list[tuple[PodView | None, str, str, int]]) -> list[_Pair]:
    sources = client.pods or (None,)
    found = []
    for src, (dst, ip, protocol, port) in islice(product(sources, servers), MOST_PAIRS):
        packet = Packet(end_of(world, src, client.ip), end_of(world, dst, ip), protocol, port)
        found.append(_Pair(src, dst, packet))
    return found


def _through_service(world: World, client: Party, wanted: Destination, service: ServiceView) -> Answer:
    target = f"{wanted.party.name}"
    if service.external_name:
        text = f"an ExternalName: DNS answers with CNAME {service.external_name}, outside the cluster"
        return Answer(
            client.name, target, True, text, str(service.located.key), service.located.place("spec.externalName")
        )
    port = service_port(service, wanted)
    if port is None:
        known = ", ".join(f"{p.port}/{p.protocol}{f' ({p.name})' if p.name else ''}" for p in service.ports)
        asked = wanted.port_name or wanted.port
        reason = f"Service {service.key} has no port {asked}{'/' + wanted.protocol if wanted.protocol else ''}"
        place = service.located.place("spec.ports")
        hop = Hop("service", "stop", f"{reason}; the connection is refused", place)
        fix = Fix(f"use a port that it has: {known}", place=place)
        return Answer(client.name, target, False, reason, f"Service {service.key} spec.ports", place, (hop,), (fix,))
    found, left = world.backends(service, port)
    target = f"{wanted.party.name}:{port.port}/{port.protocol}"
    if not found:
        return _no_endpoints(world, client, target, service, port, left)
    servers = [(b.pod, b.ip, port.protocol, b.port) for b in found]
    pairs, nat = _pairs(world, client, servers), []
    first = found[0]
    shown = f"{first.pod.workload} " if first.pod is not None else ""
    share = "its one endpoint" if len(found) == 1 else f"one of {len(found)} endpoints"
    nat.append(
        Hop("service", "ok", f"{target} -> {shown}{first.ip}:{first.port}, {share}", service.located.place(port.path))
    )
    nat.append(_nat(service, client))
    if left:
        nat.append(Hop("service", "note", f"left out: {left[0].pod.workload}: {left[0].why}"))
    if not client.pods and service.is_open_outside and not service.keeps_client:
        pairs = _masqueraded(world, pairs)
    return _judged(world, client, wanted, pairs, nat, target)


def service_port(service: ServiceView, wanted: Destination) -> ServicePort | None:
    """Return the port of a Service that is meant, None when it has no such port. Raises BadInput: which of many?"""
    for port in service.ports:
        fits = wanted.protocol in ("", port.protocol)
        if wanted.port and fits and wanted.port in (port.port, port.node_port if not wanted.party.pods else port.port):
            return port
        if wanted.port_name and fits and port.name == wanted.port_name:
            return port
    if not wanted.port and not wanted.port_name:
        fitting = [p for p in service.ports if wanted.protocol in ("", p.protocol)]
        if len(fitting) == 1:
            return fitting[0]
        shown = ", ".join(f"{p.port}/{p.protocol}" for p in service.ports)
        raise BadInput(Problem(wanted.party.name, "", f"which port? write :PORT ({shown})"))
    return None


def _no_endpoints(
    world: World, client: Party, target: str, service: ServiceView, port: ServicePort, left: tuple[Excluded, ...]
) -> Answer:
    place = service.located.place("spec.selector")
    if left:
        cause, fix = f"{left[0].pod.workload}: {left[0].why}", f"make {left[0].pod.workload} an endpoint: {left[0].why}"
    elif service.selector:
        words = ",".join(f"{k}={v}" for k, v in sorted(service.selector.items()))
        cause, fix = f"no pod has {words}", nearest(world, service)
    else:
        cause, fix = "it has no selector and no EndpointSlice names an address", "add an EndpointSlice, or a selector"
    reason = f"Service {service.key} has no endpoints: {cause}"
    hop = Hop("service", "stop", f"{reason}; the connection is refused", place)
    deciding = f"Service {service.key} spec.selector"
    return Answer(client.name, target, False, reason, deciding, place, (hop,), (Fix(fix, place=place),))


def _nat(service: ServiceView, client: Party) -> Hop:
    if service.headless:
        return Hop("nat", "note", "headless: DNS answers with the pods' addresses, nothing is translated")
    if not client.pods and service.is_open_outside:
        if service.keeps_client:
            return Hop(
                "nat", "ok", "destination becomes the pod; externalTrafficPolicy Local keeps the client's address"
            )
        return Hop("nat", "ok", "destination becomes the pod and the source the node: externalTrafficPolicy Cluster")
    return Hop("nat", "ok", "destination becomes the pod, on the client's node; the source stays")


def _masqueraded(world: World, pairs: list[_Pair]) -> list[_Pair]:
    """Return the pairs with the node that took the connection as source: externalTrafficPolicy Cluster."""
    nodes = sorted(world.snapshot.nodes)
    found = []
    for pair in pairs:
        own = pair.packet.dst.pod.node if pair.packet.dst.pod is not None else ""
        others = [n for n in nodes if n != own] or nodes
        end = world.snapshot.node_endpoint(others[0]) if others else Endpoint(node="(some other node)")
        found.append(_Pair(pair.src, pair.dst, Packet(end, pair.packet.dst, pair.packet.protocol, pair.packet.port)))
    return found


def _judged(
    world: World, client: Party, wanted: Destination, pairs: list[_Pair], before: list[Hop], target: str = ""
) -> Answer:
    """Return the answer over all pairs, shown on the first that is denied, else on the first."""
    narrow = about(world.snapshot, pairs[0].packet) if len(pairs) == 1 else None
    verdicts = [evaluate(narrow or world.snapshot, pair.packet) for pair in pairs]
    denied = [i for i, v in enumerate(verdicts) if not v.allowed]
    shown = denied[0] if denied else 0
    pair, verdict = pairs[shown], verdicts[shown]
    dns, dns_stops = _dns(world, wanted, pair.packet.src)
    names_fail = dns_stops and bool(wanted.party.dns_name) and world.enforces
    hops = (*dns, *before, *_way(world, pair, verdict))
    allowed = (not denied or not world.enforces) and not names_fail
    decision = verdict.deciding
    reason, (deciding, place) = decision.reason, place_of(world, decision)
    changes = fixes(world, pair.packet, narrow) if denied and world.enforces else ()
    if dns_stops and world.enforces:
        trouble = _name_trouble(world, pair.packet.src)
        changes += trouble[3]
        if names_fail and not denied:
            reason, deciding, place = trouble[:3]
    if allowed and not denied and not decision.policy:
        reason, deciding, place = _why_allowed(world, verdict)
    if not world.enforces and denied:
        reason = f"the policies say no ({reason}), but the network plugin {world.plugin} does not enforce them"
    target = target or f"{wanted.party.name}:{pair.packet.port}/{pair.packet.protocol}"
    return Answer(
        client.name, target, allowed, reason, deciding, place, hops, changes,
        len(pairs), len(pairs) - len(denied), tuple(_notes(world, client, wanted, pair, dns_stops and not names_fail)),
    )  # fmt: skip


def _why_allowed(world: World, verdict: Verdict) -> tuple[str, str, Place | None]:
    """Return the side that speaks for an allowed connection: the one where a rule does, else neither."""
    for decision in (verdict.ingress, verdict.egress):
        if decision.policy is not None:
            deciding, place = place_of(world, decision)
            return decision.reason, deciding, place
    if verdict.egress.reason == verdict.ingress.reason:
        return verdict.egress.reason, "", None
    return "no policy holds either end back", "", None


def _way(world: World, pair: _Pair, verdict: Verdict) -> Iterator[Hop]:
    yield _policy_hop(world, "egress", verdict.egress)
    if not verdict.egress.allowed:
        return
    if pair.src is None or pair.dst is None or pair.src.key != pair.dst.key:
        yield from route.hops(world, pair.packet.src, pair.packet.dst)
    yield _policy_hop(world, "ingress", verdict.ingress)


def _policy_hop(world: World, kind: str, decision: Decision) -> Hop:
    _, place = place_of(world, decision)
    return Hop(kind, "ok" if decision.allowed else "stop", decision.reason, place)


def _dns(world: World, wanted: Destination, src: Endpoint) -> tuple[list[Hop], bool]:
    """Return what the look-up of the name does, and whether it fails. Only for parties that have a name."""
    service = wanted.party.service
    servers = dns_pods(world)
    if src.pod is None or not servers or (service is None and not wanted.party.dns_name):
        return [], False
    name = wanted.party.dns_name
    if not name and service is not None:
        name = f"{service.key.name}.{service.key.namespace}.svc.cluster.local"
    if not can_ask(world, src, servers, "UDP"):
        return [Hop("dns", "stop", f"{name}: policies keep the client from the cluster DNS (UDP 53)")], True
    answer = ""
    if service is not None:
        answer = " -> the pods' addresses" if service.headless else f" -> {service.ips[0]}" if service.ips else ""
    elif wanted.party.pods:
        answer = f" -> {wanted.party.pods[0].ip}"
    hops = [Hop("dns", "ok", f"{name}{answer}")]
    if not can_ask(world, src, servers, "TCP"):
        hops.append(Hop("dns", "note", "allowed over UDP only: answers too long for a datagram fail"))
    return hops, False


def _name_trouble(world: World, src: Endpoint) -> tuple[str, str, Place | None, tuple[Fix, ...]]:
    server = world.snapshot.pod_endpoint(dns_pods(world)[0].key)
    packet = Packet(src, server, "UDP", 53)
    decision = evaluate(world.snapshot, packet).deciding
    deciding, place = place_of(world, decision)
    return f"the name cannot be resolved: {decision.reason}", deciding, place, fixes(world, packet)


def _notes(world: World, client: Party, wanted: Destination, pair: _Pair, dns_fails: bool) -> Iterator[str]:
    if dns_fails:
        yield "packets were judged by address: the client cannot look the name up"
    if any(p is not None and p.stand_in for p in (pair.src, pair.dst)):
        yield "pods stand for their workload; addresses and nodes are not known before they run"
    if pair.dst is not None:
        ports = {n for _, proto, n in pair.dst.ports() if proto == pair.packet.protocol}
        if ports and pair.packet.port not in ports:
            declared = ", ".join(map(str, sorted(ports)))
            yield f"{pair.dst.workload} declares {declared}, not {pair.packet.port}: it may not listen there"
    for pod in (pair.src, pair.dst):
        if pod is not None and pod.spec.get("hostNetwork"):
            yield f"{pod.workload} is on the host's network: policies take it for its node"
    if len(client.pods) * max(1, len(wanted.party.pods)) > MOST_PAIRS:
        yield f"only the first {MOST_PAIRS} pairs were judged"
