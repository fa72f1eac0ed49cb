"""Policies -> chains of rules, one chain a policy and direction. Pure.

A chain accepts what its policy allows and otherwise returns, so a pod under several NetworkPolicies runs through
their chains one after the other; the chain of the pod drops what none accepted. Each rule says in its comment
which policy it is and the path of the field that it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from podwire.kernel.nft.port import FilterRule
from podwire.policy.desired import (
    PROTOCOL_NUMBERS,
    AddressSet,
    ChainPlan,
    NodeSet,
    PodSet,
    PodVerdict,
    PortSet,
    list_names,
    short,
    shorten,
)
from podwire.policy.rules import (
    LAST_PORT,
    PROTOCOLS,
    BlockPeer,
    Direction,
    NamedPort,
    NodePeer,
    Peer,
    PodPeer,
    Policy,
    PortRange,
    Rule,
)
from podwire.wire.nffilter import InNetwork, InSet, Match, OfProtocol, ToPort

_VERDICTS = {"Accept": "accept", "Deny": "drop", "Pass": "return"}
_CHAIN_CHARS = 200
_PRODUCT = 32  # above so many rules for one, ports get a chain of their own


@dataclass(frozen=True, slots=True)
class _Part:
    """One way to satisfy half of a rule. ``version`` 0: of any IP version."""

    version: int
    matches: tuple[Match, ...]
    path: str
    sets: tuple[AddressSet, ...] = ()


def policy_chain(policy: Policy, direction: Direction) -> str:
    """Return the name of the chain that holds one direction of a policy, such as ``ingress/default/db``."""
    return _chain_name(direction, policy_id(policy))


def policy_id(policy: Policy) -> str:
    """Return what tells a policy from all others: "ns/name", or "kind/name" for cluster-wide ones."""
    return str(policy.key) if policy.tier == "NetworkPolicy" else f"{policy.kind}/{policy.key.name}"


def _chain_name(direction: str, id: str) -> str:
    name = f"{direction}/{id}"
    return name if len(name) <= _CHAIN_CHARS else f"{name[:_CHAIN_CHARS]}-{short(name)}"


def plan_policy(policy: Policy, direction: Direction, versions: Sequence[int]) -> ChainPlan:
    """Return the chain of one direction of a NetworkPolicy."""
    name = policy_chain(policy, direction)
    return _plan_chain(name, (policy,), direction, versions)


def plan_tier(policies: Sequence[Policy], direction: Direction, versions: Sequence[int], name: str) -> ChainPlan:
    """Return the chain of an ordered tier: Pass returns from it, so its rules stand in this one chain."""
    return _plan_chain(name, policies, direction, versions)


def _plan_chain(name: str, policies: Iterable[Policy], direction: Direction, versions: Sequence[int]) -> ChainPlan:
    rules: list[FilterRule] = []
    sets: set[AddressSet] = set()
    parts: list[ChainPlan] = []
    for policy in policies:
        for rule in policy.rules(direction):
            made, used, extra = _plan_rule(name, policy, rule, direction, versions)
            rules += made
            sets |= used
            parts += extra
    return ChainPlan(name, tuple(rules), frozenset(sets), tuple(parts), 1)


def _plan_rule(
    chain: str, policy: Policy, rule: Rule, direction: Direction, versions: Sequence[int]
) -> tuple[list[FilterRule], set[AddressSet], list[ChainPlan]]:
    peers = list(_peer_parts(rule, "saddr" if direction == "ingress" else "daddr", versions))
    ports = list(_port_parts(rule, versions))
    verdict = _VERDICTS[rule.action]
    label = _label(policy, rule)
    if len(peers) * len(ports) > _PRODUCT and len(peers) > 1 and len(ports) > 1 and verdict != "return":
        inner = f"{_chain_name(chain, rule.path)}.ports"
        named, used = _combine([_Part(0, (), rule.path)], ports, verdict, label)
        outer, more = _combine(peers, [_Part(0, (), "")], f"jump {inner}", label)
        return outer, more, [ChainPlan(inner, tuple(named), frozenset(used))]
    made, used = _combine(peers, ports, verdict, label)
    return made, used, []


def _label(policy: Policy, rule: Rule) -> str:
    name = policy_id(policy)
    return f"{name} ({rule.name})" if rule.name else name


def _combine(
    peers: Sequence[_Part], ports: Sequence[_Part], verdict: str, label: str
) -> tuple[list[FilterRule], set[AddressSet]]:
    rules: list[FilterRule] = []
    sets: set[AddressSet] = set()
    for peer in peers:
        for port in ports:
            if peer.version and port.version and peer.version != port.version:
                continue
            sets.update((*peer.sets, *port.sets))
            comment = shorten(label, f"{peer.path} {port.path}".strip())
            rules.append(FilterRule((*peer.matches, *port.matches), verdict, comment))
    return rules, sets


def _peer_parts(rule: Rule, field: str, versions: Sequence[int]) -> Iterator[_Part]:
    if rule.peers is None:
        yield _Part(0, (), rule.path)
    for peer in rule.peers or ():
        yield from _peer_part(peer, field, versions)


def _peer_part(peer: Peer, field: str, versions: Sequence[int]) -> Iterator[_Part]:
    match peer:
        case PodPeer() | NodePeer():
            wanted: AddressSet = NodeSet(peer.nodes) if isinstance(peer, NodePeer) else PodSet(replace(peer, path=""))
            for v in versions:
                yield _Part(v, (InSet(v, (field,), wanted.name(v)),), peer.path, (wanted,))  # type: ignore[arg-type]
        case BlockPeer():
            outside = tuple(InNetwork(field, e, True) for e in peer.excepts)  # type: ignore[arg-type]
            inside = InNetwork(field, peer.cidr)  # type: ignore[arg-type]
            yield _Part(peer.cidr.version, (inside, *outside), peer.path)
        case _:
            # Names that resolve to addresses are not followed here: such an Accept matches nothing.
            return


def _port_parts(rule: Rule, versions: Sequence[int]) -> Iterator[_Part]:
    if rule.ports is None:
        yield _Part(0, (), "")
    for n, port in enumerate(rule.ports or ()):
        path = f"ports[{n}]"
        if isinstance(port, PortRange):
            protocol = OfProtocol(PROTOCOL_NUMBERS[port.protocol])
            whole = port.first == 0 and port.last == LAST_PORT
            yield _Part(0, (protocol,) if whole else (protocol, ToPort(port.first, port.last)), path)
        else:
            yield from _named_parts(port, path, versions)


def _named_parts(port: NamedPort, path: str, versions: Sequence[int]) -> Iterator[_Part]:
    for protocol in (port.protocol,) if port.protocol else PROTOCOLS:
        wanted = PortSet(port.name, protocol)
        for v in versions:
            lookup = InSet(v, ("daddr", "dport"), wanted.name(v))
            yield _Part(v, (OfProtocol(PROTOCOL_NUMBERS[protocol]), lookup), path, (wanted,))


# --- the chain of a pod


def plan_verdict(verdict: PodVerdict, policies: Mapping[str, Policy], versions: Sequence[int]) -> ChainPlan:
    """Return the chain that every pod with this verdict runs through. Its end is always a verdict."""
    direction = verdict.direction
    rules: list[FilterRule] = []
    parts: list[ChainPlan] = []
    for tier, ids in (("admin", verdict.admin), ("baseline", () if verdict.isolating else verdict.baseline)):
        if not ids:
            continue
        named = f"{direction}-{tier}-{short(','.join(ids))}"
        parts.append(plan_tier([policies[i] for i in ids], direction, versions, named))
    admin = [p.name for p in parts if "-admin-" in p.name]
    baseline = [p.name for p in parts if "-baseline-" in p.name]
    rules += [FilterRule((), f"jump {name}") for name in admin]
    rules += [FilterRule((), f"jump {policy_chain(policies[i], direction)}") for i in verdict.isolating]
    if verdict.isolating:
        unread = [i for i in verdict.isolating if policies[i].problems]
        said = f"isolated by {list_names(verdict.isolating)}; no rule allows it"
        if unread:
            said = f"isolated by {list_names(unread)}, which cannot be read: closed"
        rules.append(FilterRule((), "drop", said))
    else:
        rules += [FilterRule((), f"jump {name}") for name in baseline]
        rules.append(FilterRule((), "accept", f"no policy decides {direction}"))
    return ChainPlan(verdict.chain, tuple(rules), frozenset(), tuple(parts), 2)
