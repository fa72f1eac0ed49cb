"""Learning mode: the least that policies must allow for the flows that were seen. Pure.

For every workload that received or opened connections: one NetworkPolicy that allows just those, each rule with
the flows that it rests on; and the cluster DNS for everybody who opened any. What was not seen is not allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from podwire.model.objects import Obj
from podwire.verify.fix import telling_labels
from podwire.verify.lint.dns import dns_pods
from podwire.verify.located import ObjectKey
from podwire.verify.rawpolicy import METADATA_NAME
from podwire.verify.workloads import PodView
from podwire.verify.world import World


class SeenFlow(NamedTuple):
    """One connection that came about, as it was at the pods: after a Service's address was replaced."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: str  # TCP UDP SCTP
    port: int


@dataclass(slots=True)
class _Allowance:
    """What one workload may do in one direction: ports and flows by peer."""

    peers: dict[tuple[str, str], Obj] = field(default_factory=dict)
    ports: dict[tuple[str, str], set[tuple[str, int]]] = field(default_factory=dict)
    flows: dict[tuple[str, str], int] = field(default_factory=dict)

    def note(self, name: tuple[str, str], peer: Obj, protocol: str, port: int) -> None:
        """Take in one flow."""
        self.peers[name] = peer
        self.ports.setdefault(name, set()).add((protocol, port))
        self.flows[name] = self.flows.get(name, 0) + 1


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One policy, and for each of its rules the flows behind it, in words, by field path."""

    policy: Obj
    evidence: Mapping[str, str]


def suggest(world: World, flows: Iterable[SeenFlow], namespaces: Sequence[str] = ()) -> tuple[Suggestion, ...]:
    """Return policies for the workloads of ``namespaces`` (none named: all but kube-system) that were seen.

    Ports of a Service's own machinery, of nodes, and of pods without labels are left as they are: nothing could
    select them.
    """
    by_ip = {p.ip: p for p in world.pods if p.ip and not p.spec.get("hostNetwork")}
    seen: dict[ObjectKey, dict[str, _Allowance]] = {}
    members: dict[ObjectKey, PodView] = {}

    def note(own: PodView | None, direction: str, other: PodView | None, flow: SeenFlow) -> None:
        if own is None or not telling_labels(own.labels) or not _is_asked_for(own, namespaces):
            return
        members[own.owner] = own
        ip = flow.source if direction == "ingress" else flow.destination
        name = (other.key.namespace, other.workload) if other is not None else ("", str(ip))
        allowances = seen.setdefault(own.owner, {"ingress": _Allowance(), "egress": _Allowance()})
        allowances[direction].note(name, _peer(own, other, ip), flow.protocol, flow.port)

    for flow in sorted(set(flows), key=str):
        source, destination = by_ip.get(str(flow.source)), by_ip.get(str(flow.destination))
        if _is_node(world, flow) or (source is not None and source == destination):
            continue
        note(source, "egress", destination, flow)
        note(destination, "ingress", source, flow)
    return tuple(_policy(world, members[owner], seen[owner]) for owner in sorted(seen))


def _is_asked_for(pod: PodView, namespaces: Sequence[str]) -> bool:
    return pod.key.namespace in namespaces if namespaces else pod.key.namespace != "kube-system"


def _is_node(world: World, flow: SeenFlow) -> bool:
    """Return whether a node opened the connection: probes, which policies never hold back."""
    return world.snapshot.endpoint(flow.source).node is not None


def _peer(own: PodView, other: PodView | None, ip: object) -> Obj:
    if other is None or not telling_labels(other.labels):
        length = 128 if ":" in str(ip) else 32
        return {"ipBlock": {"cidr": f"{ip}/{length}"}}
    peer: Obj = {"podSelector": {"matchLabels": telling_labels(other.labels)}}
    if other.key.namespace != own.key.namespace:
        peer["namespaceSelector"] = {"matchLabels": {METADATA_NAME: other.key.namespace}}
    return peer


def _policy(world: World, pod: PodView, allowances: Mapping[str, _Allowance]) -> Suggestion:
    spec: Obj = {"podSelector": {"matchLabels": telling_labels(pod.labels)}, "policyTypes": ["Ingress", "Egress"]}
    evidence: dict[str, str] = {}
    for direction, side in (("ingress", "from"), ("egress", "to")):
        rules = list(_rules(allowances[direction], side))
        if direction == "egress" and rules:
            rules = [*_dns(world, pod), *(r for r in rules if not _is_dns(r[0]))]
        if rules:
            spec[direction] = [rule for rule, _ in rules]
        evidence.update({f"spec.{direction}[{index}]": words for index, (_, words) in enumerate(rules)})
    name = {"name": f"{pod.owner.name}-seen", "namespace": pod.key.namespace}
    policy: Obj = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": name, "spec": spec}
    return Suggestion(policy, evidence)


def _rules(allowance: _Allowance, side: str) -> Iterator[tuple[Obj, str]]:
    """Yield (rule, the flows it rests on), by peer."""
    for name in sorted(allowance.peers):
        ports = [{"protocol": protocol, "port": port} for protocol, port in sorted(allowance.ports[name])]
        count = allowance.flows[name]
        who = "/".join(part for part in name if part)
        shown = ", ".join(f"{p['port']}/{p['protocol']}" for p in ports)
        words = f"{count} flow{'s'[: count != 1]} {side} {who} on {shown}"
        yield {side: [allowance.peers[name]], "ports": ports}, words


def _is_dns(rule: Obj) -> bool:
    return all(p["port"] == 53 for p in rule["ports"])


def _dns(world: World, pod: PodView) -> Iterator[tuple[Obj, str]]:
    servers = dns_pods(world)
    if servers:
        ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
        rule = {"to": [_peer(pod, servers[0], servers[0].ip)], "ports": ports}
        yield rule, "whoever opens connections by name needs the cluster DNS, over TCP too"


def render(suggestions: Sequence[Suggestion]) -> str:
    """Return the policies as YAML, each rule under a comment with what it rests on."""
    import yaml

    parts = []
    for suggestion in suggestions:
        lines = yaml.safe_dump(suggestion.policy, sort_keys=False).splitlines()
        parts.append("\n".join(_commented(lines, suggestion.evidence)) + "\n")
    return "---\n".join(parts)


def _commented(lines: Sequence[str], evidence: Mapping[str, Any]) -> Iterator[str]:
    direction, index = "", 0
    for line in lines:
        if line in ("  ingress:", "  egress:"):
            direction, index = line.strip(" :"), 0
        elif direction and line.startswith("  - "):
            yield f"  # {evidence[f'spec.{direction}[{index}]']}"
            index += 1
        elif not line.startswith("   "):
            direction = ""
        yield line
