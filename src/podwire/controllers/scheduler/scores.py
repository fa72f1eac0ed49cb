"""Which of the nodes that will do is the best. Pure. Each score runs from 0 to 100, then is weighted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from podwire.controllers.scheduler.filters import count_matching, matches_term
from podwire.controllers.scheduler.values import ZONE, NodeState, PodFacts
from podwire.model.tolerations import untolerated

Score = Callable[[PodFacts, Sequence[NodeState]], list[float]]


def least_allocated(pod: PodFacts, node: NodeState) -> float:
    """Return how much of CPU and memory stays free, on average."""
    return sum(
        max(0.0, 1 - (node.weight[i] + pod.weight[i]) / total) * 50 for i, total in enumerate(_totals(node)) if total
    )


def balanced(pod: PodFacts, node: NodeState) -> float:
    """Return how alike the used shares of CPU and memory would be."""
    shares = [min(1.0, (node.weight[i] + pod.weight[i]) / t) for i, t in enumerate(_totals(node)) if t]
    return 100 - abs(shares[0] - shares[1]) * 50 if len(shares) == 2 else 0.0


def _totals(node: NodeState) -> tuple[int, int]:
    return node.allocatable.get("cpu", 0), node.allocatable.get("memory", 0)


def _fewest_is_best(counts: Sequence[float]) -> list[float]:
    most = max(counts, default=0)
    return [100.0 * (most - c) / most if most else 100.0 for c in counts]


def _most_is_best(counts: Sequence[float]) -> list[float]:
    low, high = min(counts, default=0), max(counts, default=0)
    return [100.0 * (c - low) / (high - low) if high > low else 0.0 for c in counts]


def soft_taints(pod: PodFacts, nodes: Sequence[NodeState]) -> list[float]:
    """Prefer nodes with fewer PreferNoSchedule taints that are not tolerated."""
    if not any(t.effect == "PreferNoSchedule" for n in nodes for t in n.taints):
        return [100.0] * len(nodes)
    return _fewest_is_best(
        [sum(untolerated((t,), pod.tolerations, ("PreferNoSchedule",)) is not None for t in n.taints) for n in nodes]
    )


def node_preferences(pod: PodFacts, nodes: Sequence[NodeState]) -> list[float]:
    """Prefer nodes by preferred node affinity."""
    if not pod.node_preferences:
        return [0.0] * len(nodes)
    return _most_is_best([sum(w for w, t in pod.node_preferences if matches_term(n, t)) for n in nodes])


def peer_spread(pod: PodFacts, nodes: Sequence[NodeState]) -> list[float]:
    """Prefer nodes, and a little less zones, with fewer pods of the same controller."""
    per_node = [n.peers.get(pod.peers, 0) for n in nodes]
    zones: dict[str, int] = {}
    for node, count in zip(nodes, per_node, strict=True):
        zone = node.labels.get(ZONE, "")
        zones[zone] = zones.get(zone, 0) + count
    by_node = _fewest_is_best(per_node)
    if len(zones) < 2:
        return by_node
    by_zone = _fewest_is_best([zones[n.labels.get(ZONE, "")] for n in nodes])
    return [0.5 * a + 0.5 * b for a, b in zip(by_node, by_zone, strict=True)]


def soft_spread(pod: PodFacts, nodes: Sequence[NodeState]) -> list[float]:
    """Prefer domains with fewer matching pods, for each ScheduleAnyway constraint."""
    soft = [c for c in pod.spreads if not c.hard]
    if not soft:
        return [0.0] * len(nodes)
    totals = [0.0] * len(nodes)
    for constraint in soft:
        domains: dict[str, int] = {}
        for node in nodes:
            domain = node.labels.get(constraint.topology, "")
            domains[domain] = domains.get(domain, 0) + count_matching(pod, constraint, node)
        for i, node in enumerate(nodes):
            # A node without the label is worse than any with it.
            missing = constraint.topology not in node.labels
            totals[i] += 1e6 if missing else domains[node.labels[constraint.topology]]
    return _fewest_is_best(totals)


def pod_preferences(
    pod: PodFacts, nodes: Sequence[NodeState], namespace_labels: Mapping[str, Mapping[str, str]]
) -> list[float]:
    """Prefer domains by preferred pod affinity and anti-affinity."""
    if not pod.affinity_preferences:
        return [0.0] * len(nodes)
    totals = [0.0] * len(nodes)
    for term in pod.affinity_preferences:
        domains: dict[str, int] = {}
        for node in nodes:
            domain = node.labels.get(term.topology)
            if domain is not None:
                found = sum(term.matches(p, namespace_labels) for p in node.pods.values())
                domains[domain] = domains.get(domain, 0) + found
        for i, node in enumerate(nodes):
            totals[i] += term.weight * domains.get(node.labels.get(term.topology, ""), 0)
    return _most_is_best(totals)


def score(pod: PodFacts, nodes: Sequence[NodeState], namespace_labels: Mapping[str, Mapping[str, str]]) -> list[float]:
    """Return one total for each node. Weights as kube-scheduler's default profile has them."""
    taints, preferred = soft_taints(pod, nodes), node_preferences(pod, nodes)
    peers, spread = peer_spread(pod, nodes), soft_spread(pod, nodes)
    near = pod_preferences(pod, nodes, namespace_labels)
    return [
        least_allocated(pod, n)
        + balanced(pod, n)
        + 3 * taints[i]
        + 2 * preferred[i]
        + 2 * peers[i]
        + 2 * spread[i]
        + 2 * near[i]
        for i, n in enumerate(nodes)
    ]
