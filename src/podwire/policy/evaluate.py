"""The reference: may this packet pass, and who decided it. Written to be read beside the specifications.

A connection passes when both of its ends let it: the source's egress and the destination's ingress. Each side is
judged by three tiers: Admin, NetworkPolicy, Baseline; where none decides, it is allowed. Packets are judged as
they are at the pod: after a Service's address was replaced by an endpoint's. ``docs/policy.md`` has the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from podwire.policy.rules import (
    BlockPeer,
    Direction,
    DomainPeer,
    NodePeer,
    Peer,
    PodPeer,
    Policy,
    Port,
    PortRange,
    Rule,
)
from podwire.policy.snapshot import Endpoint, Pod, PolicySnapshot

LiveConnections = Literal["keep", "strict"]


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet of a connection, which is named by who opened it (``src``), to whom, and to which port.

    ``established`` says that the connection was open before: the packet may go either way. ``protocol`` may be
    ICMP, with port 0; no rule that lists ports matches it.
    """

    src: Endpoint
    dst: Endpoint
    protocol: str = "TCP"
    port: int = 0
    established: bool = False

    def __str__(self) -> str:
        return f"{self.src} -> {self.dst} {self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one side said, and on whose word.

    ``policy`` and ``rule`` are set when one rule decided. When a pod is isolated and no rule lets the packet
    pass, ``isolating`` names every policy that isolates it. ``passed`` are the Pass rules that handed it on.
    """

    direction: Direction
    allowed: bool
    reason: str
    policy: Policy | None = None
    rule: Rule | None = None
    isolating: tuple[Policy, ...] = ()
    passed: tuple[tuple[Policy, Rule], ...] = ()

    @property
    def path(self) -> str:
        """The field that decided, such as ``spec.ingress[0]``; "" when it was none."""
        return self.rule.path if self.rule is not None else ""

    def __str__(self) -> str:
        return f"{self.direction} {'allowed' if self.allowed else 'denied'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the packet passes: only when both sides let it."""

    egress: Decision
    ingress: Decision

    @property
    def allowed(self) -> bool:
        """Whether both sides let it pass."""
        return self.egress.allowed and self.ingress.allowed

    @property
    def deciding(self) -> Decision:
        """The side to speak of first: one that denies, else one where a policy speaks; ingress before egress."""
        if not self.egress.allowed:
            return self.egress
        return self.egress if self.ingress.allowed and not self.ingress.policy and self.egress.policy else self.ingress

    def __str__(self) -> str:
        return f"{self.egress}; {self.ingress}"


def evaluate(snapshot: PolicySnapshot, packet: Packet, live: LiveConnections = "keep") -> Verdict:
    """Return the verdict on one packet.

    ``live`` is what happens to connections that were open when policies, labels or namespaces changed: ``keep``
    lets them go on, as most network plugins do; ``strict`` judges them again as if they were new.
    """
    if packet.established and live == "keep":
        return _both("the connection is established")
    src, dst = packet.src, packet.dst
    if src.pod is not None and dst.pod is not None and src.pod.key == dst.pod.key:
        return _both("a pod always reaches itself")
    return Verdict(
        judge(snapshot, "egress", src, dst, packet),
        judge(snapshot, "ingress", dst, src, packet),
    )


def _both(reason: str) -> Verdict:
    return Verdict(Decision("egress", True, reason), Decision("ingress", True, reason))


def judge(snapshot: PolicySnapshot, direction: Direction, end: Endpoint, other: Endpoint, packet: Packet) -> Decision:
    """Return what the policies of ``end`` say in this direction about its traffic with ``other``."""
    pod = end.pod
    if pod is None:
        what = "a node, or a pod on its network," if end.node is not None else "an address outside"
        return Decision(direction, True, f"default: {what} is under no policy")
    # Kubernetes: traffic between a pod and the node that it runs on is always allowed (probes depend on it).
    if other.node is not None and other.node == pod.node:
        return Decision(direction, True, f"default: a pod and its own node {pod.node} always reach each other")
    selecting = [p for p in snapshot.policies_about(pod.key.namespace) if selects(snapshot, p.subject, pod)]
    passed: list[tuple[Policy, Rule]] = []
    decided = _walk("Admin", selecting, snapshot, direction, other, packet, passed)
    if decided is None:
        decided = _namespaced(selecting, snapshot, direction, other, packet, passed)
    if decided is None:
        decided = _walk("Baseline", selecting, snapshot, direction, other, packet, passed)
    return decided or Decision(
        direction, True, f"default: no policy decides {direction} of {pod.key}", passed=tuple(passed)
    )


