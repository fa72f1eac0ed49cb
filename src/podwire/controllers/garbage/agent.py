"""The garbage collector's loop: a graph fed by one metadata mirror per kind; one key per object."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from podwire.client.errors import ApiError, NotFound
from podwire.client.informer import Informer
from podwire.controllers.discovery import discover
from podwire.controllers.garbage.graph import (
    FOREGROUND,
    ORPHAN,
    Graph,
    OwnerRef,
    Vertex,
    can_own,
    judge,
    vertex_of,
    without_owners,
)
from podwire.controllers.shared import Shared, log, tolerant
from podwire.model.objects import Key, Obj
from podwire.model.resources import CRDS, EVENTS, Resource
from podwire.runtime.workloop import WorkLoop

COMPONENT = "garbage-collector-controller"
IGNORED = {("", "events"), ("events.k8s.io", "events")}
REDISCOVER_S = 1.0
FIRST_LOOK_S = 30.0
STAGGER_S = 0.01  # between two watches: each may cost a TLS handshake, and pods are starting
ABSENT_REMEMBERED = 4096


def metadata_only(obj: Obj) -> Obj:
    """Return the part of an object that ownership is about; kinds that only we read are held so."""
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp", "ownerReferences", "finalizers")
    return {
        "apiVersion": obj.get("apiVersion", ""),
        "kind": obj.get("kind", ""),
        "metadata": {k: meta[k] for k in kept if k in meta},
    }


class GarbageCollector:
    """Deletes what no living owner keeps."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._graph = Graph()
        self._loop: WorkLoop[str] = WorkLoop("controllers", tolerant(self._reconcile), workers=8, clock=shared.clock)
        self._kinds: dict[tuple[str, str], Resource] = {}  # (apiVersion, kind)
        self._watched: dict[Resource, tuple[Informer, asyncio.Task[None] | None]] = {}
        self._absent: OrderedDict[str, None] = OrderedDict()
        self._changed = asyncio.Event()
        self._crds = shared.informer(CRDS)
        self._crds.listen(self._crd)

    async def run(self) -> None:
        """Work until cancelled. Starts late: nothing is garbage while a cluster starts."""
        await self._shared.clock.sleep(self._shared.config.garbage_delay_s)
        async with asyncio.TaskGroup() as group:
            await self._watch_kinds(group)
            await self._first_look()
            group.create_task(self._loop.run())
            while True:
                await self._changed.wait()
                # A new kind is served a moment after its definition was written.
                await self._shared.clock.sleep(REDISCOVER_S)
                self._changed.clear()
                await self._watch_kinds(group)

    async def _first_look(self) -> None:
        """Return when every mirror has listed once; one that cannot holds the others up for a while only.

        That is safe: an owner that no mirror shows is asked for before anything is deleted.
        """
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                for informer, _ in list(self._watched.values()):
                    await informer.synced.wait()
        except TimeoutError:
            missing = [r.plural for r, (informer, _) in self._watched.items() if not informer.synced.is_set()]
            log.warning("kinds-unseen", missing=",".join(missing))

    def _crd(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if old is None or new is None or old["spec"] != new["spec"] or _served(old) != _served(new):
            self._changed.set()

    async def _watch_kinds(self, group: asyncio.TaskGroup) -> None:
        """Watch every kind that is served, and no other."""
        try:
            served = await discover(self._shared.client)
        except ApiError as error:
            log.warning("discovery-failed", error=str(error))
            self._changed.set()
            return
        if not served.complete:
            self._changed.set()
        wanted = [r for r in served.resources if (r.group, r.plural) not in IGNORED and r != EVENTS]
        for resource in wanted:
            self._kinds[resource.api_version, resource.kind] = resource
            if resource not in self._watched:
                self._watch(group, resource)
                await self._shared.clock.sleep(STAGGER_S)
        if served.complete:
            for resource in [r for r in self._watched if r not in wanted]:
                self._unwatch(resource)

    def _watch(self, group: asyncio.TaskGroup, resource: Resource) -> None:
        if self._shared.mirrored(resource):
            informer, task = self._shared.informer(resource), None
        else:
            informer = Informer(self._shared.client, resource, clock=self._shared.clock, trim=metadata_only)
            task = group.create_task(informer.run())
        self._watched[resource] = (informer, task)
        informer.listen(lambda key, old, new: self._see(resource, old, new))

    def _unwatch(self, resource: Resource) -> None:
        """Forget a kind that is no longer served; what it owned is garbage."""
        informer, task = self._watched.pop(resource)
        self._kinds.pop((resource.api_version, resource.kind), None)
        if task is not None:
            task.cancel()
            for obj in list(informer.objects.values()):
                self._gone(obj["metadata"]["uid"])

    def _see(self, resource: Resource, old: Obj | None, new: Obj | None) -> None:
        if old is not None and (new is None or old["metadata"]["uid"] != new["metadata"]["uid"]):
            self._gone(old["metadata"]["uid"])
        if new is None:
            return
        if old is not None and old["metadata"]["uid"] == new["metadata"]["uid"] and _same_links(old, new):
            return
        vertex = vertex_of(resource, new)
        before = self._graph.vertices.get(vertex.uid)
        self._graph.put(vertex)
        if self._graph.needs_attention(vertex):
            self._loop.add(vertex.uid)
        for ref in before.owners if before is not None else ():
            if ref not in vertex.owners:
                self._wake_waiting(ref.uid)

    def _gone(self, uid: str) -> None:
        self._absent[uid] = None
        if len(self._absent) > ABSENT_REMEMBERED:
            self._absent.popitem(last=False)
        vertex = self._graph.remove(uid)
        for dependent in self._graph.dependents(uid):
            self._loop.add(dependent.uid)
        for ref in vertex.owners if vertex is not None else ():
            self._wake_waiting(ref.uid)

    def _wake_waiting(self, uid: str) -> None:
        owner = self._graph.vertices.get(uid)
        if owner is not None and owner.waits_for_dependents:
            self._loop.add(uid)

    async def _reconcile(self, uid: str) -> float | None:
        vertex = self._graph.vertices.get(uid)
        if vertex is None:
            return None
        if vertex.orphans_dependents:
            await self._orphan_dependents(vertex)
            return None
        if vertex.waits_for_dependents:
            return await self._await_dependents(vertex)
        absent, waiting, unknown = set(), set(), False
        for ref in vertex.owners:
            owner = self._graph.vertices.get(ref.uid)
            if owner is not None and can_own(owner, vertex):
                if owner.waits_for_dependents:
                    waiting.add(ref.uid)
                continue
            exists = False if owner is not None else await self._exists(ref, vertex)
            if exists is None:
                unknown = True
            elif not exists:
                absent.add(ref.uid)
                if owner is not None:
                    self._say_invalid(vertex, ref)
        if unknown:
            return 30.0  # a kind that nobody serves (yet): it may come back, so nothing is deleted
        verdict = judge(vertex, absent, waiting, bool(self._graph.dependents(uid)))
        if verdict.delete:
            await self._delete(vertex, verdict.delete)
        elif verdict.drop_owners:
            await self._drop_owners(vertex, verdict.drop_owners)
        return None

    async def _exists(self, ref: OwnerRef, vertex: Vertex) -> bool | None:
        """Ask the server for an owner that no mirror shows; None when its kind is not served."""
        if ref.uid in self._absent:
            return False
        resource = self._kinds.get((ref.api_version, ref.kind)) or self._any_version(ref)
        if resource is None:
            return None
        namespace = vertex.key.namespace if resource.namespaced else ""
        if resource.namespaced and not namespace:
            return None  # a cluster-scoped object cannot be owned from within a namespace
        try:
            found = await self._shared.client.get(resource, ref.name, namespace)
        except NotFound:
            found = None
        if found is not None and found["metadata"]["uid"] == ref.uid:
            return True
        self._absent[ref.uid] = None
        return False

    def _any_version(self, ref: OwnerRef) -> Resource | None:
        group = ref.api_version.rpartition("/")[0]
        return next((r for r in self._kinds.values() if r.group == group and r.kind == ref.kind), None)

    def _say_invalid(self, vertex: Vertex, ref: OwnerRef) -> None:
        obj = self._object(vertex)
        if obj is not None:
            text = (
                f"ownerRef [{ref.kind}/{ref.name}, uid: {ref.uid}] does not exist in namespace {vertex.key.namespace!r}"
            )
            self._shared.recorder.warning(obj, "OwnerRefInvalidNamespace", text, COMPONENT)

    def _object(self, vertex: Vertex) -> Obj | None:
        watched = self._watched.get(vertex.resource)
        return watched[0].objects.get(vertex.key) if watched is not None else None

    async def _await_dependents(self, vertex: Vertex) -> float | None:
        """Let a foreground deletion finish, or hurry the dependents that it waits for."""
        blocking = self._graph.blocking_dependents(vertex.uid)
        if not blocking:
            await self._drop_finalizer(vertex, FOREGROUND)
            return None
        for dependent in self._graph.dependents(vertex.uid):
            self._loop.add(dependent.uid)
        return None

    async def _orphan_dependents(self, vertex: Vertex) -> None:
        for dependent in self._graph.dependents(vertex.uid):
            await self._drop_owners(dependent, frozenset({vertex.uid}))
        await self._drop_finalizer(vertex, ORPHAN)

    async def _delete(self, vertex: Vertex, propagation: str) -> None:
        await self._shared.client.delete(
            vertex.resource, vertex.key.name, vertex.key.namespace, propagation=propagation, uid=vertex.uid
        )

    async def _fresh(self, vertex: Vertex) -> Obj | None:
        try:
            found = await self._shared.client.get(vertex.resource, vertex.key.name, vertex.key.namespace)
        except NotFound:
            return None
        return found if found["metadata"]["uid"] == vertex.uid else None

    async def _drop_owners(self, vertex: Vertex, uids: frozenset[str]) -> None:
        found = await self._fresh(vertex)
        if found is None:
            return
        present = found["metadata"].get("ownerReferences") or []
        rest = without_owners(present, uids)
        if len(rest) != len(present):
            await self._patch(vertex, found, {"ownerReferences": rest or None})

    async def _drop_finalizer(self, vertex: Vertex, finalizer: str) -> None:
        found = await self._fresh(vertex)
        if found is None:
            return
        present = found["metadata"].get("finalizers") or []
        if finalizer in present:
            await self._patch(vertex, found, {"finalizers": [f for f in present if f != finalizer] or None})

    async def _patch(self, vertex: Vertex, found: Obj, change: Obj) -> None:
        meta = {"uid": vertex.uid, "resourceVersion": found["metadata"]["resourceVersion"], **change}
        await self._shared.client.patch(vertex.resource, vertex.key.name, {"metadata": meta}, vertex.key.namespace)


def _same_links(old: Obj, new: Obj) -> bool:
    a, b = old["metadata"], new["metadata"]
    names = ("ownerReferences", "finalizers", "deletionTimestamp")
    return all(a.get(n) == b.get(n) for n in names)


def _served(crd: Obj) -> list[tuple[str, str]]:
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return [(c["type"], c["status"]) for c in conditions]
