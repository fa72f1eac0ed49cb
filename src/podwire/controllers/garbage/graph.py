"""Who owns whom, over all kinds, and what that means for one object. Pure.

Source: https://kubernetes.io/docs/concepts/architecture/garbage-collection/
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from podwire.model.objects import Key, Obj, is_deleting, key_of
from podwire.model.resources import Resource

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


class OwnerRef(NamedTuple):
    """One ownerReference."""

    api_version: str
    kind: str
    name: str
    uid: str
    blocks: bool


@dataclass(frozen=True, slots=True)
class Vertex:
    """One object: what garbage collection needs of it."""

    uid: str
    resource: Resource
    key: Key
    owners: tuple[OwnerRef, ...]
    deleting: bool
    finalizers: frozenset[str]

    @property
    def waits_for_dependents(self) -> bool:
        """Deletion in the foreground: dependents first."""
        return self.deleting and FOREGROUND in self.finalizers

    @property
    def orphans_dependents(self) -> bool:
        """Deletion that leaves dependents alone."""
        return self.deleting and ORPHAN in self.finalizers


def vertex_of(resource: Resource, obj: Obj) -> Vertex:
    """Return the vertex of an object."""
    meta = obj["metadata"]
    return Vertex(
        uid=meta["uid"],
        resource=resource,
        key=key_of(obj),
        owners=tuple(
            OwnerRef(r["apiVersion"], r["kind"], r["name"], r["uid"], bool(r.get("blockOwnerDeletion")))
            for r in meta.get("ownerReferences") or ()
        ),
        deleting=is_deleting(obj),
        finalizers=frozenset(meta.get("finalizers") or ()),
    )


class Graph:
    """The vertices by uid, and the edges from owner to dependents. Changed only by its owner."""

    def __init__(self) -> None:
        self.vertices: dict[str, Vertex] = {}
        self._dependents: dict[str, set[str]] = {}

    def put(self, vertex: Vertex) -> None:
        """Add or replace a vertex."""
        self._unlink(vertex.uid)
        self.vertices[vertex.uid] = vertex
        for ref in vertex.owners:
            self._dependents.setdefault(ref.uid, set()).add(vertex.uid)

    def remove(self, uid: str) -> Vertex | None:
        """Remove a vertex and return it; None when it was not there. Its dependents still name it."""
        self._unlink(uid)
        return self.vertices.pop(uid, None)

    def _unlink(self, uid: str) -> None:
        old = self.vertices.get(uid)
        for ref in old.owners if old is not None else ():
            children = self._dependents.get(ref.uid)
            if children is not None:
                children.discard(uid)
                if not children:
                    del self._dependents[ref.uid]

    def dependents(self, uid: str) -> list[Vertex]:
        """Return the objects that name ``uid`` as an owner."""
        return [self.vertices[d] for d in self._dependents.get(uid, ())]

    def blocking_dependents(self, uid: str) -> list[Vertex]:
        """Return the dependents that keep a foreground deletion waiting."""
        return [d for d in self.dependents(uid) if any(r.uid == uid and r.blocks for r in d.owners)]

    def needs_attention(self, vertex: Vertex) -> bool:
        """Return whether an object that was just seen may be garbage, or is to free its dependents."""
        if vertex.waits_for_dependents or vertex.orphans_dependents:
            return True
        for ref in vertex.owners:
            owner = self.vertices.get(ref.uid)
            if owner is None or owner.waits_for_dependents or not can_own(owner, vertex):
                return True
        return False


def can_own(owner: Vertex, dependent: Vertex) -> bool:
    """Return whether the scopes allow it: a namespaced owner owns within its own namespace only."""
    return not owner.resource.namespaced or owner.key.namespace == dependent.key.namespace


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to one dependent: delete it so, or rid it of owners, or neither ("" and empty)."""

    delete: str = ""  # a propagation policy
    drop_owners: frozenset[str] = frozenset()


def judge(vertex: Vertex, absent: Collection[str], waiting: Collection[str], has_dependents: bool) -> Verdict:
    """Return the verdict over an object, given which owners are absent and which wait for dependents.

    An owner that is neither keeps it alive. One that lost all owners goes; in the foreground when an owner
    waits for it and it has dependents of its own.
    """
    if not vertex.owners or (vertex.deleting and not vertex.finalizers):
        return Verdict()
    solid = [r for r in vertex.owners if r.uid not in absent and r.uid not in waiting]
    if solid:
        return Verdict(drop_owners=frozenset({*absent, *waiting}))
    if vertex.deleting:
        return Verdict()
    if waiting and has_dependents:
        return Verdict(delete="Foreground")
    if ORPHAN in vertex.finalizers:
        return Verdict(delete="Orphan")
    return Verdict(delete="Foreground" if FOREGROUND in vertex.finalizers else "Background")


def without_owners(references: Iterable[Obj], uids: Collection[str]) -> list[Obj]:
    """Return the ownerReferences whose uid is not among ``uids``."""
    return [r for r in references if r["uid"] not in uids]
