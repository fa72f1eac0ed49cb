"""Atoms: the coarsest pieces of all ports, and of all addresses, that the policies at hand can tell apart.

A set of ports is then an int with one bit per atom. Atom 0 is what no rule mentions (ICMP among it), so that two
clusters with three ports in their policies have four atoms, not 200,000 ports.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Hashable, Iterable, Iterator, Sequence
from typing import TypeAlias, TypeVar

from podwire.policy.rules import LAST_PORT, PROTOCOLS, BlockPeer, IPAddress, NamedPort, Port, PortRange
from podwire.policy.snapshot import ContainerPort

PortNames: TypeAlias = tuple[ContainerPort, ...]
"""The named ports of a pod, as far as policies mention their names; sorted."""


_Mark = TypeVar("_Mark", bound=Hashable)


def spans(marks: Iterable[tuple[int, int, _Mark]], end: int) -> Iterator[tuple[int, frozenset[_Mark]]]:
    """Yield (start, marks that cover it) of each piece of 0..end, in order; each mark is (first, last, what)."""
    events: dict[int, list[tuple[int, _Mark]]] = {0: []}
    for first, last, what in marks:
        events.setdefault(first, []).append((1, what))
        if last < end:
            events.setdefault(last + 1, []).append((-1, what))
    active: dict[_Mark, int] = {}
    for start in sorted(events):
        for step, what in events[start]:
            count = active.get(what, 0) + step
            if count:
                active[what] = count
            else:
                del active[what]
        yield start, frozenset(active)


class PortAtoms:
    """The atoms of ports of some rules, given what the pods call their ports."""

    def __init__(self, ports: Iterable[Port], tables: Iterable[PortNames]) -> None:
        self._tables = tuple(tables)
        ranges = {p for p in ports if isinstance(p, PortRange)}
        named = {(p.protocol, p.number) for table in self._tables for p in table}
        self._starts: dict[str, list[int]] = {}
        self._atom_at: dict[str, list[int]] = {}
        self._index: dict[frozenset[Hashable], int] = {frozenset(): 0}
        self._intervals: list[list[PortRange]] = [[PortRange("ICMP", 0, LAST_PORT)]]
        for protocol in PROTOCOLS:
            marks: list[tuple[int, int, Hashable]] = [(r.first, r.last, r) for r in ranges if r.protocol == protocol]
            marks += [(number, number, (protocol, number)) for p, number in named if p == protocol]
            self._cut(protocol, list(spans(marks, LAST_PORT)))
        self.count = len(self._intervals)
        self.everything = (1 << self.count) - 1
        self._by_range = {r: self._mask(r) for r in ranges}
        self._by_number = {n: self._mask(n) for n in named}

    def _cut(self, protocol: str, pieces: Sequence[tuple[int, frozenset[Hashable]]]) -> None:
        self._starts[protocol] = [start for start, _ in pieces]
        atoms = self._atom_at[protocol] = []
        for n, (start, marks) in enumerate(pieces):
            last = pieces[n + 1][0] - 1 if n + 1 < len(pieces) else LAST_PORT
            atom = self._index.setdefault(marks, len(self._intervals))
            if atom == len(self._intervals):
                self._intervals.append([])
            self._intervals[atom].append(PortRange(protocol, start, last))
            atoms.append(atom)

    def _mask(self, mark: Hashable) -> int:
        return sum(1 << atom for marks, atom in self._index.items() if mark in marks)

    def atom_of(self, protocol: str, port: int) -> int:
        """Return the atom of one port. ICMP and unknown protocols are in atom 0."""
        starts = self._starts.get(protocol)
        return 0 if starts is None else self._atom_at[protocol][bisect_right(starts, port) - 1]

    def has(self, port: PortRange) -> bool:
        """Return whether the atoms were made with this range in mind."""
        return port in self._by_range

    def refined(self, ports: Iterable[PortRange]) -> tuple[PortAtoms, tuple[int, ...]]:
        """Return the atoms that tell these ranges apart too, and for each of those the atom here that it is part of."""
        finer = PortAtoms((*self._by_range, *ports), self._tables)
        firsts = (pieces[0] for pieces in finer._intervals)
        return finer, tuple(self.atom_of(r.protocol, r.first) for r in firsts)

    def mask_of(self, port: Port, table: PortNames) -> int:
        """Return the atoms of one port of a rule, towards pods that name their ports so."""
        if isinstance(port, PortRange):
            return self._by_range[port]
        mask = 0
        for p in table:
            if p.name == port.name and port.protocol in (None, p.protocol):
                mask |= self._by_number[(p.protocol, p.number)]
        return mask

    def intervals(self, mask: int) -> tuple[PortRange, ...]:
        """Return the ports of some atoms, joined where they touch; by protocol, then number."""
        order = {p: n for n, p in enumerate((*PROTOCOLS, "ICMP"))}
        pieces = [r for atom in range(self.count) if mask >> atom & 1 for r in self._intervals[atom]]
        joined: list[PortRange] = []
        for r in sorted(pieces, key=lambda r: (order[r.protocol], r.first)):
            if joined and joined[-1].protocol == r.protocol and joined[-1].last + 1 == r.first:
                r = PortRange(r.protocol, joined.pop().first, r.last)
            joined.append(r)
        return tuple(joined)

    def example(self, mask: int) -> tuple[str, int]:
        """Return a protocol and a port of a mask's lowest atom; port 0 only where there is no other, and for ICMP."""
        pieces = self.intervals(mask & -mask)
        first = next((r for r in pieces if r.last > 0), pieces[0])
        return first.protocol, 0 if first.protocol == "ICMP" else min(max(first.first, 1), first.last)


