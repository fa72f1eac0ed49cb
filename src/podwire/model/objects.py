"""Kubernetes objects as the API carries them: JSON, read through a few small functions.

Rooms that only pass objects on (API server, controllers) keep them as JSON. Feature rooms parse what
they need into frozen values of their own at the door.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

Obj: TypeAlias = dict[str, Any]
"""One API object as decoded JSON: apiVersion, kind, metadata, spec, status ..."""


class Key(NamedTuple):
    """Where an object lives within its resource. A cluster-scoped object has namespace ``""``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def key_of(obj: Mapping[str, Any]) -> Key:
    """Return the namespace and name of ``obj``."""
    meta = obj["metadata"]
    return Key(meta.get("namespace", ""), meta["name"])


def labels_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels; empty when there are none."""
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the annotations; empty when there are none."""
    return obj["metadata"].get("annotations") or {}


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the owner reference with ``controller: true``, or None."""
    for ref in obj["metadata"].get("ownerReferences") or ():
        if ref.get("controller"):
            return ref  # type: ignore[no-any-return]
    return None


def is_deleting(obj: Mapping[str, Any]) -> bool:
    """Return whether deletion was asked for and grace or finalizers hold the object."""
    return "deletionTimestamp" in obj["metadata"]


def condition(obj: Mapping[str, Any], type: str) -> Mapping[str, Any] | None:
    """Return the status condition of this type, or None."""
    for c in (obj.get("status") or {}).get("conditions") or ():
        if c.get("type") == type:
            return c  # type: ignore[no-any-return]
    return None


def is_ready(obj: Mapping[str, Any]) -> bool:
    """Return whether the condition Ready is True (pods and nodes)."""
    c = condition(obj, "Ready")
    return c is not None and c.get("status") == "True"


def with_condition(conditions: Sequence[Obj], new: Obj, now: str) -> list[Obj]:
    """Return ``conditions`` with ``new`` set; lastTransitionTime moves only when the status does."""
    old = next((c for c in conditions if c.get("type") == new["type"]), None)
    if old is not None and old.get("status") == new["status"]:
        new = {"lastTransitionTime": old.get("lastTransitionTime") or now, **new}
    else:
        new = {"lastTransitionTime": now, **new}
    return [c for c in conditions if c.get("type") != new["type"]] + [new]


def timestamp(moment: datetime) -> str:
    """Return metav1.Time: RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(moment: datetime) -> str:
    """Return metav1.MicroTime: RFC 3339 in UTC, microseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> datetime:
    """Return the moment that a metav1.Time or MicroTime names. Raises ValueError."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def owner_reference(owner: Mapping[str, Any], *, controller: bool = True) -> Obj:
    """Return an ownerReference to ``owner`` as controllers write it."""
    ref: Obj = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    if controller:
        ref["controller"] = True
        ref["blockOwnerDeletion"] = True
    return ref


def describe(obj: Mapping[str, Any]) -> str:
    """Return "Kind namespace/name", as Problem.object wants it."""
    return f"{obj.get('kind', 'object')} {key_of(obj)}"


def by_key(objects: Iterable[Obj]) -> dict[Key, Obj]:
    """Return the objects by their key."""
    return {key_of(o): o for o in objects}
