"""Events as kubectl describe shows them: few, counted, never in the way of real work.

The same event again (object, type, reason, message) raises the count of the first one. An object may
make 25 different events at once and then one each five minutes, as client-go's spam filter has it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from podwire.client.errors import ApiError, NotFound
from podwire.client.port import Client
from podwire.model.objects import Obj, timestamp
from podwire.model.resources import EVENTS
from podwire.runtime.clock import Clock
from podwire.runtime.logging import get

BURST = 25
REFILL_S = 300.0
REMEMBERED = 4096
QUEUED = 2000
_log = get("controllers")


@dataclass(slots=True)
class _Seen:
    name: str
    namespace: str
    count: int


@dataclass(frozen=True, slots=True)
class _Event:
    involved: Obj
    type: str
    reason: str
    message: str
    component: str
    at: str

    @property
    def identity(self) -> tuple[str, ...]:
        i = self.involved
        return (i.get("uid") or i["name"], i.get("fieldPath", ""), self.type, self.reason, self.message)


class Recorder:
    """Writes events one after the other, behind everything else."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(maxsize=QUEUED)
        self._seen: OrderedDict[tuple[str, ...], _Seen] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        self._serial = 0

    def normal(self, obj: Mapping[str, Any], reason: str, message: str, component: str) -> None:
        """Record something that went as it should."""
        self._record(obj, "Normal", reason, message, component)

    def warning(self, obj: Mapping[str, Any], reason: str, message: str, component: str) -> None:
        """Record something that somebody should look at."""
        self._record(obj, "Warning", reason, message, component)

    def _record(self, obj: Mapping[str, Any], type: str, reason: str, message: str, component: str) -> None:
        if not self._allowed(component, str(obj["metadata"].get("uid", ""))):
            return
        event = _Event(involve(obj), type, reason, message[:1024], component, timestamp(self._clock.now()))
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            _log.debug("event-dropped", reason=reason, object=obj["metadata"]["name"])

    def _allowed(self, component: str, uid: str) -> bool:
        """Take a token of the object's bucket; False when it is empty."""
        now_s = self._clock.monotonic()
        tokens, at_s = self._buckets.pop((component, uid), (float(BURST), now_s))
        tokens = min(float(BURST), tokens + (now_s - at_s) / REFILL_S)
        self._buckets[component, uid] = (tokens - 1 if tokens >= 1 else tokens, now_s)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return tokens >= 1

    async def run(self) -> None:
        """Write events until cancelled. An event that cannot be written is given up."""
        while True:
            event = await self._queue.get()
            try:
                await self._write(event)
            except ApiError as error:
                _log.debug("event-lost", reason=event.reason, error=str(error))

    async def _write(self, event: _Event) -> None:
        seen = self._seen.get(event.identity)
        if seen is not None:
            seen.count += 1
            patch = {"count": seen.count, "lastTimestamp": event.at}
            try:
                await self._client.patch(EVENTS, seen.name, patch, seen.namespace)
                return
            except NotFound:  # expired meanwhile
                del self._seen[event.identity]
        self._serial += 1
        unique = f"{int(self._clock.now().timestamp() * 1e6) * 1000 + self._serial % 1000:x}"
        made = await self._client.create(EVENTS, _object(event, unique))
        self._seen[event.identity] = _Seen(made["metadata"]["name"], made["metadata"]["namespace"], 1)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)


def involve(obj: Mapping[str, Any]) -> Obj:
    """Return the ObjectReference of ``obj``."""
    meta = obj["metadata"]
    reference = {
        "apiVersion": obj.get("apiVersion", ""),
        "kind": obj.get("kind", ""),
        "name": meta["name"],
        "namespace": meta.get("namespace", ""),
        "uid": meta.get("uid", ""),
        "resourceVersion": meta.get("resourceVersion", ""),
    }
    return {k: v for k, v in reference.items() if v}


def _object(event: _Event, unique: str) -> Obj:
    involved = event.involved
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{involved['name']}.{unique}",
            "namespace": involved.get("namespace") or "default",
        },
        "involvedObject": involved,
        "type": event.type,
        "reason": event.reason,
        "message": event.message,
        "source": {"component": event.component},
        "reportingComponent": event.component,
        "reportingInstance": "",
        "firstTimestamp": event.at,
        "lastTimestamp": event.at,
        "count": 1,
    }
