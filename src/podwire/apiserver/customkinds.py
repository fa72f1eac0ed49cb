"""The registry kept in step with the stored CustomResourceDefinitions, and the end of those deleted."""

from __future__ import annotations

import asyncio

import orjson

from podwire.apiserver.crds import CLEANUP, is_established, kinds_of
from podwire.apiserver.errors import ApiStatusError
from podwire.apiserver.kinds import Kind, Registry
from podwire.apiserver.metadata import is_finished
from podwire.apiserver.store.port import Change, Store
from podwire.apiserver.values import RequestContext, User
from podwire.apiserver.writes import Writes
from podwire.model.objects import Key, Obj
from podwire.runtime.clock import Clock
from podwire.runtime.logging import get

BUCKET = "customresourcedefinitions.apiextensions.k8s.io"
_log = get("apiserver")


class CustomKinds:
    """Keeps the registry in step with the stored CRDs, and empties those that are deleted."""

    def __init__(self, registry: Registry, store: Store, clock: Clock, user: User) -> None:
        self._registry, self._store, self._clock, self._user = registry, store, clock, user
        self._served: dict[str, list[Kind]] = {}
        self._dying: asyncio.Queue[str] = asyncio.Queue()
        store.listen(BUCKET, self._observe)
        for row in store.rows(BUCKET):
            self._take_in(row.key.name, orjson.loads(row.body))

    def _observe(self, change: Change) -> None:
        self._take_in(change.row.key.name, None if change.type == "DELETED" else orjson.loads(change.row.body))

    def _take_in(self, name: str, crd: Obj | None) -> None:
        for kind in self._served.pop(name, ()):
            self._registry.remove(kind)
        if crd is None or not is_established(crd):
            return
        self._served[name] = list(kinds_of(crd))
        for kind in self._served[name]:
            self._registry.add(kind)
        if "deletionTimestamp" in crd["metadata"]:
            self._dying.put_nowait(name)

    async def run(self, writes: Writes) -> None:
        """Delete the objects of CRDs whose deletion was asked for, then let the CRDs go. Runs for ever."""
        while True:
            name = await self._dying.get()
            try:
                await self._empty(name, writes)
            except ApiStatusError as error:
                if error.code != 404:
                    _log.warning("crd-cleanup-failed", crd=name, error=error.message)
                    await self._clock.sleep(1.0)
                    self._dying.put_nowait(name)

    async def _empty(self, name: str, writes: Writes) -> None:
        kinds = self._served.get(name)
        if not kinds:
            return
        kind = kinds[0]
        rows = self._store.rows(kind.storage)
        ctx = RequestContext(self._user, "delete", kind, field_manager="podwire")
        await writes.delete_named(ctx, [r.key for r in rows], {})
        if self._store.rows(kind.storage):  # finalizers hold some: look again
            await self._clock.sleep(0.5)
            self._dying.put_nowait(name)
            return
        await self._release(name, writes)

    async def _release(self, name: str, writes: Writes) -> None:
        crds = self._registry.find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        assert crds is not None
        row = self._store.peek(BUCKET, Key("", name))
        if row is None:
            return
        crd = orjson.loads(row.body)
        meta = crd["metadata"]
        meta["finalizers"] = [f for f in meta.get("finalizers") or () if f != CLEANUP]
        if not meta["finalizers"]:
            del meta["finalizers"]
        if is_finished(crds, crd):
            await self._store.delete(BUCKET, row.key, expected=row.revision)
        else:
            await self._store.put(BUCKET, row.key, crd, expected=row.revision)
