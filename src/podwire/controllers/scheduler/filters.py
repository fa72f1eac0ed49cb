"""Why a pod may not run on a node. Pure.

Each filter returns the reason in kube-scheduler's words, or None when the node will do. ``Domains`` holds
what the filters that look at other pods need to know, counted once for all nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from podwire.controllers.scheduler.values import NodeState, NodeTerm, PodFacts, PodTerm, Spread
from podwire.model.tolerations import Taint, untolerated

UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
AFFINITY = "node(s) didn't match Pod's node affinity/selector"
PORTS = "node(s) didn't have free ports for the requested pod ports"
NEAR = "node(s) didn't match pod affinity rules"
APART = "node(s) didn't match pod anti-affinity rules"
APART_FROM = "node(s) didn't satisfy existing pods anti-affinity rules"
SPREAD = "node(s) didn't match pod topology spread constraints"
SPREAD_LABEL = "node(s) didn't match pod topology spread constraints (missing required label)"


def matches_term(node: NodeState, term: NodeTerm) -> bool:
    """Return whether a node satisfies a term; a term without expressions matches nothing."""
    if not term.labels and not term.names:
        return False
    fields = {"metadata.name": node.name}
    return all(_holds(node.labels, *e) for e in term.labels) and all(_holds(fields, *e) for e in term.names)


def _holds(labels: Mapping[str, str], key: str, operator: str, values: tuple[str, ...]) -> bool:
    value = labels.get(key)
    match operator:
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value is None or value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            try:
                have, limit = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return have > limit if operator == "Gt" else have < limit
        case _:
            return False


def matches_node_affinity(pod: PodFacts, node: NodeState) -> bool:
    """Return whether nodeSelector and required node affinity accept the node (terms are alternatives)."""
    if any(node.labels.get(k) != v for k, v in pod.node_selector.items()):
        return False
    return pod.node_terms is None or any(matches_term(node, t) for t in pod.node_terms)


def refuse_alone(pod: PodFacts, node: NodeState) -> str | None:
    """Return why the node is refused, whatever runs elsewhere; None when it will do so far."""
    if node.unschedulable and not any(t.tolerates(UNSCHEDULABLE) for t in pod.tolerations):
        return "node(s) were unschedulable"
    taint = untolerated(node.taints, pod.tolerations, ("NoSchedule", "NoExecute"))
    if taint is not None:
        return f"node(s) had untolerated taint {taint}"
    if not matches_node_affinity(pod, node):
        return AFFINITY
    if pod.ports and _port_taken(pod, node):
        return PORTS
    return None


def _port_taken(pod: PodFacts, node: NodeState) -> bool:
    return any(
        number == other and protocol == theirs and (address == at or "0.0.0.0" in (address, at))
        for neighbour in node.pods.values()
        for at, theirs, other in neighbour.ports
        for address, protocol, number in pod.ports
    )


def refuse_resources(pod: PodFacts, node: NodeState) -> list[str]:
    """Return one reason for each resource that the node lacks; empty when the pod fits."""
    reasons = []
    for name, amount in pod.requests.items():
        if amount and amount > node.allocatable.get(name, 0) - node.requested.get(name, 0):
            reasons.append("Too many pods" if name == "pods" else f"Insufficient {name}")
    return reasons


@dataclass(frozen=True, slots=True)
class Domains:
    """Counts per topology domain, for one pod that is to be placed."""

    near: tuple[Mapping[str, int], ...]  # per affinity term: domain -> matching pods
    near_self: tuple[bool, ...]  # per affinity term: the pod itself matches, and no other pod anywhere
    apart: tuple[Mapping[str, int], ...]
    keeps_away: frozenset[tuple[str, str]]  # (topology key, domain) that running pods keep this pod out of
    spread: tuple[Mapping[str, int], ...]  # per hard constraint: eligible domain -> matching pods


def count_domains(
    pod: PodFacts,
    nodes: Sequence[NodeState],
    guarded: Iterable[tuple[NodeState, PodFacts]],
    namespace_labels: Mapping[str, Mapping[str, str]],
) -> Domains:
    """Return the counts for ``pod``. ``guarded`` are the running pods with anti-affinity, and their nodes."""
    near = tuple(_count(t, nodes, namespace_labels) for t in pod.affinity)
    alone = not any(near) and all(t.matches(pod, namespace_labels) for t in pod.affinity)
    keeps_away = frozenset(
        (term.topology, node.labels[term.topology])
        for node, other in guarded
        for term in other.anti_affinity
        if term.topology in node.labels and term.matches(pod, namespace_labels)
    )
    return Domains(
        near=near,
        near_self=tuple(alone for _ in near),
        apart=tuple(_count(t, nodes, namespace_labels) for t in pod.anti_affinity),
        keeps_away=keeps_away,
        spread=tuple(count_spread(pod, c, nodes) for c in pod.spreads if c.hard),
    )


def _count(
    term: PodTerm, nodes: Sequence[NodeState], namespace_labels: Mapping[str, Mapping[str, str]]
) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in nodes:
        domain = node.labels.get(term.topology)
        if domain is not None:
            found = sum(term.matches(p, namespace_labels) for p in node.pods.values())
            if found:
                counts[domain] = counts.get(domain, 0) + found
    return counts


def count_spread(pod: PodFacts, constraint: Spread, nodes: Sequence[NodeState]) -> dict[str, int]:
    """Return the matching pods of each domain that counts (nodeAffinityPolicy, nodeTaintsPolicy)."""
    keys = [c.topology for c in pod.spreads if c.hard == constraint.hard]
    counts: dict[str, int] = {}
    for node in nodes:
        if any(k not in node.labels for k in keys):
            continue
        if constraint.honor_affinity and not matches_node_affinity(pod, node):
            continue
        if constraint.honor_taints and untolerated(node.taints, pod.tolerations, ("NoSchedule", "NoExecute")):
            continue
        domain = node.labels[constraint.topology]
        counts[domain] = counts.get(domain, 0) + count_matching(pod, constraint, node)
    return counts


def count_matching(pod: PodFacts, constraint: Spread, node: NodeState) -> int:
    """Return the pods on a node that a spread constraint counts: same namespace, matching, staying."""
    return sum(
        p.namespace == pod.namespace and not p.deleting and constraint.selector.matches(p.labels)
        for p in node.pods.values()
    )


def refuse_together(pod: PodFacts, node: NodeState, domains: Domains) -> str | None:
    """Return why other pods rule the node out; None when they do not."""
    reason = _refuse_spread(pod, node, domains)
    if reason is not None:
        return reason
    for term, near, alone in zip(pod.affinity, domains.near, domains.near_self, strict=True):
        domain = node.labels.get(term.topology)
        # The first pod of a group that wants to be together may go anywhere.
        if domain is None or not (near.get(domain) or alone):
            return NEAR
    for term, apart in zip(pod.anti_affinity, domains.apart, strict=True):
        if apart.get(node.labels.get(term.topology, "")):
            return APART
    if any((key, domain) in domains.keeps_away for key, domain in node.labels.items()):
        return APART_FROM
    return None


def _refuse_spread(pod: PodFacts, node: NodeState, domains: Domains) -> str | None:
    hard = [c for c in pod.spreads if c.hard]
    for constraint, counts in zip(hard, domains.spread, strict=True):
        domain = node.labels.get(constraint.topology)
        if domain is None:
            return SPREAD_LABEL
        lowest = min(counts.values(), default=0)
        if len(counts) < constraint.min_domains:
            lowest = 0
        own = constraint.selector.matches(pod.labels)
        if counts.get(domain, 0) + own - lowest > constraint.max_skew:
            return SPREAD
    return None
