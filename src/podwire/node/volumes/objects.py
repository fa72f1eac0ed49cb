"""The ConfigMaps and Secrets that this node's pods use, each watched by name for as long as one needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.model.objects import Key, Obj
from podwire.model.resources import CONFIGMAPS, SECRETS
from podwire.node.volumes.payload import VolumeError
from podwire.runtime.clock import Clock

_SYNC_WITHIN_S = 10.0
_RESOURCES = {"ConfigMap": CONFIGMAPS, "Secret": SECRETS}


@dataclass(slots=True)
class _Watched:
    informer: Informer
    task: asyncio.Task[None]
    users: set[str] = field(default_factory=set)


class ObjectCache:
    """One watch per object in use; nodes may not list what their pods do not use."""

    def __init__(self, client: Client, clock: Clock, group: asyncio.TaskGroup, changed: Callable[[str], None]) -> None:
        """``changed(pod_uid)`` is called for each user of an object that changed."""
        self._client, self._clock, self._group, self._changed = client, clock, group, changed
        self._watched: dict[tuple[str, str, str], _Watched] = {}

    async def load(self, pod_uid: str, namespace: str, references: Iterable[tuple[str, str]]) -> None:
        """Make ``peek`` answer for these objects, and tell of their changes until ``release``.

        Raises VolumeError when the API does not answer, or not to this node.
        """
        entries = [
            (f'{kind.lower()} "{name}"', self._watch(pod_uid, kind, namespace, name)) for kind, name in references
        ]
        for what, entry in entries:
            if not entry.informer.synced.is_set():
                try:
                    async with asyncio.timeout(_SYNC_WITHIN_S):
                        await entry.informer.synced.wait()
                except TimeoutError:
                    raise VolumeError(f"failed to sync the cache of {what}: no answer from the API") from None

    def peek(self, kind: str, namespace: str, name: str) -> Obj | None:
        """Return the object, or None when it does not exist (or was not loaded)."""
        entry = self._watched.get((kind, namespace, name))
        return entry.informer.objects.get(Key(namespace, name)) if entry is not None else None

    def release(self, pod_uid: str) -> None:
        """The pod is gone: stop watching what nobody else uses."""
        for id, entry in list(self._watched.items()):
            entry.users.discard(pod_uid)
            if not entry.users:
                entry.task.cancel()
                del self._watched[id]

    def _watch(self, pod_uid: str, kind: str, namespace: str, name: str) -> _Watched:
        id = (kind, namespace, name)
        entry = self._watched.get(id)
        if entry is None:
            informer = Informer(
                self._client,
                _RESOURCES[kind],
                namespace,
                fields=f"metadata.name={name}",
                clock=self._clock,
            )
            entry = _Watched(informer, self._group.create_task(informer.run()))
            self._watched[id] = entry
            informer.listen(lambda key, old, new: self._tell(id))
        entry.users.add(pod_uid)
        return entry

    def _tell(self, id: tuple[str, str, str]) -> None:
        entry = self._watched.get(id)
        if entry is not None and entry.informer.synced.is_set():  # the first state is awaited by load()
            for uid in tuple(entry.users):
                self._changed(uid)
