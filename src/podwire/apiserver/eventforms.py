"""Event in its two forms: core/v1, which is stored, and events.k8s.io/v1. Same object, other names."""

from __future__ import annotations

from podwire.model.objects import Obj

_NAMES = {  # core/v1 -> events.k8s.io/v1
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_BACK = {new: old for old, new in _NAMES.items()}


def to_core(event: Obj) -> Obj:
    """Return the core/v1 form of an events.k8s.io/v1 Event."""
    return {_BACK.get(k, k): v for k, v in event.items()} | {"apiVersion": "v1"}


def from_core(event: Obj) -> Obj:
    """Return the events.k8s.io/v1 form of a core/v1 Event."""
    return {_NAMES.get(k, k): v for k, v in event.items()} | {"apiVersion": "events.k8s.io/v1"}
