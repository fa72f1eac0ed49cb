"""Find the smallest change of policies that lets a denied connection pass, and prove it on the model. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from podwire.model.objects import Obj
from podwire.policy.evaluate import Decision, Packet, judge, peer_is, port_is, selects
from podwire.policy.parse import read_policy
from podwire.policy.rules import DIRECTIONS, Policy, Rule
from podwire.policy.snapshot import Endpoint, PolicySnapshot
from podwire.verify.answer import Fix
from podwire.verify.judge import source_of
from podwire.verify.located import Located, field_of
from podwire.verify.names import outside_address
from podwire.verify.rawpolicy import METADATA_NAME
from podwire.verify.world import World

_PASSING_LABELS = frozenset({
    "pod-template-hash", "controller-revision-hash", "pod-template-generation", "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name",
    "controller-uid", "job-name",
})  # fmt: skip
_TELLING = (
    "app.kubernetes.io/name",
    "app",
    "k8s-app",
    "name",
    "run",
    "component",
    "app.kubernetes.io/component",
    "tier",
    "role",
)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One changed policy. ``path``: where the snippet goes."""

    located: Located
    changed: Obj
    path: str
    text: str
    snippet: Any


def fixes(world: World, packet: Packet, snapshot: PolicySnapshot | None = None) -> tuple[Fix, ...]:
    """Return one change for each side that denies ``packet``. Each is judged with those before it applied.

    ``snapshot``: what ``about`` returned for the packet, where that is known already.
    """
    snapshot = about(world.snapshot, packet) if snapshot is None else snapshot
    found: list[Fix] = []
    for direction in DIRECTIONS:
        end, other = (packet.src, packet.dst) if direction == "egress" else (packet.dst, packet.src)
        decision = judge(snapshot, direction, end, other, packet)
        if decision.allowed:
            continue
        for candidate in _candidates(world, snapshot, packet, decision):
            changed = _with_policy(snapshot, read_policy(candidate.changed))
            if judge(changed, direction, end, other, packet).allowed:
                place = candidate.located.place(candidate.path)
                found.append(Fix(candidate.text, candidate.snippet, place, proved=True))
                snapshot = changed
                break
        else:
            found.append(_words(world, decision))
    return tuple(found)


def about(snapshot: PolicySnapshot, packet: Packet) -> PolicySnapshot:
    """Return the snapshot with only the policies that speak of the packet's ends: the rest costs time."""
    pods = [end.pod for end in (packet.src, packet.dst) if end.pod is not None]
    policies = {
        (p.kind, p.key): p
        for pod in pods
        for p in snapshot.policies_about(pod.key.namespace)
        if selects(snapshot, p.subject, pod)
    }
    return replace(snapshot, policies=tuple(policies.values()))


def _with_policy(snapshot: PolicySnapshot, new: Policy) -> PolicySnapshot:
    kept = [p for p in snapshot.policies if (p.kind, p.key) != (new.kind, new.key)]
    return replace(snapshot, policies=(*kept, new))


def _words(world: World, decision: Decision) -> Fix:
    """Return advice where no small change was found to do."""
    policy = decision.policy or (decision.isolating[0] if decision.isolating else None)
    if policy is not None and policy.problems:
        problem = policy.problems[0]
        located = source_of(world, policy)
        place = located.place(problem.field) if located else None
        return Fix(f"{policy} cannot be read: {problem.field}: {problem.why}", place=place)
    return Fix(f"change what decided: {decision.reason}")


def _candidates(world: World, snapshot: PolicySnapshot, packet: Packet, decision: Decision) -> Iterator[_Candidate]:
    """Yield changes, the smallest first: one port more, one peer more, one rule more."""
    if decision.policy is not None:
        yield from _before(world, packet, decision, decision.policy)
        return
    readable = [(p, s) for p in decision.isolating if not p.problems and (s := source_of(world, p)) is not None]
    # A policy about few pods before one about many, and one with rules before one that only denies.
    readable.sort(key=lambda pair: (not pair[0].rules(decision.direction), -len(pair[0].subject.pods.requirements)))
    for policy, located in readable:
        for rule in policy.rules(decision.direction):
            yield from _extended(world, snapshot, packet, decision, located, rule)
    for policy, located in readable:
        yield _added(world, packet, decision, located, policy)


def _sides(decision: Decision, packet: Packet) -> tuple[Endpoint, Endpoint, str]:
    """Return the pod whose policy speaks, the other end, and the name of the peers' field."""
    if decision.direction == "ingress":
        return packet.dst, packet.src, "from"
    return packet.src, packet.dst, "to"


def _extended(
    world: World, snapshot: PolicySnapshot, packet: Packet, decision: Decision, located: Located, rule: Rule
) -> Iterator[_Candidate]:
    own, other, side = _sides(decision, packet)
    peers_fit = rule.peers is None or any(peer_is(snapshot, p, other) for p in rule.peers)
    ports_fit = rule.ports is None or any(port_is(p, packet) for p in rule.ports)
    policy = located.key
    if peers_fit and not ports_fit and packet.protocol != "ICMP":
        path, entries = f"{rule.path}.ports", _ports(packet)
        yield _Candidate(located, _appended(located.object, path, *entries), path, f"add to {policy} {path}:", entries)
    elif ports_fit and not peers_fit:
        path, entry = f"{rule.path}.{side}", _peer(world, own, other)
        yield _Candidate(located, _appended(located.object, path, entry), path, f"add to {policy} {path}:", [entry])


