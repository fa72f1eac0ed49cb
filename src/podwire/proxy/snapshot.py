"""The Services and their slices, joined: what the plan is given, by Service. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from podwire.model.objects import Key, Obj
from podwire.model.serviceslices import ServiceSlices
from podwire.proxy.desired import Here, ServiceRules
from podwire.proxy.plan import plan_service

_USUAL = {"ready": True, "serving": True, "terminating": False}


_PACKED = "packed"


def trim_endpoint(endpoint: Mapping[str, Any]) -> Obj:
    """Return as much of an endpoint as the plan reads; what is usual is left out."""
    small: Obj = {"addresses": endpoint["addresses"][:1]} if endpoint.get("addresses") else {}
    for name in ("nodeName", "hints"):
        if endpoint.get(name):
            small[name] = endpoint[name]
    conditions = endpoint.get("conditions")
    if conditions and conditions != _USUAL:  # which is what their absence means
        small["conditions"] = conditions
    return small


def pack(meta: Mapping[str, Any], trimmed: Obj, labels: Mapping[str, str] | None = None) -> Obj:
    """Return an object of which only the key, the version and some labels can be read: in a fifth of the memory."""
    kept = {k: meta[k] for k in ("namespace", "name", "resourceVersion") if k in meta}
    if labels:
        kept["labels"] = labels
    # A copy: orjson's own bytes keep the kilobytes that they were written into.
    return {"metadata": kept, _PACKED: bytes(memoryview(orjson.dumps(trimmed)))}


def unpack(obj: Obj) -> Obj:
    """Return what was packed; an object that was not packed as it is."""
    if _PACKED not in obj:
        return obj
    found: Obj = orjson.loads(obj[_PACKED])
    return found


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
        slices = [unpack(self._slices[s]) for s in self._join.of(key) if s in self._slices]
        return plan_service(unpack(service), slices, here)
