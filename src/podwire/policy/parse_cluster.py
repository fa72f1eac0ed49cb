"""Read ClusterNetworkPolicy (v1alpha2), AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1) from JSON.

A rule with a peer, a port or an action that is not known here fails closed, as the API asks of its readers: an
Accept rule then matches nothing; a Deny or a Pass rule becomes "deny all". The rest of the policy stands.
Source: https://network-policy-api.sigs.k8s.io/api-overview/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from podwire.model.errors import Problem
from podwire.model.objects import Key, describe, key_of
from podwire.policy.parse import Wrong, network, noting, number, selector, sequence
from podwire.policy.rules import (
    LAST_PORT,
    PROTOCOLS,
    Action,
    BlockPeer,
    DomainPeer,
    NamedPort,
    NodePeer,
    Peer,
    PodPeer,
    Policy,
    Port,
    PortRange,
    Rule,
    Tier,
)

_ACTIONS: Mapping[str, Action] = {"Accept": "Accept", "Allow": "Accept", "Deny": "Deny", "Pass": "Pass"}
_KNOWN_PEERS = {
    "from": frozenset(("namespaces", "pods")),
    "to": frozenset(("namespaces", "pods", "nodes", "networks", "domainNames")),
}
_LAST_PRIORITY = 1000
_FIRST: tuple[Tier, int] = ("Admin", 0)
# The older baseline is one object without a priority: it comes after every ClusterNetworkPolicy of its tier.
_OLD_BASELINE_PRIORITY = _LAST_PRIORITY + 1


def parse_cluster_policy(obj: Mapping[str, Any]) -> Policy | tuple[Problem, ...]:
    """Return a cluster-wide policy, or its problems. An unknown part of one rule is no problem: see the rule's why."""
    kind, spec = obj.get("kind", ""), obj.get("spec") or {}
    wrong: list[Wrong] = []
    place, subject = _FIRST, PodPeer()
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    with noting(wrong):
        place = _place(kind, spec)
    with noting(wrong):
        subject = _pods(spec.get("subject"), "spec.subject")
    with noting(wrong):
        ingress = _rules(spec, "ingress")
    with noting(wrong):
        egress = _rules(spec, "egress")
    if wrong:
        return tuple(Problem(describe(obj), w.path, w.why) for w in wrong)
    return Policy(kind, Key("", key_of(obj).name), place[0], subject, ingress, egress, priority=place[1])


def close_cluster_policy(obj: Mapping[str, Any], problems: tuple[Problem, ...]) -> Policy:
    """Return what stands in for a policy that cannot be read.

    Where its subject is unknown it may mean every pod. Its Accept rules are gone; if it has any other rule, or
    rules that cannot be read, it denies all in that direction.
    """
    kind, spec = obj.get("kind", ""), obj.get("spec") or {}
    place, subject = _FIRST, PodPeer()
    with suppress(Wrong):
        place = _place(kind, spec)
    with suppress(Wrong):
        subject = _pods(spec.get("subject"), "spec.subject")
    ingress, egress = (_closed(spec, d, str(problems[0])) for d in ("ingress", "egress"))
    name = Key("", key_of(obj).name)
    return Policy(kind, name, place[0], subject, ingress, egress, priority=place[1], problems=problems)


def _closed(spec: Mapping[str, Any], direction: str, why: str) -> tuple[Rule, ...]:
    rules = spec.get(direction) or ()
    if isinstance(rules, list | tuple) and all(
        isinstance(r, Mapping) and _ACTIONS.get(r.get("action", "")) == "Accept" for r in rules
    ):
        return ()
    return (Rule(f"spec.{direction}", "Deny", why=why),)


def _place(kind: str, spec: Mapping[str, Any]) -> tuple[Tier, int]:
    """Return the tier, and the priority within it."""
    if kind == "BaselineAdminNetworkPolicy":
        return "Baseline", _OLD_BASELINE_PRIORITY
    tier = spec.get("tier") if kind == "ClusterNetworkPolicy" else "Admin"
    if tier not in ("Admin", "Baseline"):
        raise Wrong("spec.tier", f"{tier!r} is neither Admin nor Baseline")
    priority = spec.get("priority")
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= _LAST_PRIORITY:
        raise Wrong("spec.priority", f"{priority!r} is not a number from 0 to {_LAST_PRIORITY}")
    return tier, priority  # type: ignore[return-value]


def _rules(spec: Mapping[str, Any], direction: str) -> tuple[Rule, ...]:
    found = []
    for n, rule in enumerate(sequence(spec, direction, "spec")):
        path = f"spec.{direction}[{n}]"
        if not isinstance(rule, Mapping):
            raise Wrong(path, "must be an object")
        found.append(_rule(rule, path, "from" if direction == "ingress" else "to"))
    return tuple(found)


def _rule(rule: Mapping[str, Any], path: str, side: str) -> Rule:
    """Return one rule; one that holds something unknown fails closed."""
    name, action = str(rule.get("name") or ""), _ACTIONS.get(rule.get("action", ""))
    try:
        if action is None:
            raise Wrong(f"{path}.action", f"{rule.get('action')!r} is not an action")
        unknown = sorted(set(rule) - {"name", "action", side, "protocols", "ports"})
        if unknown:
            raise Wrong(f"{path}.{unknown[0]}", "unknown field")
        entries = sequence(rule, side, path)
        if not entries:
            raise Wrong(f"{path}.{side}", "must name at least one peer")
        peers = tuple(p for n, e in enumerate(entries) for p in _peers(e, f"{path}.{side}[{n}]", _KNOWN_PEERS[side]))
        if action != "Accept" and any(isinstance(p, DomainPeer) for p in peers):
            raise Wrong(f"{path}.{side}", f"domainNames cannot be used with {action}")
        return Rule(path, action, peers, _ports(rule, path), name)
    except Wrong as w:
        if action == "Accept":
            return Rule(path, "Accept", (), (), name, f"{w}; the rule matches nothing")
        return Rule(path, "Deny", None, None, name, f"{w}; the rule denies all")


