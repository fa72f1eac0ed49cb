"""The Services and their slices, joined: what the plan is given, by Service. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from podwire.model.objects import Key, Obj
from podwire.model.serviceslices import ServiceSlices
from podwire.proxy.desired import Here, ServiceRules
from podwire.proxy.plan import plan_service


class Snapshot:
    """Reads two mirrored collections; keeps only which slice belongs to which Service."""

    def __init__(self, services: Mapping[Key, Obj], slices: Mapping[Key, Obj]) -> None:
        self._services, self._slices = services, slices
        self._join = ServiceSlices()

    def note_slice(self, key: Key, piece: Obj | None) -> Iterable[Key]:
        """Take in a new, changed or deleted (None) slice; return the Services whose endpoints it touches."""
        return self._join.note(key, piece)

    def keys(self) -> Iterable[Key]:
        """Return every Service."""
        return tuple(self._services)

    def plan(self, key: Key, here: Here) -> ServiceRules | None:
        """Return the rules of one Service; None when there is no such Service."""
        service = self._services.get(key)
        if service is None:
            return None
        slices = [self._slices[s] for s in self._join.of(key) if s in self._slices]
        return plan_service(service, slices, here)
