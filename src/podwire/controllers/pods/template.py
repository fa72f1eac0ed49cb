"""How a pod template becomes a pod, and how templates are compared and hashed. Pure."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from podwire.model.objects import Obj, owner_reference

TEMPLATE_HASH = "pod-template-hash"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def pod_of(owner: Mapping[str, Any], template: Mapping[str, Any], name: str, generate: str = "") -> Obj:
    """Return the pod that ``owner`` creates from ``template`` under ``name``.

    ``generate`` is the base of a generated name, kept in metadata.generateName as kubectl shows it.
    """
    meta = template.get("metadata") or {}
    metadata: Obj = {
        "name": name,
        "namespace": owner["metadata"]["namespace"],
        "labels": dict(meta.get("labels") or {}),
        "annotations": dict(meta.get("annotations") or {}),
        "ownerReferences": [owner_reference(owner)],
    }
    if generate:
        metadata["generateName"] = generate
    if meta.get("finalizers"):
        metadata["finalizers"] = list(meta["finalizers"])
    if not metadata["annotations"]:
        del metadata["annotations"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": copy.deepcopy(dict(template.get("spec") or {})),
    }


def canonical(value: Any) -> Any:
    """Return ``value`` without what means the same absent: None and empty lists.

    An empty mapping stays: ``emptyDir: {}`` says something.
    """
    if isinstance(value, Mapping):
        return {k: canonical(v) for k, v in value.items() if v is not None and v != []}
    if isinstance(value, list | tuple):
        return [canonical(v) for v in value]
    return value


def without_hash(template: Mapping[str, Any]) -> Any:
    """Return the canonical template without the label that carries its own hash."""
    plain = canonical(template)
    meta = dict(plain.get("metadata") or {})
    meta.pop("creationTimestamp", None)
    labels = {k: v for k, v in (meta.pop("labels", None) or {}).items() if k != TEMPLATE_HASH}
    if labels:
        meta["labels"] = labels
    if not meta.get("annotations"):
        meta.pop("annotations", None)
    return {**plain, "metadata": meta}


def same_template(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two templates ask for the same pods, the hash label aside."""
    return bool(without_hash(a) == without_hash(b))


def hash_of(value: Any, collisions: int = 0) -> str:
    """Return ten letters that name ``value``: FNV-1a of its canonical JSON, spelt as Kubernetes does."""
    encoded = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    if collisions:
        encoded += collisions.to_bytes(8, "little")
    return spell(fnv32a(encoded))


def template_hash(template: Mapping[str, Any], collisions: int = 0) -> str:
    """Return the pod-template-hash of a template."""
    return hash_of(without_hash(template), collisions)


def fnv32a(raw: bytes) -> int:
    """Return the 32-bit FNV-1a hash."""
    h = 0x811C9DC5
    for byte in raw:
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def spell(number: int) -> str:
    """Return ten letters for a 32-bit number: its decimal digits, each through a safe alphabet."""
    return "".join(_LETTERS[ord(d) % len(_LETTERS)] for d in f"{number:010d}")
