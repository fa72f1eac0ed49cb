"""Rules on the whole: what no policy covers, what is said twice, what the plugin would not enforce."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from podwire.policy.parse import POLICY_KINDS, parse_policy
from podwire.policy.rules import Peer, Policy
from podwire.policy.rules import Rule as OrderedRule
from podwire.verify.lint.finding import POLICIES, Finding, Rule
from podwire.verify.located import Located, ObjectKey
from podwire.verify.rawpolicy import DIRECTIONS, WrittenRule, policy_types, rules_of, selector_of
from podwire.verify.sources import of_kind
from podwire.verify.world import World

REDUNDANT = Rule("PW007", "rule-redundant", "note", "Another rule allows all that this rule allows", POLICIES)
NO_DEFAULT_DENY = Rule("PW011", "default-deny-missing", "note",
    "A namespace has policies, but pods that none of them covers stay open",
    f"{POLICIES}#default-policies")  # fmt: skip
NOT_ENFORCED = Rule(
    "PW013",
    "plugin-enforces-none",
    "error",
    "The network plugin enforces no NetworkPolicy",
    f"{POLICIES}#prerequisites",
)
TIE = Rule("PW014", "priority-tie", "warning",
    "Two cluster-wide policies have the same priority: their order is not defined",
    "https://network-policy-api.sigs.k8s.io/api-overview/")  # fmt: skip

SHADOWED = Rule("PW009", "rule-shadowed", "warning",
    "A cluster-wide rule never decides: an earlier rule of its policy speaks of all that it speaks of",
    "https://network-policy-api.sigs.k8s.io/api-overview/")  # fmt: skip

RULES = (SHADOWED, REDUNDANT, NO_DEFAULT_DENY, NOT_ENFORCED, TIE)


def check(world: World) -> Iterator[Finding]:
    """Yield what these rules find."""
    yield from _redundant(world)
    yield from _open_pods(world)
    if not world.enforces:
        for policy in world.policies:
            why = f"{world.plugin} enforces no NetworkPolicy: this object has no effect"
            yield Finding(NOT_ENFORCED, policy, "spec", why, "use a plugin that does (podwire, Calico, Cilium, ...)")
    yield from _ties(world)
    yield from _shadowed(world)


def _open_pods(world: World) -> Iterator[Finding]:
    for namespace in sorted({p.key.namespace for p in world.policies}):
        policies = [p for p in world.policies if p.key.namespace == namespace]
        for direction in DIRECTIONS:
            covering = [p for p in policies if direction in policy_types(p)]
            if any(not (p.object.get("spec") or {}).get("podSelector") for p in covering):
                continue
            covered = {t.key for p in covering for t in world.targets(p)}
            pods = [p for p in world.pods if p.key.namespace == namespace and not p.assumed]
            left = sorted({p.workload for p in pods if p.key not in covered})
            if direction == "egress" and not covering:
                continue  # a namespace that never meant to hold egress
            if not left and not pods:
                left = ["pods that come later"]
            if left:
                shown = ", ".join(left[:3]) + (" ..." if len(left) > 3 else "")
                name = f"default-deny-{direction}"
                yield Finding(
                    NO_DEFAULT_DENY, policies[0], "metadata.namespace",
                    f"namespace {namespace}: no policy isolates {shown} for {direction}",
                    f"add {name} to {namespace}: podSelector: {{}}, policyTypes: [{direction.capitalize()}]",
                )  # fmt: skip


def _redundant(world: World) -> Iterator[Finding]:
    """Yield rules that another rule for the same or more pods makes superfluous, judged by what is written."""
    groups: dict[tuple[str, str], list[WrittenRule]] = {}
    for policy in world.policies:
        for rule in rules_of(policy):
            if rule.direction in policy_types(policy):
                groups.setdefault((policy.key.namespace, rule.direction), []).append(rule)
    for rules in groups.values():
        for index, rule in enumerate(rules):
            for other_index, other in enumerate(rules):
                if index != other_index and _covers(other, rule) and not (_covers(rule, other) and index < other_index):
                    place = other.path if other.located is rule.located else f"{other.located.key} {other.path}"
                    yield Finding(
                        REDUNDANT, rule.located, rule.path,
                        f"{place} allows all of this already ({other.located.place(other.path)})",
                        "delete this rule, or narrow the other",
                    )  # fmt: skip
                    break


def _covers(wide: WrittenRule, narrow: WrittenRule) -> bool:
    """Return whether everything that ``narrow`` allows, ``wide`` allows, for at least the same pods."""
    return (
        _covers_targets(wide.located, narrow.located)
        and (wide.ports is None or (narrow.ports is not None and all(_port_in(p, wide.ports) for p in narrow.ports)))
        and (wide.peers is None or (narrow.peers is not None and all(p in wide.peers for p in narrow.peers)))
    )


def _covers_targets(wide: Located, narrow: Located) -> bool:
    if wide is narrow:
        return True
    ours = selector_of((wide.object.get("spec") or {}).get("podSelector"))
    theirs = selector_of((narrow.object.get("spec") or {}).get("podSelector"))
    return ours is not None and theirs is not None and set(ours.requirements) <= set(theirs.requirements)


def _port_in(port: Mapping[str, Any], ports: Sequence[Mapping[str, Any]]) -> bool:
    protocol = port.get("protocol") or "TCP"
    low = port.get("port")
    high = port.get("endPort") or low
    for other in ports:
        if (other.get("protocol") or "TCP") != protocol:
            continue
        start = other.get("port")
        if start is None or start == low == high:
            return True
        if not (isinstance(start, int) and isinstance(low, int) and isinstance(high, int)):
            continue
        if start <= low and high <= (other.get("endPort") or start):
            return True
    return False


def _ties(world: World) -> Iterator[Finding]:
    seen: dict[tuple[str, str, object], ObjectKey] = {}
    for policy in of_kind(world.objects, "ClusterNetworkPolicy", "AdminNetworkPolicy"):
        spec = policy.object.get("spec") or {}
        rank = (policy.key.kind, str(spec.get("tier") or "Admin"), spec.get("priority"))
        other = seen.setdefault(rank, policy.key)
        if other != policy.key:
            why = f"{other} has priority {spec.get('priority')} in the same tier, too"
            yield Finding(TIE, policy, "spec.priority", why, "give each policy a priority of its own")


def _shadowed(world: World) -> Iterator[Finding]:
    """Yield rules of ordered policies behind a rule that matches everything they match."""
    for located in of_kind(world.objects, *POLICY_KINDS):
        policy = parse_policy(located.object)
        if not isinstance(policy, Policy) or policy.kind == "NetworkPolicy":
            continue
        for rules in (policy.ingress, policy.egress):
            for index, rule in enumerate(rules):
                before = next((r for r in rules[:index] if _speaks_of_all(r, rule)), None)
                if before is not None:
                    why = f"{before.path} ({before.action}) decides all of it first ({located.place(before.path)})"
                    yield Finding(SHADOWED, located, rule.path, why, "put the narrower rule first, or delete it")


def _speaks_of_all(wide: OrderedRule, narrow: OrderedRule) -> bool:
    peers = wide.peers is None or (narrow.peers is not None and _bare(narrow.peers) <= _bare(wide.peers))
    return peers and (wide.ports is None or (narrow.ports is not None and set(narrow.ports) <= set(wide.ports)))


def _bare(peers: Sequence[Peer]) -> set[Peer]:
    """Return peers without the place where they were written."""
    return {replace(peer, path="") for peer in peers}