class AddressAtoms:
    """Which address blocks hold an address, for one family."""

    def __init__(self, blocks: Iterable[BlockPeer], family: int) -> None:
        self._bits = 32 if family == 4 else 128
        self.blocks = tuple(dict.fromkeys((b.cidr, b.excepts) for b in blocks if b.cidr.version == family))
        marks: list[tuple[int, int, tuple[int, str]]] = []
        for n, (cidr, excepts) in enumerate(self.blocks):
            marks.append((int(cidr[0]), int(cidr[-1]), (n, "in")))
            marks += [(int(e[0]), int(e[-1]), (n, "out")) for e in excepts]
        pieces = list(spans(marks, (1 << self._bits) - 1))
        self.starts = [start for start, _ in pieces]
        self.held = [
            frozenset(n for n, side in marks if side == "in" and (n, "out") not in marks) for _, marks in pieces
        ]

    def of(self, address: IPAddress | None) -> frozenset[int]:
        """Return the numbers of the blocks that hold the address; none when there is no address."""
        return self.held[bisect_right(self.starts, int(address)) - 1] if address is not None else frozenset()

    def examples(self, taken: Container[int], familiar: Iterable[int] = ()) -> Iterator[tuple[int, frozenset[int]]]:
        """Yield an address (a number), not ``taken``, of each set of blocks that holds one, with that set.

        One of the ``familiar`` addresses stands for its set where it can.
        """
        seen: set[frozenset[int]] = set()
        for address in familiar:
            held = self.held[bisect_right(self.starts, address) - 1]
            if held not in seen and address not in taken:
                seen.add(held)
                yield address, held
        ends = [*self.starts[1:], 1 << self._bits]
        for start, end, held in zip(self.starts, ends, self.held, strict=True):
            if held in seen:
                continue
            free = next((a for a in range(start, end) if a not in taken), None)
            if free is not None:
                seen.add(held)
                yield free, held


def names_mentioned(ports: Iterable[Port]) -> frozenset[str]:
    """Return the port names that rules use."""
    return frozenset(p.name for p in ports if isinstance(p, NamedPort))