def _peers(peer: Any, path: str, known: frozenset[str]) -> Iterator[Peer]:
    if not isinstance(peer, Mapping) or len(peer) != 1:
        raise Wrong(path, "exactly one field must be set")
    ((field, value),) = peer.items()
    if field not in known:
        raise Wrong(f"{path}.{field}", "unknown kind of peer")
    match field:
        case "namespaces" | "pods":
            yield _pods(peer, path)
        case "nodes":
            yield NodePeer(selector(_required(value, f"{path}.nodes"), f"{path}.nodes"), path)
        case "networks":
            for n, text in enumerate(_some(peer, field, path)):
                yield BlockPeer(network(text, f"{path}.networks[{n}]"), path=f"{path}.networks[{n}]")
        case _:
            for n, text in enumerate(_some(peer, field, path)):
                yield DomainPeer(str(text), f"{path}.domainNames[{n}]")


def _pods(holder: Any, path: str) -> PodPeer:
    """Return a subject or a peer that is ``namespaces`` or ``pods``."""
    if not isinstance(holder, Mapping) or len(holder) != 1:
        raise Wrong(path, "exactly one of namespaces and pods must be set")
    if "namespaces" in holder:
        value = _required(holder["namespaces"], f"{path}.namespaces")
        return PodPeer(None, selector(value, f"{path}.namespaces"), path=path)
    if "pods" not in holder:
        raise Wrong(f"{path}.{next(iter(holder))}", "unknown field")
    pods = _required(holder["pods"], f"{path}.pods")
    unknown = sorted(set(pods) - {"namespaceSelector", "podSelector"})
    if unknown:
        raise Wrong(f"{path}.pods.{unknown[0]}", "unknown field")
    return PodPeer(
        None,
        selector(pods.get("namespaceSelector"), f"{path}.pods.namespaceSelector"),
        selector(pods.get("podSelector"), f"{path}.pods.podSelector"),
        path,
    )


def _ports(rule: Mapping[str, Any], path: str) -> tuple[Port, ...] | None:
    """Return the ports of ``protocols`` (v1alpha2) or ``ports`` (v1alpha1); None when neither is set."""
    new, old = sequence(rule, "protocols", path), sequence(rule, "ports", path)
    found = [_protocol(e, f"{path}.protocols[{n}]") for n, e in enumerate(new)]
    found += [_port(e, f"{path}.ports[{n}]") for n, e in enumerate(old)]
    return tuple(found) if found else None


def _protocol(entry: Any, path: str) -> Port:
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise Wrong(path, "exactly one field must be set")
    ((field, value),) = entry.items()
    if field == "destinationNamedPort":
        return NamedPort(_name(value, f"{path}.{field}"))
    if field not in ("tcp", "udp", "sctp"):
        raise Wrong(f"{path}.{field}", "unknown protocol")
    where = f"{path}.{field}"
    if not isinstance(value, Mapping) or set(value) != {"destinationPort"}:
        raise Wrong(where, "exactly destinationPort must be set")
    port, where = value["destinationPort"], f"{where}.destinationPort"
    if not isinstance(port, Mapping) or len(port) != 1:
        raise Wrong(where, "exactly one of number and range must be set")
    if "number" in port:
        single = number(port["number"], f"{where}.number")
        return PortRange(field.upper(), single, single)
    return _range(field.upper(), port.get("range"), f"{where}.range")


def _port(entry: Any, path: str) -> Port:
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise Wrong(path, "exactly one field must be set")
    ((field, value),) = entry.items()
    where = f"{path}.{field}"
    if field == "namedPort":
        return NamedPort(_name(value, where))
    if field not in ("portNumber", "portRange") or not isinstance(value, Mapping):
        raise Wrong(where, "unknown kind of port")
    protocol = value.get("protocol") or "TCP"
    if protocol not in PROTOCOLS:
        raise Wrong(f"{where}.protocol", f"{protocol!r} is not TCP, UDP or SCTP")
    if field == "portNumber":
        single = number(value.get("port"), f"{where}.port")
        return PortRange(protocol, single, single)
    return _range(protocol, value, where)


def _range(protocol: str, value: Any, path: str) -> PortRange:
    if not isinstance(value, Mapping):
        raise Wrong(path, "must have start and end")
    first, last = number(value.get("start"), f"{path}.start"), number(value.get("end"), f"{path}.end")
    if not 0 < first <= last <= LAST_PORT:
        raise Wrong(path, f"start {first} is above end {last}")
    return PortRange(protocol, first, last)


def _name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not value:
        raise Wrong(path, "must be the name of a container port")
    return value


def _required(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Wrong(path, "must be an object")
    return value


def _some(peer: Mapping[str, Any], field: str, path: str) -> list[Any]:
    entries = list(sequence(peer, field, path))
    if not entries:
        raise Wrong(f"{path}.{field}", "must have at least one entry")
    return entries
