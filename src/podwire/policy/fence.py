"""Be sure to know every policy that was there when a pod started.

Pods and policies come over separate watches, and a watch may lag behind: a pod could be seen before a policy that is
older than it. So before a pod is admitted its namespace's policies are listed, and nothing goes on until the mirror
shows them. Pods that start together share a listing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.model.objects import Obj, key_of
from podwire.model.resources import NETWORKPOLICIES
from podwire.runtime.clock import Clock

_LOOK_S = 0.002


class PolicyFence:
    """One fence for each namespace."""

    def __init__(self, client: Client, mirror: Informer, clock: Clock) -> None:
        self._client, self._mirror, self._clock = client, mirror, clock
        self._next: dict[str, asyncio.Task[None]] = {}
        self._current: dict[str, asyncio.Task[None]] = {}

    async def pass_through(self, namespace: str) -> None:
        """Return when the mirror shows every policy that the namespace has now. Raises ApiError."""
        waiting = self._next.get(namespace)
        if waiting is None:
            # A listing under way may have begun before the caller's pod was there: it needs the one after.
            waiting = asyncio.create_task(self._list(namespace, self._current.get(namespace)))
            self._next[namespace] = waiting
        await asyncio.shield(waiting)

    async def _list(self, namespace: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        task = self._next.pop(namespace)
        self._current[namespace] = task
        try:
            listing = await self._client.list(NETWORKPOLICIES, namespace)
            behind = [p for p in listing.items if self._is_behind(p)]
            while behind and not _reaches(self._mirror.resource_version, listing.resource_version):
                await self._clock.sleep(_LOOK_S)
                behind = [p for p in behind if self._is_behind(p)]
        finally:
            if self._current.get(namespace) is task:
                del self._current[namespace]

    def _is_behind(self, policy: Obj) -> bool:
        held: Mapping[str, object] | None = self._mirror.objects.get(key_of(policy))
        return held is None or not _reaches(_version(held), _version(policy))


def _version(obj: Mapping[str, object]) -> str:
    metadata = obj["metadata"]
    return str(metadata.get("resourceVersion", "")) if isinstance(metadata, Mapping) else ""


def _reaches(mine: str, wanted: str) -> bool:
    """Return whether a resourceVersion is not older than another (KEP-5504: they may be compared)."""
    if mine.isdigit() and wanted.isdigit():
        return int(mine) >= int(wanted)
    return mine == wanted
