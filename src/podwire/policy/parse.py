"""Read NetworkPolicy (networking.k8s.io/v1) from JSON; send the cluster-wide kinds to ``parse_cluster``.

Missing, null and empty lists of peers and ports all mean "no restriction"; a missing ``ingress`` or ``egress``
list means "no rule". What cannot be read is a Problem with its field path, never a guess.
Source: https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from typing import Any

from podwire.model.errors import Problem
from podwire.model.objects import describe, key_of
from podwire.model.selectors import EVERYTHING, Selector, from_label_selector
from podwire.policy.rules import (
    LAST_PORT,
    PROTOCOLS,
    BlockPeer,
    Direction,
    IPNetwork,
    NamedPort,
    Peer,
    PodPeer,
    Policy,
    Port,
    PortRange,
    Rule,
)

BOTH: frozenset[Direction] = frozenset(("ingress", "egress"))
POLICY_KINDS = ("NetworkPolicy", "ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy")


class Wrong(ValueError):
    """One field that cannot be used: its path, and why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


def parse_policy(obj: Mapping[str, Any]) -> Policy | tuple[Problem, ...]:
    """Return the policy that ``obj`` is, or what is wrong with it (every field, not only the first)."""
    from podwire.policy.parse_cluster import parse_cluster_policy

    if obj.get("kind", "NetworkPolicy") == "NetworkPolicy":
        return parse_network_policy(obj)
    return parse_cluster_policy(obj)


def read_policy(obj: Mapping[str, Any]) -> Policy:
    """Return the policy; one that cannot be read denies all to the pods it may select, and carries its problems."""
    from podwire.policy.parse_cluster import close_cluster_policy

    parsed = parse_policy(obj)
    if isinstance(parsed, Policy):
        return parsed
    if obj.get("kind", "NetworkPolicy") == "NetworkPolicy":
        return _close(obj, parsed)
    return close_cluster_policy(obj, parsed)


def parse_network_policy(obj: Mapping[str, Any]) -> Policy | tuple[Problem, ...]:
    """Return a NetworkPolicy, or its problems."""
    key, spec = key_of(obj), obj.get("spec") or {}
    wrong: list[Wrong] = []
    pods, isolates = EVERYTHING, BOTH
    with noting(wrong):
        # podSelector {} and a missing one both select every pod of the namespace.
        pods = selector(spec.get("podSelector"), "spec.podSelector")
    ingress = tuple(_rules(wrong, spec, "ingress", "from", key.namespace))
    egress = tuple(_rules(wrong, spec, "egress", "to", key.namespace))
    with noting(wrong):
        isolates = _isolates(spec)
    if wrong:
        return tuple(Problem(describe(obj), w.path, w.why) for w in wrong)
    subject = PodPeer(key.namespace, pods=pods, path="spec.podSelector")
    return Policy("NetworkPolicy", key, "NetworkPolicy", subject, ingress, egress, isolates)


def _close(obj: Mapping[str, Any], problems: tuple[Problem, ...]) -> Policy:
    """Return what stands in for a policy that cannot be read: no rules, so that its pods are cut off.

    Its selector and directions hold where they can be read; otherwise all pods of the namespace and both.
    """
    key, spec = key_of(obj), obj.get("spec") or {}
    pods, isolates = EVERYTHING, BOTH
    with suppress(Wrong):
        pods = selector(spec.get("podSelector"), "spec.podSelector")
    with suppress(Wrong):
        isolates = _isolates(spec)
    subject = PodPeer(key.namespace, pods=pods, path="spec.podSelector")
    return Policy("NetworkPolicy", key, "NetworkPolicy", subject, isolates=isolates, problems=problems)


def _isolates(spec: Mapping[str, Any]) -> frozenset[Direction]:
    """Return the directions. Without policyTypes: ingress always, egress when there are egress rules."""
    types = sequence(spec, "policyTypes", "spec")
    if not types:
        return BOTH if spec.get("egress") else frozenset(("ingress",))
    found: set[Direction] = set()
    for n, name in enumerate(types):
        if name not in ("Ingress", "Egress"):
            raise Wrong(f"spec.policyTypes[{n}]", f"{name!r} is neither Ingress nor Egress")
        found.add("ingress" if name == "Ingress" else "egress")
    return frozenset(found)


def _rules(wrong: list[Wrong], spec: Mapping[str, Any], field: str, side: str, namespace: str) -> Iterator[Rule]:
    entries: Sequence[Any] = ()
    with noting(wrong):
        entries = sequence(spec, field, "spec")
    for n, rule in enumerate(entries):
        path = f"spec.{field}[{n}]"
        with noting(wrong):
            if not isinstance(rule, Mapping):
                raise Wrong(path, "must be an object")
            yield _rule(wrong, rule, path, side, namespace)


