"""Who reaches whom on which ports: all of it, exactly, by classes of pods and atoms of ports.

Columns are solved when they are asked for, and once for all destinations that stand under the same clauses; so the
cost is that of what differs in the cluster, not of its size. ``evaluate`` is the reference that this agrees with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from podwire.model.objects import Key
from podwire.policy.classes import Classes, EndClass
from podwire.policy.clauses import ClauseWriter, Columns
from podwire.policy.evaluate import Packet, evaluate
from podwire.policy.rules import PortRange
from podwire.policy.sets import bits_of, members
from podwire.policy.snapshot import PolicySnapshot


@dataclass(frozen=True, slots=True)
class Reach:
    """How much reaches how much, in pairs of pods (a pod and itself left out)."""

    pairs: int  # ordered pairs of distinct pods
    open: int  # pairs for which every port of every protocol is open
    shut: int  # pairs for which none is
    classes: int
    atoms: int


class Matrix:
    """The reachability of one snapshot, for one address family.

    ``side`` says which of the snapshots of ``classes`` it is about, where they number several.
    """

    def __init__(
        self, snapshot: PolicySnapshot, family: int = 4, *, classes: Classes | None = None, side: int = 0
    ) -> None:
        self.snapshot, self.side = snapshot, side
        self.classes = classes if classes is not None else Classes((snapshot,), family)
        self.ports = self.classes.vocabulary.ports
        writer = ClauseWriter(self.classes, side)
        self.sets = writer.sets
        count = len(self.classes)
        self._egress = Columns(writer.write("egress"), count, self.ports.count)
        self._ingress = Columns(writer.write("ingress"), count, self.ports.count)
        self._columns: dict[int, tuple[int, ...]] = {}
        self._both: dict[tuple[int, int], tuple[int, ...]] = {}

    def column(self, dst: int) -> tuple[int, ...]:
        """Return, for one destination class, the set of source classes that reach it, per port atom.

        About pods of one class on each end that are not the same pod, and nodes that are not the pod's own.
        """
        found = self._columns.get(dst)
        if found is None:
            egress, ingress = self._egress.column(dst), self._ingress.column(dst)
            place = (id(egress), id(ingress))  # both live as long as this matrix: they are kept by Columns
            found = self._both.get(place)
            if found is None:
                joined: dict[tuple[int, int], int] = {}
                for pair in zip(egress, ingress, strict=True):
                    if pair not in joined:
                        joined[pair] = pair[0] & pair[1]
                found = tuple(joined[p] for p in zip(egress, ingress, strict=True))
                self._both[place] = found
            self._columns[dst] = found
        return found

    def solve(self) -> None:
        """Solve every column now."""
        for dst in range(len(self.classes)):
            self.column(dst)

    def allowed(self, src: int, dst: int) -> int:
        """Return the port atoms, as a set, that one class reaches on another."""
        return sum(1 << atom for atom, sources in enumerate(self.column(dst)) if sources >> src & 1)

    def between(self, src: Key, dst: Key) -> tuple[PortRange, ...]:
        """Return the ports that one pod reaches on another; whole protocols are 0 to 65535, ICMP stands as one.

        Raises KeyError for a pod that is unknown, ended, or on the host's network.
        """
        a, b = self.classes.of_pod[src], self.classes.of_pod[dst]
        return self.ports.intervals(self.ports.everything if src == dst else self.allowed(a, b))

    def reaches(self, packet: Packet) -> bool:
        """Return whether the packet, the first of its connection, passes: what ``evaluate`` says, but fast."""
        a, b = packet.src, packet.dst
        src, dst = self.classes.of_end(a), self.classes.of_end(b)
        if src is None or dst is None:
            return evaluate(self.snapshot, packet).allowed
        if a.pod is not None and b.pod is not None and a.pod.key == b.pod.key:
            return True
        if (a.pod is None and b.pod is None) or self._own_node(packet):
            return True
        atom = self.ports.atom_of(packet.protocol, packet.port)
        return bool(self.column(dst)[atom] >> src & 1)

    def _own_node(self, packet: Packet) -> bool:
        a, b = packet.src, packet.dst
        if a.pod is not None and b.node is not None:
            return a.pod.node == b.node
        return b.pod is not None and a.node is not None and b.pod.node == a.node

    def pod_classes(self) -> Iterator[tuple[int, EndClass]]:
        """Yield the classes that pods of this snapshot are in, with their numbers."""
        for n in range(self.classes.pod_classes):
            if self.classes.all[n].traits[self.side] is not None:
                yield n, self.classes.all[n]

    def reach(self) -> Reach:
        """Return the totals over all pairs of pods. Solves every column."""
        weigh = _Scales([entry.weight if entry.traits[self.side] else 0 for entry in self.classes.all])
        pods = weigh(self.sets.pods)
        open_pairs = shut_pairs = 0
        for dst, entry in self.pod_classes():
            column = self.column(dst)
            always, ever = self.sets.pods, 0
            for sources in set(column):
                always &= sources
                ever |= sources
            itself = 1 << dst
            # The pod itself is no pair: it is counted among its class, so one is taken from each sum.
            open_pairs += entry.weight * (weigh(always) - bool(always & itself))
            shut_pairs += entry.weight * (pods - weigh(ever & self.sets.pods) - (not ever & itself))
        return Reach(pods * (pods - 1), open_pairs, shut_pairs, len(self.classes), self.ports.count)


class _Scales:
    """Adds up the weights of the classes in a set, by binary digits of the weights."""

    def __init__(self, weights: list[int]) -> None:
        digits = max(weights, default=0).bit_length()
        count = len(weights)
        self._digits = [bits_of((n for n, w in enumerate(weights) if w >> d & 1), count) for d in range(digits)]

    def __call__(self, bits: int) -> int:
        return sum((bits & digit).bit_count() << d for d, digit in enumerate(self._digits))


def sources_of(column: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield (source class, port atoms as a set) of a column, for the sources that reach any."""
    ever = 0
    for sources in column:
        ever |= sources
    for src in members(ever):
        yield src, sum(1 << atom for atom, sources in enumerate(column) if sources >> src & 1)
