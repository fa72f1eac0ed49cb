"""Write pod statuses to the API: the newest one of each pod, several pods at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from podwire.client.errors import ApiError, Conflict, NotFound
from podwire.client.port import Client
from podwire.model.objects import Key, Obj, key_of
from podwire.model.resources import PODS
from podwire.node.pod.status import status_patch
from podwire.runtime.clock import Clock
from podwire.runtime.logging import get
from podwire.runtime.workloop import WorkLoop

_log = get("node")


@dataclass(slots=True)
class _Entry:
    key: Key
    sent: Obj
    wanted: Obj
    written: asyncio.Event = field(default_factory=asyncio.Event)


class StatusWriter:
    """Coalesces: a status that changes while an older one is on its way is written once more, after."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._entries: dict[str, _Entry] = {}
        self._loop: WorkLoop[str] = WorkLoop("node", self._write, workers=8, clock=clock, max_backoff_s=5.0)

    async def run(self) -> None:
        """Write until cancelled."""
        await self._loop.run()

    def set(self, pod: Obj, status: Obj) -> None:
        """Ask for ``status`` to become the pod's."""
        uid = pod["metadata"]["uid"]
        entry = self._entries.get(uid)
        if entry is None:
            entry = self._entries[uid] = _Entry(key_of(pod), pod.get("status") or {}, status)
        entry.wanted = status
        if entry.wanted != entry.sent:
            entry.written.clear()
            self._loop.add(uid)
        else:
            entry.written.set()

    async def flush(self, uid: str) -> None:
        """Return once the newest status of the pod is written, or the pod is gone."""
        entry = self._entries.get(uid)
        if entry is not None:
            await entry.written.wait()

    def forget(self, uid: str) -> None:
        """The pod is gone from the node."""
        entry = self._entries.pop(uid, None)
        if entry is not None:
            entry.written.set()

    async def _write(self, uid: str) -> None:
        entry = self._entries.get(uid)
        if entry is None:
            return
        wanted = entry.wanted
        patch = status_patch(uid, entry.sent, wanted)
        if patch is not None:
            try:
                await self._client.patch(
                    PODS, entry.key.name, patch, entry.key.namespace, kind="strategic", subresource="status"
                )
            except (NotFound, Conflict):
                pass  # gone, or another pod of that name: nothing of ours to tell
            except ApiError as error:
                if error.code not in (400, 403, 422):
                    raise
                # Refused for good: tried again when it next changes.
                _log.error("status-refused", pod=entry.key, error=str(error))
        entry.sent = wanted
        if entry.wanted == wanted:
            entry.written.set()
        else:  # it changed on the way, perhaps back to what had been sent before
            self._loop.add(uid)
