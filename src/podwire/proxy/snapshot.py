"""The Services and their slices, joined: what the plan is given, by Service. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from podwire.model.objects import Key, Obj, labels_of
from podwire.proxy.desired import Here, ServiceRules
from podwire.proxy.plan import SERVICE_NAME_LABEL, plan_service


class Snapshot:
    """Reads two mirrored collections; keeps only which slice belongs to which Service."""

    def __init__(self, services: Mapping[Key, Obj], slices: Mapping[Key, Obj]) -> None:
        self._services, self._slices = services, slices
        self._by_service: dict[Key, set[Key]] = {}
        self._owner: dict[Key, Key] = {}

    def note_slice(self, key: Key, piece: Obj | None) -> Iterable[Key]:
        """Take in a new, changed or deleted (None) slice; return the Services whose endpoints it touches."""
        old = self._owner.pop(key, None)
        new = service_of(key, piece) if piece is not None else None
        if old is not None and old != new:
            self._by_service[old].discard(key)
            if not self._by_service[old]:
                del self._by_service[old]
        if new is not None:
            self._owner[key] = new
            self._by_service.setdefault(new, set()).add(key)
        return [k for k in dict.fromkeys((old, new)) if k is not None]

    def keys(self) -> Iterable[Key]:
        """Return every Service."""
        return tuple(self._services)

    def plan(self, key: Key, here: Here) -> ServiceRules | None:
        """Return the rules of one Service; None when there is no such Service."""
        service = self._services.get(key)
        if service is None:
            return None
        slices = [self._slices[s] for s in sorted(self._by_service.get(key, ())) if s in self._slices]
        return plan_service(service, slices, here)


def service_of(key: Key, piece: Obj) -> Key | None:
    """Return the Service that a slice belongs to, or None."""
    name = labels_of(piece).get(SERVICE_NAME_LABEL)
    return Key(key.namespace, name) if name else None
