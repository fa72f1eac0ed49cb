"""Which packets are worth sending: one for each way in which pods, ports and policies can differ. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from podwire.policy.packets import Sent
from podwire.policy.rules import DIRECTIONS, NamedPort, Policy, PortRange
from podwire.policy.snapshot import Pod, PolicySnapshot

_UNSPOKEN = 49_999  # a port that nobody writes into a policy


def representatives(pods: Iterable[Pod]) -> Iterator[Pod]:
    """Yield one pod of each class and node: same namespace, labels and named ports are one class."""
    seen = set()
    for pod in sorted(pods, key=lambda p: p.key):
        kind = (pod.key.namespace, tuple(sorted(pod.labels.items())), pod.ports, pod.node)
        if kind not in seen:
            seen.add(kind)
            yield pod


def ports_of(policies: Iterable[Policy]) -> set[tuple[str, int]]:
    """Return the ends of every range that a policy names, a port beyond each, and one that none names."""
    found = {("TCP", _UNSPOKEN), ("UDP", _UNSPOKEN), ("ICMP", 0)}
    for policy in policies:
        for rule in (r for d in DIRECTIONS for r in policy.rules(d)):
            for port in rule.ports or ():
                if isinstance(port, PortRange) and port.protocol in ("TCP", "UDP") and port.first:
                    found |= {(port.protocol, port.first), (port.protocol, port.last)}
                    found |= {(port.protocol, port.last + 1)} if port.last < 65535 else set()
    return found


def packets_of(snapshot: PolicySnapshot) -> Iterator[Sent]:
    """Yield the packets between running pods, for each pair of representatives and each port, both families."""
    running = [p for p in snapshot.pods.values() if p.selectable and p.ips and p.phase == "Running"]
    named = any(
        isinstance(p, NamedPort)
        for o in snapshot.policies
        for d in DIRECTIONS
        for r in o.rules(d)
        for p in r.ports or ()
    )
    common = ports_of(snapshot.policies)
    chosen = list(representatives(running))
    for source, destination in product(chosen, chosen):
        if source.key == destination.key:
            continue
        ports = common | {(p.protocol, p.number) for p in destination.ports if named and p.protocol in ("TCP", "UDP")}
        for src, dst in product(source.ips, destination.ips):
            if src.version == dst.version:
                for protocol, port in sorted(ports):
                    yield Sent(src, dst, protocol, port)
