"""Policies as clauses: rectangles of (sources, destinations, ports) with an action, in the order of the tiers.

A rule of either direction says the same kind of thing: an ingress rule's destinations are the pods that the policy
selects and its sources the peers; an egress rule's the other way round. One column (everything about one
destination class, as one set of sources per port atom) is then solved alike for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from podwire.policy.atoms import PortNames
from podwire.policy.classes import Classes, PodTraits
from podwire.policy.rules import Action, Direction, NamedPort, Policy, Rule
from podwire.policy.sets import Sets, bits_of, members

_Numbers: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """``action`` on the packets from any of ``src`` to any of ``dst`` whose port is in ``ports`` (a set of atoms)."""

    src: int
    dst: int
    ports: int
    action: Action


@dataclass(slots=True)
class Clauses:
    """All clauses of one direction. ``isolated`` are the classes that some NetworkPolicy isolates in it."""

    direction: Direction
    admin: list[Clause] = field(default_factory=list)
    accepts: list[Clause] = field(default_factory=list)
    baseline: list[Clause] = field(default_factory=list)
    isolated: int = 0


def flip(clauses: Iterable[Clause]) -> list[Clause]:
    """Return the clauses seen from the other end: columns of these are rows of those."""
    return [Clause(c.dst, c.src, c.ports, c.action) for c in clauses]


class ClauseWriter:
    """Turns the policies of one snapshot into clauses."""

    def __init__(self, classes: Classes, side: int) -> None:
        self._words = classes.vocabulary
        self._snapshot = classes.snapshots[side]
        self.sets = Sets(classes, side)
        self._everyone = (1 << len(classes)) - 1
        self._tables: dict[PortNames, int] = {}
        if classes.vocabulary.port_names:
            lists: dict[PortNames, list[int]] = {}
            for n, entry in enumerate(classes.all):
                traits = entry.traits[side]
                lists.setdefault(traits.ports if isinstance(traits, PodTraits) else (), []).append(n)
            self._tables = {table: bits_of(ns, len(classes)) for table, ns in lists.items()}

    def write(self, direction: Direction) -> Clauses:
        """Return the clauses of one direction."""
        made = self.write_ordered(direction)
        accepts: dict[tuple[int, int], int] = {}
        for policy in self._snapshot.policies:
            if policy.tier != "NetworkPolicy" or direction not in policy.isolates:
                continue
            subject = self.sets.of(policy.subject)
            made.isolated |= subject
            for clause in self.clauses_of(policy, direction, subject):
                # Clauses with the same destinations and ports are one: their sources add up.
                place = (clause.dst, clause.ports)
                accepts[place] = accepts.get(place, 0) | clause.src
        made.accepts = [Clause(src, dst, ports, "Accept") for (dst, ports), src in accepts.items()]
        return made

    def write_ordered(self, direction: Direction) -> Clauses:
        """Return the clauses of the tiers Admin and Baseline alone."""
        return Clauses(direction, self._ordered("Admin", direction), [], self._ordered("Baseline", direction))

    def _ordered(self, tier: str, direction: Direction) -> list[Clause]:
        policies = sorted((p for p in self._snapshot.policies if p.tier == tier), key=lambda p: p.order)
        return [c for p in policies for c in self.clauses_of(p, direction, self.sets.of(p.subject))]

    def clauses_of(self, policy: Policy, direction: Direction, subject: int) -> Iterator[Clause]:
        """Yield the clauses of a policy's rules, in order. Empty ones are left out."""
        if not subject:
            return
        for rule in policy.rules(direction):
            peers = self._everyone if rule.peers is None else 0
            for peer in rule.peers or ():
                peers |= self.sets.of(peer)
            src, dst = (peers, subject) if direction == "ingress" else (subject, peers)
            for ports, towards in self._ports(rule):
                if src and dst & towards and ports:
                    yield Clause(src, dst & towards, ports, rule.action)

    def _ports(self, rule: Rule) -> Iterator[tuple[int, int]]:
        """Yield (port atoms, destinations for which the rule means those): names mean other ports on other pods."""
        if rule.ports is None:
            yield self._words.ports.everything, self._everyone
        elif not any(isinstance(p, NamedPort) for p in rule.ports):
            yield self._mask(rule, ()), self._everyone
        else:
            by_mask: dict[int, int] = {}
            for table, towards in self._tables.items():
                mask = self._mask(rule, table)
                by_mask[mask] = by_mask.get(mask, 0) | towards
            yield from by_mask.items()

    def _mask(self, rule: Rule, table: PortNames) -> int:
        mask = 0
        for port in rule.ports or ():
            mask |= self._words.ports.mask_of(port, table)
        return mask


