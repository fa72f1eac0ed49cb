"""Which EndpointSlices belong to which Service. Pure: the proxy and DNS both join them so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from podwire.model.objects import Key, Obj, labels_of

SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class ServiceSlices:
    """The join, kept as slices come and go."""

    def __init__(self) -> None:
        self._by_service: dict[Key, set[Key]] = {}
        self._owner: dict[Key, Key] = {}

    def note(self, key: Key, piece: Obj | None) -> Iterable[Key]:
        """Take in a new, changed or deleted (None) slice; return the Services whose endpoints it touches."""
        old = self._owner.pop(key, None)
        new = _service_of(key, piece) if piece is not None else None
        if old is not None and old != new:
            self._by_service[old].discard(key)
            if not self._by_service[old]:
                del self._by_service[old]
        if new is not None:
            self._owner[key] = new
            self._by_service.setdefault(new, set()).add(key)
        return [k for k in dict.fromkeys((old, new)) if k is not None]

    def of(self, service: Key) -> Iterable[Key]:
        """Return the keys of a Service's slices, sorted."""
        return sorted(self._by_service.get(service, ()))


def _service_of(key: Key, piece: Mapping[str, Any]) -> Key | None:
    name = labels_of(piece).get(SERVICE_NAME_LABEL)
    return Key(key.namespace, name) if name else None
