"""Reachability kept up to date: one changed policy or pod at a time, each with its exact difference.

A policy changes the lines of the pods that it selects and no others: columns (who reaches them) for its ingress
rules, rows (whom they reach) for its egress rules. A pod that changes moves from one class to another. Only a
change that brings words which no policy used before (a label, a block, a port's name), or that is of a cluster-wide
policy, has everything numbered anew and compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from podwire.model.objects import Key
from podwire.policy.classes import Classes
from podwire.policy.clauses import Clauses, ClauseWriter, Columns, flip
from podwire.policy.difference import Ends
from podwire.policy.matrix import Matrix
from podwire.policy.rules import DIRECTIONS, Direction, Policy, PortRange
from podwire.policy.sets import members
from podwire.policy.snapshot import Pod, PolicySnapshot


@dataclass(frozen=True, slots=True)
class Area:
    """Pairs of classes between which some ports were opened or cut.

    ``sources`` and ``destinations`` are sets of classes, ``pod`` one pod that stands for its whole side instead.
    A pod and itself, and a pod and its own node, always reach each other, whatever an area says of their classes.
    The classes move on with the next change: read an area before it.
    """

    classes: Classes
    opened: bool
    sources: int
    destinations: int
    ports: int
    pod: Key | None = None
    pod_is_source: bool = False

    def ends(self) -> tuple[Ends, Ends]:
        """Return who they are: sources and destinations."""
        one = Ends((self.pod,)) if self.pod is not None else None
        src, dst = _named(self.classes, self.sources), _named(self.classes, self.destinations)
        if one is not None:
            return (one, dst) if self.pod_is_source else (src, one)
        return src, dst

    def intervals(self) -> tuple[PortRange, ...]:
        """Return which ports."""
        return self.classes.vocabulary.ports.intervals(self.ports)


def _named(classes: Classes, bits: int) -> Ends:
    found = [classes.all[n] for n in members(bits)]
    return Ends(
        tuple(sorted(k for e in found for k in e.pods)),
        tuple(sorted(n for e in found for n in e.nodes)),
        tuple(e.address for e in found if e.address is not None),
    )


@dataclass(slots=True)
class _Written:
    """A NetworkPolicy in force: whom it selects, and the numbers of its clauses in columns and in rows."""

    policy: Policy
    subject: int
    numbers: dict[Direction, list[tuple[int, int]]] = field(default_factory=dict)

    def selects(self, direction: Direction) -> int:
        """Return the classes that it isolates in this direction."""
        return self.subject if direction in self.policy.isolates else 0


_OPPOSITE: dict[Direction, Direction] = {"ingress": "egress", "egress": "ingress"}


class Recheck:
    """One address family of a cluster, kept up to date. ``snapshot`` is what it stands at."""

    def __init__(self, snapshot: PolicySnapshot, family: int = 4) -> None:
        self._family = family
        self._number(snapshot)

    def _number(self, snapshot: PolicySnapshot) -> None:
        self._pods = dict(snapshot.pods)
        self._policies = {(p.kind, p.key): p for p in snapshot.policies}
        self._rest = snapshot
        self._classes = Classes((snapshot,), self._family)
        self._writer = ClauseWriter(self._classes, 0)
        self._columns: dict[Direction, Columns] = {}
        self._rows: dict[Direction, Columns] = {}
        count, atoms = len(self._classes), self._classes.vocabulary.ports.count
        for direction in DIRECTIONS:
            ordered = self._writer.write_ordered(direction)
            # Seen by rows, ingress isolates members of the line and egress the line itself: the opposite of columns.
            flipped = Clauses(_OPPOSITE[direction], flip(ordered.admin), [], flip(ordered.baseline))
            self._columns[direction] = Columns(ordered, count, atoms)
            self._rows[direction] = Columns(flipped, count, atoms)
        self._written: dict[Key, _Written] = {}
        for policy in snapshot.policies:
            if policy.tier == "NetworkPolicy":
                self._write(policy)
        self._isolate()

    @property
    def snapshot(self) -> PolicySnapshot:
        """The cluster as it now stands."""
        return replace(self._rest, pods=dict(self._pods), policies=tuple(self._policies.values()))

    def change_policy(self, policy: Policy) -> tuple[Area, ...]:
        """Put a policy in force, new or in the place of its former self; return what that opened and cut."""
        former = self._policies.get((policy.kind, policy.key))
        if policy.tier != "NetworkPolicy" or not self._classes.vocabulary.covers(policy):
            old = self.snapshot
            self._policies[(policy.kind, policy.key)] = policy
            return self._renumber(old)
        self._policies[(policy.kind, policy.key)] = policy
        parents = self._classes.vocabulary.refine_ports(policy)
        if parents:
            for columns in (*self._columns.values(), *self._rows.values()):
                columns.refine(parents)
        return () if policy == former else self._replace(policy.key, policy)

    def remove_policy(self, kind: str, key: Key) -> tuple[Area, ...]:
        """Take a policy out of force; return what that opened and cut. Raises KeyError."""
        old = self.snapshot
        del self._policies[(kind, key)]
        return self._replace(key, None) if kind == "NetworkPolicy" else self._renumber(old)

    def change_pod(self, pod: Pod) -> tuple[Area, ...]:
        """Take in a pod that changed or is new; return what that opened and cut for it. A new pod changes nothing."""
        old = self._classes.of_pod.get(pod.key)
        new = self._classes.of_changed(pod)
        if new is None:
            # Labels that were never seen together, or a pod that policies do not mean (any more).
            before = self.snapshot
            self._pods[pod.key] = pod
            return self._renumber(before)
        self._pods[pod.key] = pod
        if old == new:
            return ()
        self._classes.of_pod[pod.key] = new
        self._classes.all[new].pods.append(pod.key)
        if old is None:
            return ()
        self._classes.all[old].pods.remove(pod.key)
        return (*self._moved(pod.key, old, new, source=False), *self._moved(pod.key, old, new, source=True))

    def remove_pod(self, key: Key) -> None:
        """Forget a pod. Nobody else's reach depends on it. Raises KeyError."""
        del self._pods[key]
        number = self._classes.of_pod.pop(key, None)
        if number is not None:
            self._classes.all[number].pods.remove(key)

    # --- policies

    def _write(self, policy: Policy) -> None:
        made = self._written[policy.key] = _Written(policy, self._writer.sets.of(policy.subject))
        for direction in policy.isolates:
            clauses = list(self._writer.clauses_of(policy, direction, made.subject))
            made.numbers[direction] = [
                (self._columns[direction].add(c), self._rows[direction].add(f))
                for c, f in zip(clauses, flip(clauses), strict=True)
            ]

    def _erase(self, key: Key) -> None:
        for direction, numbers in self._written.pop(key).numbers.items():
            for column, row in numbers:
                self._columns[direction].remove(column)
                self._rows[direction].remove(row)

    def _isolate(self) -> None:
        for direction in DIRECTIONS:
            isolated = 0
            for written in self._written.values():
                isolated |= written.selects(direction)
            self._columns[direction].isolate(isolated)
            self._rows[direction].isolate(isolated)

    def _replace(self, key: Key, policy: Policy | None) -> tuple[Area, ...]:
        old = self._written.get(key)
        new = _Written(policy, self._writer.sets.of(policy.subject)) if policy is not None else None
        entered, left = _touched(old, new, "ingress"), _touched(old, new, "egress")
        columns = {n: self._line(self._columns, n) for n in members(entered)}
        rows = {n: self._line(self._rows, n) for n in members(left)}
        if old is not None:
            self._erase(key)
        if policy is not None:
            self._write(policy)
        self._isolate()
        populated = self._populated()
        areas: list[Area] = []
        for n, before in columns.items():
            # What leaves a class of ``left`` is told by its row.
            among = self._others(n, populated) & ~left
            for opened, bits, ports in _changed(before, self._line(self._columns, n), among):
                areas.append(Area(self._classes, opened, bits, 1 << n, ports))
        for n, before in rows.items():
            for opened, bits, ports in _changed(before, self._line(self._rows, n), self._others(n, populated)):
                areas.append(Area(self._classes, opened, 1 << n, bits, ports))
        return tuple(areas)

    def _line(self, solvers: dict[Direction, Columns], number: int) -> tuple[int, ...]:
        return _meet(solvers["egress"].column(number), solvers["ingress"].column(number))

    def _populated(self) -> int:
        return sum(1 << n for n, e in enumerate(self._classes.all) if e.pods or e.nodes or e.address is not None)

    def _others(self, number: int, populated: int) -> int:
        """Return the classes that a member of this one can have to do with: its own only when it has two members."""
        return populated & ~(1 << number) if self._classes.all[number].weight <= 1 else populated

    # --- pods

    def _moved(self, key: Key, old: int, new: int, *, source: bool) -> Iterator[Area]:
        solvers = self._rows if source else self._columns
        before, after = self._line(solvers, old), self._line(solvers, new)
        among = self._others(new, self._populated())
        for opened, bits, ports in _changed(before, after, among):
            ends = (1 << new, bits) if source else (bits, 1 << new)
            yield Area(self._classes, opened, *ends, ports, key, source)

    # --- new words

    def _renumber(self, old: PolicySnapshot) -> tuple[Area, ...]:
        """Number everything anew, and compare the whole."""
        new = self.snapshot
        self._number(new)
        return tuple(_compared(old, new, self._family))