def _walk(
    tier: str,
    selecting: Iterable[Policy],
    snapshot: PolicySnapshot,
    direction: Direction,
    other: Endpoint,
    packet: Packet,
    passed: list[tuple[Policy, Rule]],
) -> Decision | None:
    """Return the decision of an ordered tier; None when no rule matches or one passes it on."""
    for policy in sorted((p for p in selecting if p.tier == tier), key=lambda p: p.order):
        for rule in policy.rules(direction):
            if not matches(snapshot, rule, other, packet):
                continue
            if rule.action == "Pass":
                passed.append((policy, rule))
                return None
            reason = f"{policy} {rule.path}{_titled(rule)}: {rule.action}{_because(rule)}"
            return Decision(direction, rule.action == "Accept", reason, policy, rule, passed=tuple(passed))
    return None


def _namespaced(
    selecting: Iterable[Policy],
    snapshot: PolicySnapshot,
    direction: Direction,
    other: Endpoint,
    packet: Packet,
    passed: list[tuple[Policy, Rule]],
) -> Decision | None:
    """Return what the NetworkPolicies say together; None when none isolates the pod in this direction."""
    isolating = [p for p in selecting if direction in p.isolates]
    if not isolating:
        return None
    for policy in isolating:
        for rule in policy.rules(direction):
            if matches(snapshot, rule, other, packet):
                reason = f"{policy} {rule.path}"
                return Decision(direction, True, reason, policy, rule, tuple(isolating), tuple(passed))
    names = ", ".join(str(p.key) + ("" if not p.problems else f" (unusable: {p.problems[0]})") for p in isolating)
    reason = f"isolated by NetworkPolicy {names}; no rule allows it"
    return Decision(direction, False, reason, isolating=tuple(isolating), passed=tuple(passed))


def _titled(rule: Rule) -> str:
    return f" ({rule.name!r})" if rule.name else ""


def _because(rule: Rule) -> str:
    return f" [{rule.why}]" if rule.why else ""


def selects(snapshot: PolicySnapshot, who: PodPeer, pod: Pod) -> bool:
    """Return whether a subject or a peer means this pod. Never a pod on the host's network, nor one that ended."""
    if not pod.selectable:
        return False
    if who.namespace is not None:
        if pod.key.namespace != who.namespace:
            return False
    elif not who.namespaces.matches(snapshot.namespace_labels(pod.key.namespace)):
        return False
    return who.pods.matches(pod.labels)


def matches(snapshot: PolicySnapshot, rule: Rule, other: Endpoint, packet: Packet) -> bool:
    """Return whether the rule speaks of this packet: one of its peers is the other end, one of its ports the port."""
    if rule.peers is not None and not any(peer_is(snapshot, p, other) for p in rule.peers):
        return False
    return rule.ports is None or any(port_is(p, packet) for p in rule.ports)


def peer_is(snapshot: PolicySnapshot, peer: Peer, end: Endpoint) -> bool:
    """Return whether a peer means this end."""
    match peer:
        case PodPeer():
            return end.pod is not None and selects(snapshot, peer, end.pod)
        case BlockPeer():
            return end.ip is not None and peer.contains(end.ip)
        case NodePeer():
            node = snapshot.nodes.get(end.node) if end.node is not None else None
            return node is not None and end.ip in node.addresses and peer.nodes.matches(node.labels)
        case DomainPeer():
            return any(end.ip in ips for name, ips in snapshot.names.items() if peer.covers(name))


def port_is(port: Port, packet: Packet) -> bool:
    """Return whether a port of a rule means the packet's. Names are looked up on the destination pod only."""
    if isinstance(port, PortRange):
        return port.protocol == packet.protocol and port.first <= packet.port <= port.last
    pod = packet.dst.pod
    return pod is not None and any(
        p.name == port.name
        and p.protocol == packet.protocol
        and p.number == packet.port
        and port.protocol in (None, p.protocol)
        for p in pod.ports
    )