class Columns:
    """Solves the columns of one direction: per destination class, per port atom, the sources that it lets pass."""

    def __init__(self, clauses: Clauses, classes: int, atoms: int) -> None:
        self._clauses, self._atoms = clauses, atoms
        self._everyone = (1 << classes) - 1
        self._towards = [_towards(cs, classes) for cs in (clauses.admin, clauses.accepts, clauses.baseline)]
        self._solved: dict[tuple[_Numbers, _Numbers, _Numbers, int], tuple[int, ...]] = {}
        self._members: dict[int, tuple[int, ...]] = {}

    def add(self, clause: Clause) -> int:
        """Take in one more clause of the NetworkPolicy tier; return its number, which is never used again."""
        number = len(self._clauses.accepts)
        self._clauses.accepts.append(clause)
        for dst in members(clause.dst):
            self._towards[1][dst].append(number)
        return number

    def remove(self, number: int) -> None:
        """Forget a clause that was added."""
        for dst in members(self._clauses.accepts[number].dst):
            self._towards[1][dst].remove(number)

    def isolate(self, isolated: int) -> None:
        """Replace the set of isolated classes."""
        self._clauses.isolated = isolated
        if len(self._solved) > 4 * len(self._towards[1]):
            self._solved.clear()  # answers to questions of the past

    def refine(self, parents: Sequence[int]) -> None:
        """Go over to finer atoms: ``parents`` has, for each of them, the atom that it was part of."""
        known: dict[int, int] = {}

        def finer(clause: Clause) -> Clause:
            if clause.ports not in known:
                known[clause.ports] = sum(1 << n for n, old in enumerate(parents) if clause.ports >> old & 1)
            return Clause(clause.src, clause.dst, known[clause.ports], clause.action)

        for clauses in (self._clauses.admin, self._clauses.accepts, self._clauses.baseline):
            clauses[:] = map(finer, clauses)
        self._atoms = len(parents)
        self._solved.clear()
        self._members.clear()

    def column(self, dst: int) -> tuple[int, ...]:
        """Return one set of sources per port atom. Destinations under the same clauses share one answer."""
        admin, accepts, baseline = (tuple(towards[dst]) for towards in self._towards)
        profile = (admin, accepts, baseline, self._isolated(dst))
        found = self._solved.get(profile)
        if found is None:
            found = self._solved[profile] = self._solve(*profile)
        return found

    def _isolated(self, dst: int) -> int:
        """Return the sources whose packets to ``dst`` pass only where a NetworkPolicy says so."""
        if self._clauses.direction == "egress":
            return self._clauses.isolated
        return self._everyone if self._clauses.isolated >> dst & 1 else 0

    def _solve(
        self, admin: tuple[int, ...], accepts: tuple[int, ...], base: tuple[int, ...], iso: int
    ) -> tuple[int, ...]:
        named = self._accepted(accepts) if iso else [0] * self._atoms
        if not admin and not base:
            rest = self._everyone ^ iso
            shared = {accept: rest | accept for accept in set(named)}
            return tuple(shared[accept] for accept in named)
        allowed = [0] * self._atoms
        undecided = [self._everyone] * self._atoms
        self._walk((self._clauses.admin[n] for n in admin), allowed, undecided)
        for atom, accept in enumerate(named):
            allowed[atom] |= undecided[atom] & iso & accept
            undecided[atom] &= ~iso
        self._walk((self._clauses.baseline[n] for n in base), allowed, undecided)
        return tuple(a | u for a, u in zip(allowed, undecided, strict=True))

    def _accepted(self, accepts: tuple[int, ...]) -> list[int]:
        everything, always = (1 << self._atoms) - 1, 0
        by_ports: dict[int, int] = {}
        for n in accepts:
            clause = self._clauses.accepts[n]
            if clause.ports == everything:
                always |= clause.src
            else:
                by_ports[clause.ports] = by_ports.get(clause.ports, 0) | clause.src
        found = [always] * self._atoms
        for ports, src in by_ports.items():
            for atom in self._atoms_in(ports):
                found[atom] |= src
        return found

    def _walk(self, clauses: Iterable[Clause], allowed: list[int], undecided: list[int]) -> None:
        """Take an ordered tier: what it decides leaves ``undecided``; what it passes on stays there."""
        passed: list[int] = [0] * self._atoms
        for clause in clauses:
            for atom in self._atoms_in(clause.ports):
                hit = undecided[atom] & clause.src
                if hit:
                    undecided[atom] ^= hit
                    if clause.action == "Accept":
                        allowed[atom] |= hit
                    elif clause.action == "Pass":
                        passed[atom] |= hit
        for atom, bits in enumerate(passed):
            undecided[atom] |= bits

    def _atoms_in(self, ports: int) -> tuple[int, ...]:
        found = self._members.get(ports)
        if found is None:
            found = self._members[ports] = tuple(members(ports))
        return found


def _towards(clauses: list[Clause], classes: int) -> list[list[int]]:
    """Return, for each destination class, the numbers of the clauses about it, in order."""
    found: list[list[int]] = [[] for _ in range(classes)]
    for n, clause in enumerate(clauses):
        for dst in members(clause.dst):
            found[dst].append(n)
    return found
