"""What a change opens and what it cuts: two snapshots compared by what they let pass, not by how they are written.

Pods are matched by namespace and name. Both snapshots share one numbering of classes and of port atoms, so that
comparing them is comparing bits; each line of the answer carries a packet that shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from podwire.model.objects import Key
from podwire.policy.classes import Classes, EndClass
from podwire.policy.evaluate import Packet, Verdict, evaluate
from podwire.policy.matrix import Matrix
from podwire.policy.rules import IPAddress, PortRange
from podwire.policy.sets import members
from podwire.policy.snapshot import Endpoint, PolicySnapshot


@dataclass(frozen=True, slots=True)
class Ends:
    """Who stands at one end of a change: pods, nodes, and examples of outside addresses, that all fare alike."""

    pods: tuple[Key, ...] = ()
    nodes: tuple[str, ...] = ()
    addresses: tuple[IPAddress, ...] = ()

    def __str__(self) -> str:
        names = [str(k) for k in self.pods] + [f"node {n}" for n in self.nodes] + [str(a) for a in self.addresses]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was opened or cut. ``packet`` shows it: ``before`` and ``after`` are the verdicts on it."""

    opened: bool
    sources: Ends
    destinations: Ends
    ports: tuple[PortRange, ...]
    packet: Packet
    before: Verdict
    after: Verdict

    def __str__(self) -> str:
        verb = "opens" if self.opened else "cuts"
        return f"{verb} {self.sources} -> {self.destinations} on {', '.join(map(str, self.ports))}"


@dataclass(frozen=True, slots=True)
class Difference:
    """All that changed. Pods that stand on one side only are named, not compared."""

    changes: tuple[Change, ...]
    added: tuple[Key, ...]
    removed: tuple[Key, ...]


def compare(old: PolicySnapshot, new: PolicySnapshot, families: Sequence[int] = ()) -> Difference:
    """Return what ``new`` lets pass that ``old`` did not, and the reverse, in a fixed order.

    ``families`` are the address families to look at; by default those that pods have (IPv4 when none has any).
    What the second family shows just as the first does is said once.
    """
    found: dict[tuple[object, ...], Change] = {}
    for family in families or _families(old, new):
        for change in _compare(old, new, family):
            where = (change.opened, change.sources.pods, change.sources.nodes, change.destinations, change.ports)
            said = [c for k, c in found.items() if k == where]
            if not said or family == 4:
                found[(*where, change.sources.addresses)] = change
    old_pods = {k for k, p in old.pods.items() if p.selectable}
    new_pods = {k for k, p in new.pods.items() if p.selectable}
    return Difference(tuple(found.values()), tuple(sorted(new_pods - old_pods)), tuple(sorted(old_pods - new_pods)))


def _families(*snapshots: PolicySnapshot) -> tuple[int, ...]:
    return tuple(sorted({ip.version for s in snapshots for p in s.pods.values() for ip in p.ips})) or (4,)


def _compare(old: PolicySnapshot, new: PolicySnapshot, family: int) -> Iterator[Change]:
    classes = Classes((old, new), family)
    sides = Matrix(old, classes=classes, side=0), Matrix(new, classes=classes, side=1)
    lasting = sum(1 << n for n, entry in enumerate(classes.all) if all(entry.traits))
    for dst, entry in enumerate(classes.all):
        if all(entry.traits):
            compared = lasting & ~(1 << dst) if entry.weight == 1 else lasting
            yield from _lines(sides, dst, compared)


def _lines(sides: tuple[Matrix, Matrix], dst: int, compared: int) -> Iterator[Change]:
    """Yield the changes towards one class of destinations, sources that fare alike together."""
    before, after = sides[0].column(dst), sides[1].column(dst)
    if before == after:
        return
    for opened in (True, False):
        gained, lost = (after, before) if opened else (before, after)
        by_source: dict[int, int] = {}
        for atom, (has, had) in enumerate(zip(gained, lost, strict=True)):
            for src in members(has & ~had & compared):
                by_source[src] = by_source.get(src, 0) | 1 << atom
        by_ports: dict[int, list[int]] = {}
        for src, ports in by_source.items():
            by_ports.setdefault(ports, []).append(src)
        for ports, sources in sorted(by_ports.items()):
            change = _change(sides, opened, sources, dst, ports)
            if change is not None:
                yield change


def _change(sides: tuple[Matrix, Matrix], opened: bool, sources: list[int], dst: int, ports: int) -> Change | None:
    """Return the line; None when what differs is only between pods and their own nodes, which is always allowed."""
    classes = sides[0].classes
    protocol, port = classes.vocabulary.ports.example(ports)
    shown: tuple[Packet, Verdict, Verdict] | None = None
    real = []
    for src in sources:
        seen = _witness(sides, classes.all[src], classes.all[dst], protocol, port)
        if seen is not None:
            real.append(classes.all[src])
            shown = shown or seen
    if shown is None:
        return None
    intervals = classes.vocabulary.ports.intervals(ports)
    return Change(opened, _ends(real), _ends([classes.all[dst]]), intervals, *shown)


def _witness(
    sides: tuple[Matrix, Matrix], src: EndClass, dst: EndClass, protocol: str, port: int
) -> tuple[Packet, Verdict, Verdict] | None:
    """Return a packet from one class to the other whose verdict differs, with both verdicts."""
    family = sides[0].classes.family
    for a, b in product(_some(src), _some(dst)):
        if a == b:
            continue
        packets = [Packet(_end(m.snapshot, a, family), _end(m.snapshot, b, family), protocol, port) for m in sides]
        before, after = (evaluate(m.snapshot, p) for m, p in zip(sides, packets, strict=True))
        if before.allowed != after.allowed:
            return packets[1], before, after
    return None


def _some(entry: EndClass) -> list[Key | str | IPAddress]:
    """Return enough members to find two that are neither the same pod nor a pod and its own node."""
    if entry.address is not None:
        return [entry.address]
    return [*entry.nodes[:2], *entry.pods] if entry.nodes else [*entry.pods[:64]]


def _end(snapshot: PolicySnapshot, who: Key | str | IPAddress, family: int) -> Endpoint:
    if isinstance(who, Key):
        return snapshot.pod_endpoint(who, family)
    return snapshot.node_endpoint(who, family) if isinstance(who, str) else Endpoint(who)


def _ends(entries: list[EndClass]) -> Ends:
    return Ends(
        tuple(sorted(key for e in entries for key in e.pods)),
        tuple(sorted(name for e in entries for name in e.nodes)),
        tuple(e.address for e in entries if e.address is not None),
    )