def _added(world: World, packet: Packet, decision: Decision, located: Located, policy: Policy) -> _Candidate:
    own, other, side = _sides(decision, packet)
    rule: Obj = {side: [_peer(world, own, other)]}
    if packet.protocol != "ICMP":
        rule["ports"] = _ports(packet)
    path = f"spec.{decision.direction}"
    if policy.rules(decision.direction):
        changed = _appended(located.object, path, rule)
        return _Candidate(located, changed, path, f"add to {located.key} {path}:", [rule])
    # A policy that only denies stays as it is: a new one beside it says what is allowed.
    assert own.pod is not None
    key = own.pod.key
    new = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": _new_name(world, own, other, decision.direction), "namespace": key.namespace},
        "spec": {
            "podSelector": {"matchLabels": telling_labels(own.pod.labels)},
            "policyTypes": [decision.direction.capitalize()],
            decision.direction: [rule],
        },
    }
    text = f"create a NetworkPolicy beside {located.key}:"
    return _Candidate(located, new, path, text, new)


def _new_name(world: World, own: Endpoint, other: Endpoint, direction: str) -> str:
    def name(end: Endpoint) -> str:
        view = world.by_pod.get(end.pod.key) if end.pod is not None else None
        return view.owner.name if view is not None else "outside"

    return f"{name(own)}-{'from' if direction == 'ingress' else 'to'}-{name(other)}"


def _before(world: World, packet: Packet, decision: Decision, policy: Policy) -> Iterator[_Candidate]:
    """Yield an Accept rule in front of the cluster-wide rule that denies."""
    located = source_of(world, policy)
    rule = decision.rule
    if located is None or rule is None or not rule.path.endswith("]"):
        return
    _, other, side = _sides(decision, packet)
    old_style = policy.kind in ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy")
    peer = _cluster_peer(world, other)
    if peer is None:
        return
    accept: Obj = {"name": "allow-this", "action": "Allow" if old_style else "Accept", side: [peer]}
    if old_style:
        accept["ports"] = [{"portNumber": {"port": packet.port, "protocol": packet.protocol}}]
    else:
        accept["protocols"] = [{packet.protocol.lower(): {"destinationPort": {"number": packet.port}}}]
    holder, _, index = rule.path.rpartition("[")
    changed = copy.deepcopy(located.object)
    field_of(changed, holder).insert(int(index[:-1]), accept)
    yield _Candidate(located, changed, rule.path, f"put before {located.key} {rule.path}:", [accept])


def _cluster_peer(world: World, other: Endpoint) -> Obj | None:
    if other.pod is None:
        if other.ip is None:
            return None
        return {"networks": [f"{other.ip}/{other.ip.max_prefixlen}"]}
    namespace = {"matchLabels": {METADATA_NAME: other.pod.key.namespace}}
    return {"pods": {"namespaceSelector": namespace, "podSelector": _matching(other.pod.labels)}}


def _peer(world: World, own: Endpoint, other: Endpoint) -> Obj:
    """Return the other end as a peer in a policy of ``own``'s namespace."""
    if other.pod is None:
        if other.ip is None or str(other.ip) == outside_address(world):
            return {"ipBlock": {"cidr": "0.0.0.0/0"}}
        return {"ipBlock": {"cidr": f"{other.ip}/{other.ip.max_prefixlen}"}}
    peer: Obj = {"podSelector": _matching(other.pod.labels)}
    if own.pod is None or own.pod.key.namespace != other.pod.key.namespace:
        peer = {"namespaceSelector": {"matchLabels": {METADATA_NAME: other.pod.key.namespace}}, **peer}
    return peer


def _matching(labels: Mapping[str, str]) -> Obj:
    telling = telling_labels(labels)
    return {"matchLabels": telling} if telling else {}


def telling_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that name a pod's job: the first of the usual ones, else all that stay as they are."""
    for key in _TELLING:
        if key in labels:
            return {key: labels[key]}
    return {k: v for k, v in labels.items() if k not in _PASSING_LABELS}


def _ports(packet: Packet) -> list[Obj]:
    """Return the packet's port as a rule lists it. DNS is one service on two protocols: half of it fails later."""
    protocols = ("UDP", "TCP") if packet.port == 53 else (packet.protocol,)
    return [{"protocol": protocol, "port": packet.port} for protocol in protocols]


def _appended(obj: Obj, path: str, *entries: Any) -> Obj:
    """Return a copy of ``obj`` with ``entries`` at the end of the list at ``path``, made where it is missing."""
    changed = copy.deepcopy(obj)
    holder, _, name = path.rpartition(".")
    owner = field_of(changed, holder)
    owner[name] = [*(owner.get(name) or ()), *entries]
    return changed
