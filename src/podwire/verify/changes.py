"""What a change opens and what it cuts, by workload, each line with a packet that shows it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import product

from podwire.policy.evaluate import Decision, Packet, evaluate
from podwire.policy.rules import PortRange
from podwire.policy.snapshot import Endpoint
from podwire.verify.grid import Cell, Grid, Line, grid, ports_word
from podwire.verify.judge import place_of
from podwire.verify.names import outside_address
from podwire.verify.workloads import PodView
from podwire.verify.world import World


@dataclass(frozen=True, slots=True)
class Change:
    """Ports between two parties that a change opens, or cuts."""

    opens: bool
    source: str
    destination: str
    ports: str
    example: str  # one packet, as text
    because: str  # what decides it on the side where it is denied or newly allowed

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
    pairs = sorted({*before.cells, *after.cells})
    return tuple(change for pair in pairs for change in _of_pair(old, new, before, after, pair))


def _of_pair(old: World, new: World, before: Grid, after: Grid, pair: tuple[str, str]) -> Iterator[Change]:
    was, now = before.cells.get(pair), after.cells.get(pair)
    for opens, less, more in ((True, was, now), (False, now, was)):
        ports = _more(less, more)
        if not ports or more is None:
            continue
        sides = ((new, after), (old, before)) if opens else ((old, before), (new, after))
        example, because = _witness(*sides, pair, ports)
        missing = _missing(sides[1][1], pair)
        if missing:
            because = f"{missing} is {'new' if opens else 'gone'}"
        yield Change(opens, *pair, ports_word(ports), example, because)


def _more(less: Cell | None, more: Cell | None) -> tuple[PortRange, ...]:
    """Return the ports that ``more`` lets pass, for all of its pods or for some, and ``less`` does not."""
    if more is None:
        return ()
    if less is None:
        return more.some
    for all_more, all_less in ((more.ports, less.ports), (more.some, less.some)):
        found = subtract(all_more, all_less)
        if found:
            return found
    return ()


def subtract(ports: Sequence[PortRange], others: Sequence[PortRange]) -> tuple[PortRange, ...]:
    """Return what is in ``ports`` and not in ``others``, protocol by protocol."""
    left = list(ports)
    for other in others:
        rest: list[PortRange] = []
        for p in left:
            if p.protocol != other.protocol or p.last < other.first or other.last < p.first:
                rest.append(p)
                continue
            if p.first < other.first:
                rest.append(PortRange(p.protocol, p.first, other.first - 1))
            if other.last < p.last:
                rest.append(PortRange(p.protocol, other.last + 1, p.last))
        left = rest
    return tuple(left)


def _missing(table: Grid, pair: tuple[str, str]) -> str:
    """Return the party of a pair that a table does not have; "" when it has both."""
    names = {line.name for line in table.lines}
    return next((name for name in pair if name not in names), "")


def _witness(
    here: tuple[World, Grid], there: tuple[World, Grid], pair: tuple[str, str], ports: Sequence[PortRange]
) -> tuple[str, str]:
    """Return a packet that passes here and not there, and what decides that."""
    (world, table), (other, other_table) = here, there
    mine = {line.name: line for line in table.lines}
    theirs = {line.name: line for line in other_table.lines}
    protocol = ports[0].protocol
    number = 0 if protocol == "ICMP" else max(ports[0].first, 1)
    for a, b in product(_ends(mine[pair[0]]), _ends(mine[pair[1]])):
        if a is not None and b is not None and a.key == b.key:
            continue
        packet = Packet(_end(world, a), _end(world, b), protocol, number)
        if not evaluate(world.snapshot, packet).allowed:
            continue
        if not {*pair} <= theirs.keys():
            return str(packet), ""
        ends = [_end(other, _same(other, pod, theirs[name])) for pod, name in zip((a, b), pair, strict=True)]
        verdict = evaluate(other.snapshot, Packet(ends[0], ends[1], protocol, number))
        if not verdict.allowed:
            return str(packet), _because(other, verdict.deciding)
    return f"{pair[0]} -> {pair[1]} {number}/{protocol}", ""


def _same(other: World, pod: PodView | None, line: Line) -> PodView | None:
    """Return the pod that stands for ``pod`` in the other world: of its name, else of its workload."""
    if pod is None:
        return None
    return other.by_pod.get(pod.key) or (line.pods[-1] if line.pods else None)


def _ends(line: Line) -> Sequence[PodView | None]:
    return line.pods or (None,)


def _end(world: World, pod: PodView | None) -> Endpoint:
    if pod is None:
        return world.snapshot.endpoint(ip_address(outside_address(world)))
    return world.snapshot.pod_endpoint(pod.key)


def _because(world: World, decision: Decision) -> str:
    _, place = place_of(world, decision)
    where = f" ({place})" if place is not None and place.line else ""
    return f"denied by {decision.direction}: {decision.reason}{where}"
