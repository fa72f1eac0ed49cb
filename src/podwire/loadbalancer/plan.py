"""Which addresses a node answers for. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from podwire.model.loadbalancers import IPAddress, announcer_of, ingress_addresses, is_ours
from podwire.model.objects import Obj, is_deleting


def plan_addresses(services: Iterable[Obj], node: str) -> frozenset[IPAddress]:
    """Return the addresses of the Services that name ``node`` as their announcer."""
    return frozenset(
        address
        for service in services
        if is_ours(service) and not is_deleting(service) and announcer_of(service) == node
        for address in ingress_addresses(service)
    )
