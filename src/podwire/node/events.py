"""Events about pods and the node: never waited for, counted when they repeat, sent when there is time.

While pods are being started the API has better things to do, so events wait until the node is calm, at
most ``HOLD_S``. Kubelet's limits hold: after 25 events about one object, one more every five minutes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from podwire.client.errors import ApiError, NotFound
from podwire.client.port import Client
from podwire.model.objects import Obj, timestamp
from podwire.model.resources import EVENTS
from podwire.runtime.clock import Clock
from podwire.runtime.logging import get

_log = get("node")
HOLD_S: Final = 3.0
_CALM_CHECK_S: Final = 0.1
_BURST, _REFILL_S, _REMEMBERED = 25, 300.0, 4096

EventType = Literal["Normal", "Warning"]


@dataclass(slots=True)
class _Series:
    """One event object, and how often it happened."""

    event: Obj
    count: int = 0
    sent: int = 0


@dataclass(slots=True)
class _Budget:
    left: float = float(_BURST)
    at: float = field(default=0.0)


class Recorder:
    """Events of one node. ``run`` sends what ``record`` notes."""

    def __init__(self, client: Client, node: str, clock: Clock, busy: Callable[[], bool]) -> None:
        self._client, self._node, self._clock, self._busy = client, node, clock, busy
        self._series: OrderedDict[tuple[str, ...], _Series] = OrderedDict()
        self._budgets: OrderedDict[str, _Budget] = OrderedDict()
        self._queue: asyncio.Queue[_Series] = asyncio.Queue(maxsize=1000)
        self._serial = 0

    def record(
        self, involved: Mapping[str, Any], type: EventType, reason: str, message: str, field_path: str = ""
    ) -> None:
        """Note an event about an object reference (``pod_reference``). Dropped when there are too many."""
        key = (involved.get("uid", ""), field_path, type, reason, message)
        now = timestamp(self._clock.now())
        series = self._series.get(key)
        if series is None:
            if not self._afford(involved.get("uid", "")):
                return
            series = self._series[key] = _Series(self._event(involved, type, reason, message, field_path, now))
            while len(self._series) > _REMEMBERED:
                self._series.popitem(last=False)
        elif not self._afford(involved.get("uid", "")):
            return
        series.count += 1
        series.event["count"] = series.count
        series.event["lastTimestamp"] = now
        try:
            self._queue.put_nowait(series)
        except asyncio.QueueFull:
            _log.warning("event-dropped", reason=reason, object=involved.get("name"))

    async def run(self) -> None:
        """Send events until cancelled. A failure costs that event, never the node."""
        while True:
            series = await self._queue.get()
            waited_s = 0.0
            while self._busy() and waited_s < HOLD_S:
                await self._clock.sleep(_CALM_CHECK_S)
                waited_s += _CALM_CHECK_S
            if series.sent >= series.count:
                continue
            try:
                await self._send(series)
            except ApiError as error:
                _log.debug("event-lost", reason=series.event["reason"], error=str(error))

    async def _send(self, series: _Series) -> None:
        event, count = series.event, series.count
        namespace = event["metadata"]["namespace"]
        if series.sent:
            patch = {"count": count, "lastTimestamp": event["lastTimestamp"]}
            try:
                await self._client.patch(EVENTS, event["metadata"]["name"], patch, namespace)
                series.sent = count
                return
            except NotFound:  # events expire
                event["firstTimestamp"] = event["lastTimestamp"]
        await self._client.create(EVENTS, event)
        series.sent = count

    def _event(
        self, involved: Mapping[str, Any], type: str, reason: str, message: str, field_path: str, now: str
    ) -> Obj:
        self._serial += 1
        stamp = int(self._clock.now().timestamp() * 1e6) + self._serial
        reference = dict(involved) | ({"fieldPath": field_path} if field_path else {})
        namespace = involved.get("namespace") or "default"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{involved['name']}.{stamp:x}", "namespace": namespace},
            "involvedObject": reference,
            "type": type,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "kubelet", "host": self._node},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }

    def _afford(self, uid: str) -> bool:
        now = self._clock.monotonic()
        budget = self._budgets.get(uid)
        if budget is None:
            budget = self._budgets[uid] = _Budget(at=now)
            while len(self._budgets) > _REMEMBERED:
                self._budgets.popitem(last=False)
        budget.left = min(float(_BURST), budget.left + (now - budget.at) / _REFILL_S)
        budget.at = now
        if budget.left < 1:
            return False
        budget.left -= 1
        return True


def pod_reference(pod: Mapping[str, Any]) -> Obj:
    """Return the reference that events about a pod carry."""
    meta = pod["metadata"]
    reference = {"apiVersion": "v1", "kind": "Pod", "namespace": meta.get("namespace", ""), "name": meta["name"]}
    return reference | {"uid": meta["uid"], "resourceVersion": meta.get("resourceVersion", "")}


def node_reference(name: str) -> Obj:
    """Return the reference that events about a node carry; kubelets give the name as the uid."""
    return {"apiVersion": "v1", "kind": "Node", "name": name, "uid": name}
