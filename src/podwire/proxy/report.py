"""What is wrong with an object, told as an Event on it. Every node says the same, so it is said once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

from podwire.client.errors import AlreadyExists, ApiError
from podwire.client.port import Client
from podwire.model.errors import Problem
from podwire.model.objects import Obj, key_of, timestamp
from podwire.model.resources import EVENTS
from podwire.runtime.clock import Clock
from podwire.runtime.logging import get

_WAITING = 200
_log = get("proxy")


class Reporter:
    """Sends what ``tell`` notes; never waited for."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._queue: asyncio.Queue[Obj] = asyncio.Queue(_WAITING)

    def tell(self, obj: Mapping[str, Any], problem: Problem, reason: str) -> None:
        """Note a problem of an object. Dropped when too many wait; the log has it anyway."""
        _log.warning("problem", problem=str(problem))
        try:
            self._queue.put_nowait(_event(obj, problem, reason, timestamp(self._clock.now())))
        except asyncio.QueueFull:
            _log.warning("event-dropped", object=problem.object)

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await self._client.create(EVENTS, event)
            except AlreadyExists:
                continue  # another node was first
            except ApiError as error:
                _log.debug("event-lost", error=str(error))


def _event(obj: Mapping[str, Any], problem: Problem, reason: str, now: str) -> Obj:
    key, meta = key_of(obj), obj["metadata"]
    words = f"{problem.field}: {problem.why}" if problem.field else problem.why
    digest = hashlib.sha256(f"{meta.get('uid', '')} {reason} {words}".encode()).hexdigest()[:16]
    involved = {"kind": obj.get("kind", ""), "namespace": key.namespace, "name": key.name, "apiVersion": "v1"}
    if meta.get("uid"):
        involved["uid"] = meta["uid"]
    return {
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"namespace": key.namespace or "default", "name": f"{key.name}.{digest}"},
        "involvedObject": involved, "type": "Warning", "reason": reason, "message": words[:1024],
        "source": {"component": "kube-proxy"}, "reportingComponent": "kube-proxy", "reportingInstance": "",
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    }  # fmt: skip
