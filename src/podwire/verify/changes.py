"""What a change opens and what it cuts, by workload, each line with a packet that shows it. Pure.

Workloads that both sides have are compared exactly (``policy.difference``); those of one side only are read off
that side's matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import product

from podwire.model.objects import Key
from podwire.policy.difference import Change as PolicyChange
from podwire.policy.difference import Ends, compare
from podwire.policy.evaluate import Decision, Packet, evaluate
from podwire.policy.rules import PortRange
from podwire.policy.snapshot import Pod, PolicySnapshot
from podwire.verify.grid import OUTSIDE, Grid, Line, grid, ports_word
from podwire.verify.judge import end_of, place_of
from podwire.verify.names import outside_address
from podwire.verify.world import World

NODES = "(nodes)"
"""The party that is the nodes themselves, but for a pod's own, which always reaches it."""


@dataclass(frozen=True, slots=True)
class Change:
    """Ports between two parties that a change opens, or cuts."""

    opens: bool
    source: str
    destination: str
    ports: str
    example: str  # one packet, as text
    because: str  # what denies it on the side where it is denied

    def as_json(self) -> dict[str, object]:
        """Return the change for machines."""
        return {
            "change": "opens" if self.opens else "cuts", "source": self.source, "destination": self.destination,
            "ports": self.ports, "example": self.example, "because": self.because,
        }  # fmt: skip


def changes(old: World, new: World, namespaces: Sequence[str] = ()) -> tuple[Change, ...]:
    """Return what connections ``new`` opens and cuts against ``old``, by source and destination.

    A workload that only one of them has counts as reaching nothing in the other. ``namespaces``: look at the pods
    of these only (none named: all).
    """
    before, after = grid(old, namespaces=namespaces), grid(new, namespaces=namespaces)
    found = list(_of_both(old, new, before, after))
    for opens, world, table, other in ((True, new, after, before), (False, old, before, after)):
        found += _of_one(opens, world, table, {line.name for line in other.lines})
    told = {(c.source, c.destination, c.opens, c.ports): c for c in reversed(found)}
    return tuple(told[key] for key in sorted(told))


def _of_both(old: World, new: World, before: Grid, after: Grid) -> Iterator[Change]:
    """Yield what differs between workloads that both sides have."""
    lines = {line.name: line for line in before.lines}
    shared = {line.name: (lines[line.name], line) for line in after.lines if line.pods and line.name in lines}
    names = {pod.key: name for name, (mine, _) in shared.items() for pod in mine.pods}
    difference = compare(_only(old.snapshot, names), _aligned(new, shared, names))
    for change in difference.changes:
        world = old if change.opened else new
        verdict = change.before if change.opened else change.after
        because = _because(world, verdict.deciding)
        ports = ports_word(change.ports)
        for source, destination in product(_named(change.sources, names), _named(change.destinations, names)):
            if _is_told(change, source, destination):
                yield Change(change.opened, source, destination, ports, str(change.packet), because)


def _is_told(change: PolicyChange, source: str, destination: str) -> bool:
    """Return whether people would speak of it: some pods are at an end, and it is about more than ICMP."""
    strangers = (OUTSIDE, NODES)
    return any(p.protocol != "ICMP" for p in change.ports) and not (source in strangers and destination in strangers)


def _only(snapshot: PolicySnapshot, names: Mapping[Key, str]) -> PolicySnapshot:
    return replace(snapshot, pods={key: pod for key, pod in snapshot.pods.items() if key in names})


def _aligned(new: World, shared: Mapping[str, tuple[Line, Line]], names: Mapping[Key, str]) -> PolicySnapshot:
    """Return the new snapshot with the pods of each shared workload under the names that they have in the old one.

    A stand-in takes the old pod's address, too: it has none of its own that would mean anything.
    """
    pods: dict[Key, Pod] = {}
    for mine, theirs in shared.values():
        by_name = {p.key: p for p in theirs.pods}
        for old_pod in mine.pods:
            view = by_name.get(old_pod.key, theirs.pods[0])
            pod = replace(new.snapshot.pods[view.key], key=old_pod.key)
            if view.stand_in and old_pod.ip:
                pod = replace(pod, ips=(ip_address(old_pod.ip),))
            pods[old_pod.key] = pod
    return replace(new.snapshot, pods={key: pods[key] for key in names if key in pods})


def _named(ends: Ends, names: Mapping[Key, str]) -> list[str]:
    """Return the parties at one end: workloads, the nodes, the outside."""
    found = dict.fromkeys(names[key] for key in ends.pods if key in names)
    if ends.nodes:
        found[NODES] = None
    if ends.addresses:
        found[OUTSIDE] = None
    return list(found)


def _of_one(opens: bool, world: World, table: Grid, others: set[str]) -> Iterator[Change]:
    """Yield the connections of workloads that only this side has."""
    lines = {line.name: line for line in table.lines}
    for (source, destination), cell in table.cells.items():
        missing = next((name for name in (source, destination) if name not in others), "")
        if not missing or not cell.some:
            continue
        example = _example(world, lines[source], lines[destination], cell.some[0])
        yield Change(
            opens, source, destination, ports_word(cell.some), example, f"{missing} is {'new' if opens else 'gone'}"
        )


def _example(world: World, source: Line, destination: Line, port: PortRange) -> str:
    """Return a packet that passes."""
    number = 0 if port.protocol == "ICMP" else max(port.first, 1)
    for a, b in product(source.pods or (None,), destination.pods or (None,)):
        ends = [end_of(world, pod, outside_address(world)) for pod in (a, b)]
        packet = Packet(ends[0], ends[1], port.protocol, number)
        if (a is None or b is None or a.key != b.key) and evaluate(world.snapshot, packet).allowed:
            return str(packet)
    return f"{source.name} -> {destination.name} {number}/{port.protocol}"


def _because(world: World, decision: Decision) -> str:
    _, place = place_of(world, decision)
    where = f" ({place})" if place is not None and place.line else ""
    return f"denied by {decision.direction}: {decision.reason}{where}"
