"""Who reaches whom on what, by workload or by pod: the matrix as a table of named parties. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from podwire.policy.matrix import Matrix
from podwire.policy.rules import LAST_PORT, PortRange
from podwire.policy.snapshot import Namespace, Pod, PolicySnapshot
from podwire.verify.workloads import PodView, by_workload
from podwire.verify.world import World

OUTSIDE = "(outside)"
"""The party that is everybody outside the cluster."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row or column: some pods that share a name. Without pods: the outside."""

    name: str  # "prod/deploy/web"
    namespace: str
    pods: tuple[PodView, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """What one party reaches on another. ``mixed``: some of its pods reach more; ``ports`` is what all reach."""

    source: str
    destination: str
    ports: tuple[PortRange, ...]
    mixed: bool = False
    some: tuple[PortRange, ...] = ()  # what at least one pair reaches

    @property
    def word(self) -> str:
        """The ports as people read them: "all", "-", "8080/TCP, 53/UDP"; "~" in front when pods differ."""
        return ("~" if self.mixed else "") + ports_word(self.ports)

    @property
    def share(self) -> float:
        """How open it is, from 0 to 1, for colours: a single port is far from nothing and from everything."""
        if not self.ports:
            return 0.25 if self.mixed else 0.0
        return 1.0 if self.word == "all" else 0.5


def ports_word(ports: Sequence[PortRange]) -> str:
    """Return ports as text. Everything but ICMP is said as its protocols."""
    whole = {p.protocol for p in ports if p.first == 0 and p.last == LAST_PORT}
    if {"TCP", "UDP", "SCTP"} <= whole:
        return "all"
    shown = [str(p) for p in ports if p.protocol != "ICMP"]
    return ", ".join(shown) if shown else "-"


@dataclass(frozen=True, slots=True)
class Grid:
    """The whole table. Cells come row by row; there is none from a single pod to itself."""

    lines: tuple[Line, ...]
    cells: Mapping[tuple[str, str], Cell]

    def rows(self) -> Iterator[tuple[Line, list[Cell | None]]]:
        """Yield each source with its cells, in the order of the columns."""
        for line in self.lines:
            yield line, [self.cells.get((line.name, other.name)) for other in self.lines]


def grid(world: World, *, by_pod: bool = False, namespaces: Sequence[str] = (), outside: bool = True) -> Grid:
    """Return who reaches whom among the pods of ``namespaces`` (none named: all), and the outside."""
    pods = [p for p in world.pods if not p.assumed and (not namespaces or p.key.namespace in namespaces)]
    lines = list(_pod_lines(pods) if by_pod else _workload_lines(pods))
    if outside:
        lines.append(Line(OUTSIDE, ""))
    snapshot = world.snapshot if world.enforces else replace(world.snapshot, policies=())
    matrix = Matrix(snapshot, _family(snapshot))
    reader = _Reader(matrix)
    found = (reader.cell(a, b) for a in lines for b in lines)
    return Grid(tuple(lines), {(c.source, c.destination): c for c in found if c is not None})


def _family(snapshot: PolicySnapshot) -> int:
    """Return the address family that the pods have; 4 where some have it."""
    families = {ip.version for pod in snapshot.pods.values() for ip in pod.ips}
    return 6 if families == {6} else 4


def _pod_lines(pods: Sequence[PodView]) -> Iterator[Line]:
    for pod in sorted(pods, key=lambda p: p.key):
        yield Line(f"{pod.key.namespace}/{pod.key.name}", pod.key.namespace, (pod,))


def _workload_lines(pods: Sequence[PodView]) -> Iterator[Line]:
    groups = by_workload(pods)
    for owner in sorted(groups, key=lambda o: (o.namespace, o.kind, o.name)):
        members = groups[owner]
        yield Line(f"{owner.namespace}/{members[0].workload}", owner.namespace, tuple(members))


class _Reader:
    """Reads cells off a matrix, each pair of classes once."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._masks: dict[tuple[int, int], int] = {}
        self._ports: dict[int, tuple[PortRange, ...]] = {}
        self._outside = {n for n, c in enumerate(matrix.classes.all) if c.address is not None}

    def cell(self, a: Line, b: Line) -> Cell | None:
        """Return one cell; None where there are no two ends: a single pod and itself, the outside and itself."""
        everything, least, most = self._matrix.ports.everything, self._matrix.ports.everything, 0
        seen = False
        for pair in self._pairs(a, b):
            seen = True
            mask = everything if pair is None else self._mask(*pair)
            least, most = least & mask, most | mask
        if not seen:
            return None
        return Cell(a.name, b.name, self._intervals(least), least != most, self._intervals(most))

    def _pairs(self, a: Line, b: Line) -> set[tuple[int, int] | None]:
        """Return the pairs of classes to look at. None: no policy speaks of it (host network, pods that ended)."""
        if not a.pods and not b.pods:
            return set()
        if a.name == b.name and len(a.pods) == 1:
            return set()
        of_pod = self._matrix.classes.of_pod
        sources = {of_pod.get(p.key, -1) for p in a.pods} or self._outside
        targets = {of_pod.get(p.key, -1) for p in b.pods} or self._outside
        return {None if -1 in (s, t) else (s, t) for s in sources for t in targets}

    def _mask(self, src: int, dst: int) -> int:
        found = self._masks.get((src, dst))
        if found is None:
            found = self._masks[(src, dst)] = self._matrix.allowed(src, dst)
        return found

    def _intervals(self, mask: int) -> tuple[PortRange, ...]:
        if mask not in self._ports:
            self._ports[mask] = self._matrix.ports.intervals(mask)
        return self._ports[mask]


def with_strangers(snapshot: PolicySnapshot, strangers: Mapping[str, Mapping[str, str]]) -> PolicySnapshot:
    """Return the snapshot with namespaces that are not there yet, each with one pod without labels."""
    from podwire.model.objects import Key

    namespaces = {n: Namespace(n, dict(labels)) for n, labels in strangers.items()}
    pods = {Key(n, "any"): Pod(Key(n, "any")) for n in strangers}
    return replace(snapshot, pods={**snapshot.pods, **pods}, namespaces={**snapshot.namespaces, **namespaces})
