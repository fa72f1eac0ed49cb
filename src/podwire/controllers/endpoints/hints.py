"""Which zones and nodes should use an endpoint: spec.trafficDistribution, and topology-mode Auto. Pure.

Sources: KEP-4444 (traffic distribution), KEP-3015 (PreferSameNode), KEP-2433 (topology aware routing).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from podwire.controllers.endpoints.plan import Endpoint, Group
from podwire.model.objects import Obj, annotations_of

TOPOLOGY_MODE = "service.kubernetes.io/topology-mode"
_OLD_TOPOLOGY_MODE = "service.kubernetes.io/topology-aware-hints"
_OVERLOAD = 0.2  # a zone may get this much more traffic per endpoint than the average


@dataclass(frozen=True, slots=True)
class Topology:
    """Where nodes are, and how much CPU the ready nodes of each zone have (millicores)."""

    zones: Mapping[str, str]  # node -> zone
    cpu_milli: Mapping[str, int]  # zone -> sum; empty when some ready node has no zone or no CPU


def wants_auto(service: Obj) -> bool:
    """Return whether endpoints are shared among zones in proportion to their CPUs."""
    annotations = annotations_of(service)
    mode = annotations.get(TOPOLOGY_MODE, annotations.get(_OLD_TOPOLOGY_MODE, ""))
    return mode in ("Auto", "auto")


def with_hints(
    service: Obj, groups: Mapping[Group, Sequence[Endpoint]], topology: Topology
) -> dict[Group, tuple[Endpoint, ...]]:
    """Return the endpoints with the hints that the Service asks for; the annotation goes before the field."""
    if wants_auto(service):
        return {g: share_among_zones(es, topology.cpu_milli) for g, es in groups.items()}
    distribution = (service.get("spec") or {}).get("trafficDistribution")
    if distribution in ("PreferClose", "PreferSameZone", "PreferSameNode"):
        by_node = distribution == "PreferSameNode"
        return {g: tuple(_near(e, by_node) for e in es) for g, es in groups.items()}
    return {g: tuple(es) for g, es in groups.items()}


def _near(endpoint: Endpoint, by_node: bool) -> Endpoint:
    """Return the endpoint hinted to where it is itself; one that is not ready or nowhere gets no hint."""
    if not endpoint.ready:
        return endpoint
    return replace(
        endpoint,
        for_zones=(endpoint.zone,) if endpoint.zone else (),
        for_nodes=(endpoint.node,) if by_node and endpoint.node else (),
    )


def share_among_zones(endpoints: Sequence[Endpoint], cpu_milli: Mapping[str, int]) -> tuple[Endpoint, ...]:
    """Return the endpoints, the ready ones given to zones so that none is overloaded by more than 20 %.

    No hints at all where that cannot be: fewer than two zones, fewer endpoints than zones, an endpoint or a
    node without a zone, or a zone that would have to serve more than its share.
    """
    ready = [e for e in endpoints if e.ready]
    needed = _needed(len(ready), cpu_milli)
    if needed is None or any(e.zone not in needed for e in ready):
        return tuple(endpoints)
    given: dict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in ready:
        given[endpoint.zone].append(endpoint)
    for zone in sorted(needed, key=lambda z: (-(needed[z] - len(given[z])), z)):
        while len(given[zone]) < needed[zone]:
            donor = max(sorted(needed), key=lambda z: len(given[z]) - needed[z])
            if len(given[donor]) <= needed[donor]:
                return tuple(endpoints)
            given[zone].append(given[donor].pop())
    hinted = {e.identity: zone for zone, own in given.items() for e in own}
    return tuple(replace(e, for_zones=(hinted[e.identity],)) if e.ready else e for e in endpoints)


def _needed(total: int, cpu_milli: Mapping[str, int]) -> dict[str, int] | None:
    """Return the fewest endpoints that each zone needs; None when ``total`` cannot be shared fairly."""
    whole = sum(cpu_milli.values())
    if len(cpu_milli) < 2 or total < len(cpu_milli) or not whole:
        return None
    needed = {z: max(1, ceil(total * c / whole / (1 + _OVERLOAD) - 1e-9)) for z, c in cpu_milli.items()}
    return needed if sum(needed.values()) <= total else None
