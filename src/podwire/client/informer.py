"""A local copy of a collection, kept by list and watch, that tells its listeners which keys changed.

    pods = Informer(client, PODS, fields="spec.nodeName=node-0")
    pods.listen(lambda key, old, new: loop.add(key))     # new is None: deleted
    group.create_task(pods.run()); await pods.synced.wait()
    pods.objects[key]

After a broken watch it resumes from the last resourceVersion; after 410 it lists again and announces
only the difference. A listener therefore sees every state that lasts, in order, and never a gap.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

from podwire.client.errors import ApiError, Gone
from podwire.client.port import Client, Listing
from podwire.model.objects import Key, Obj, key_of
from podwire.model.resources import Resource
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get

Listener = Callable[[Key, Obj | None, Obj | None], None]
_log = get("client")


class Informer:
    """One resource, mirrored. ``objects`` is read-only for everyone else."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        clock: Clock | None = None,
        trim: Callable[[Obj], Obj] | None = None,
    ) -> None:
        """``trim`` may cut away what nobody here reads, before an object is held (memory)."""
        self.resource = resource
        self._trim = trim
        self.objects: dict[Key, Obj] = {}
        self.synced = asyncio.Event()
        self._client, self._namespace, self._labels, self._fields = client, namespace, labels, fields
        self._clock: Clock = clock or SystemClock()
        self._listeners: list[Listener] = []
        self._resource_version = ""

    @property
    def resource_version(self) -> str:
        """The version that ``objects`` is known to reflect; "" before the first list."""
        return self._resource_version

    def listen(self, listener: Listener) -> None:
        """Call ``listener(key, old, new)`` on each change from now on, and once per object now held."""
        self._listeners.append(listener)
        for key, obj in self.objects.items():
            listener(key, None, obj)

    async def run(self) -> None:
        """Mirror until cancelled. Never raises an ApiError: it tries again, 50 ms to 5 s apart."""
        failures = 0
        while True:
            try:
                if not self._resource_version:
                    await self._relist()
                await self._follow()
                failures = 0
            except Gone:
                self._resource_version = ""
            except ApiError as error:
                failures += 1
                delay_s = min(5.0, 0.05 * 2 ** min(failures, 7)) * random.uniform(0.8, 1.2)
                level = _log.warning if failures > 3 else _log.debug
                level("watch-broken", resource=self.resource.plural, error=str(error), again_s=delay_s)
                await self._clock.sleep(delay_s)

    async def _relist(self) -> None:
        """List everything; announce what differs. With ``trim``, page by page: a whole collection, decoded, may be
        a hundred times what is kept of it."""
        seen: set[Key] = set()
        version = ""
        async for page in self._pages():
            version = page.resource_version
            if self._trim is None:  # it is everything: what is gone goes first, so that names and addresses are free
                self._keep_only({key_of(o) for o in page.items})
            for obj in page.items:
                key = key_of(obj)
                seen.add(key)
                old = self.objects.get(key)
                if old is None or old["metadata"].get("resourceVersion") != obj["metadata"].get("resourceVersion"):
                    self._set(key, obj)
        self._keep_only(seen)
        self._resource_version = version
        self.synced.set()

    def _keep_only(self, keys: set[Key]) -> None:
        for key in [k for k in self.objects if k not in keys]:
            self._set(key, None)

    async def _pages(self) -> AsyncIterator[Listing]:
        where = {"labels": self._labels, "fields": self._fields}
        if self._trim is None:
            yield await self._client.list(self.resource, self._namespace, **where)
            return
        async for page in self._client.pages(self.resource, self._namespace, **where):
            yield page

    async def _follow(self) -> None:
        async for event in self._client.watch(
            self.resource,
            self._namespace,
            resource_version=self._resource_version,
            labels=self._labels,
            fields=self._fields,
        ):
            self._resource_version = event.object["metadata"]["resourceVersion"]
            if event.type != "BOOKMARK":
                self._set(key_of(event.object), None if event.type == "DELETED" else event.object)

    def _set(self, key: Key, new: Obj | None) -> None:
        if new is not None and self._trim is not None:
            new = self._trim(new)
        old = self.objects.pop(key, None) if new is None else self.objects.get(key)
        if new is not None:
            self.objects[key] = new
        elif old is None:
            return
        for listener in self._listeners:
            listener(key, old, new)