def _rule(wrong: list[Wrong], rule: Mapping[str, Any], path: str, side: str, namespace: str) -> Rule:
    """Return a rule. Null, missing and empty lists of peers or ports restrict nothing."""
    unknown = sorted(set(rule) - {side, "ports"})
    if unknown:
        raise Wrong(f"{path}.{unknown[0]}", "unknown field")
    peers: list[Peer] = []
    entries = sequence(rule, side, path)
    for n, entry in enumerate(entries):
        with noting(wrong):
            peers.append(_peer(entry, f"{path}.{side}[{n}]", namespace))
    ports: list[Port] = []
    listed = sequence(rule, "ports", path)
    for n, entry in enumerate(listed):
        with noting(wrong):
            ports.append(_port(entry, f"{path}.ports[{n}]"))
    return Rule(path, "Accept", tuple(peers) if entries else None, tuple(ports) if listed else None)


def _peer(peer: Any, path: str, namespace: str) -> Peer:
    if not isinstance(peer, Mapping):
        raise Wrong(path, "must be an object")
    unknown = sorted(set(peer) - {"podSelector", "namespaceSelector", "ipBlock"})
    if unknown:
        raise Wrong(f"{path}.{unknown[0]}", "unknown field")
    given = [k for k in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(k) is not None]
    if not given:
        raise Wrong(path, "an empty peer: name a podSelector, a namespaceSelector or an ipBlock")
    if "ipBlock" in given:
        if len(given) > 1:
            raise Wrong(path, f"ipBlock cannot stand beside {given[0]}")
        return _block(peer["ipBlock"], path)
    pods = selector(peer.get("podSelector"), f"{path}.podSelector")
    if "namespaceSelector" not in given:
        return PodPeer(namespace, pods=pods, path=path)
    return PodPeer(None, selector(peer["namespaceSelector"], f"{path}.namespaceSelector"), pods, path)


def _block(block: Any, path: str) -> BlockPeer:
    if not isinstance(block, Mapping) or not block.get("cidr"):
        raise Wrong(f"{path}.ipBlock.cidr", "is required")
    cidr = network(block["cidr"], f"{path}.ipBlock.cidr")
    excepts = []
    for n, text in enumerate(sequence(block, "except", f"{path}.ipBlock")):
        inner = network(text, f"{path}.ipBlock.except[{n}]")
        # A strict subset, as the API server demands; the same length would leave nothing.
        if inner.version != cidr.version or not inner.subnet_of(cidr) or inner == cidr:  # type: ignore[arg-type]
            raise Wrong(f"{path}.ipBlock.except[{n}]", f"{inner} is not a strict part of {cidr}")
        excepts.append(inner)
    return BlockPeer(cidr, tuple(excepts), path)


def _port(entry: Any, path: str) -> Port:
    if not isinstance(entry, Mapping):
        raise Wrong(path, "must be an object")
    protocol = entry.get("protocol") or "TCP"
    if protocol not in PROTOCOLS:
        raise Wrong(f"{path}.protocol", f"{protocol!r} is not TCP, UDP or SCTP")
    port, end = entry.get("port"), entry.get("endPort")
    if port is None:
        if end is not None:
            raise Wrong(f"{path}.endPort", "needs a port")
        return PortRange(protocol, 0, LAST_PORT)
    if isinstance(port, str):
        if end is not None:
            raise Wrong(f"{path}.endPort", "cannot stand beside a named port")
        return NamedPort(port, protocol)
    first = number(port, f"{path}.port")
    last = first if end is None else number(end, f"{path}.endPort")
    if last < first:
        raise Wrong(f"{path}.endPort", f"{last} is below port {first}")
    return PortRange(protocol, first, last)


@contextmanager
def noting(wrong: list[Wrong]) -> Iterator[None]:
    """Note what is Wrong within, and go on."""
    try:
        yield
    except Wrong as w:
        wrong.append(w)


def sequence(holder: Mapping[str, Any], field: str, path: str) -> Sequence[Any]:
    """Return a list field; missing and null are empty. Raises Wrong when it is not a list."""
    value = holder.get(field)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise Wrong(f"{path}.{field}", "must be a list")
    return value


def selector(value: Any, path: str) -> Selector:
    """Return a label selector; missing and null select everything. Raises Wrong."""
    if value is None:
        return EVERYTHING
    if not isinstance(value, Mapping):
        raise Wrong(path, "must be a label selector")
    unknown = sorted(set(value) - {"matchLabels", "matchExpressions"})
    if unknown:
        raise Wrong(f"{path}.{unknown[0]}", "unknown field of a label selector")
    try:
        return from_label_selector(value)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise Wrong(path, f"not a label selector: {e}") from None


def network(value: Any, path: str) -> IPNetwork:
    """Return a CIDR, host bits cleared as the kernel does. Raises Wrong."""
    try:
        if not isinstance(value, str) or "/" not in value:
            raise ValueError(f"{value!r} is not a CIDR")
        return ip_network(value, strict=False)
    except ValueError as e:
        raise Wrong(path, str(e)) from None


def number(value: Any, path: str) -> int:
    """Return a port number. Raises Wrong."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LAST_PORT:
        raise Wrong(path, f"{value!r} is not a port number (1-65535)")
    return value