def _touched(old: _Written | None, new: _Written | None, direction: Direction) -> int:
    return (old.selects(direction) if old is not None else 0) | (new.selects(direction) if new is not None else 0)


def _meet(egress: tuple[int, ...], ingress: tuple[int, ...]) -> tuple[int, ...]:
    joined: dict[tuple[int, int], int] = {}
    for pair in zip(egress, ingress, strict=True):
        if pair not in joined:
            joined[pair] = pair[0] & pair[1]
    return tuple(joined[p] for p in zip(egress, ingress, strict=True))


def _changed(before: tuple[int, ...], after: tuple[int, ...], among: int) -> Iterator[tuple[bool, int, int]]:
    """Yield (opened, classes, port atoms) of what differs between two states of a line."""
    found: dict[tuple[bool, int], int] = {}
    for atom, (had, has) in enumerate(zip(before, after, strict=True)):
        if had == has:
            continue
        for opened, bits in ((True, has & ~had & among), (False, had & ~has & among)):
            if bits:
                found[(opened, bits)] = found.get((opened, bits), 0) | 1 << atom
    for (opened, bits), ports in found.items():
        yield opened, bits, ports


def _compared(old: PolicySnapshot, new: PolicySnapshot, family: int) -> Iterator[Area]:
    """Yield what differs between two snapshots, column by column."""
    classes = Classes((old, new), family)
    before, after = Matrix(old, classes=classes, side=0), Matrix(new, classes=classes, side=1)
    lasting = sum(1 << n for n, entry in enumerate(classes.all) if all(entry.traits))
    for dst, entry in enumerate(classes.all):
        if all(entry.traits):
            among = lasting & ~(1 << dst) if entry.weight == 1 else lasting
            for opened, bits, ports in _changed(before.column(dst), after.column(dst), among):
                yield Area(classes, opened, bits, 1 << dst, ports)
