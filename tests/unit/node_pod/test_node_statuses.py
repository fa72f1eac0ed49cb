"""Statuses on their way to the API: the newest one always arrives."""

from __future__ import annotations

import asyncio
from typing import Any

from podwire.client.fake import FakeClient
from podwire.model.objects import Key, Obj
from podwire.model.resources import PODS, Resource
from podwire.node.pod.statuses import StatusWriter
from podwire.runtime.clock import SystemClock


class SlowClient(FakeClient):
    """Holds every patch until told."""

    def __init__(self) -> None:
        super().__init__()
        self.patching, self.go_on = asyncio.Event(), asyncio.Event()

    async def patch(self, resource: Resource, name: str, patch: Any, *args: Any, **more: Any) -> Obj:
        self.patching.set()
        await self.go_on.wait()
        return await super().patch(resource, name, patch, *args, **more)


async def test_a_status_that_changes_back_while_another_is_on_its_way_arrives() -> None:
    client = SlowClient()
    before: Obj = {"phase": "Running", "message": "ready"}
    meta = {"name": "p", "namespace": "default"}
    pod = client.seed(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {}, "status": before})
    writer = StatusWriter(client, SystemClock())
    task = asyncio.create_task(writer.run())
    try:
        writer.set(pod, {**before, "message": "not ready"})
        await asyncio.wait_for(client.patching.wait(), 5)
        writer.set(pod, before)
        client.go_on.set()
        await asyncio.wait_for(writer.flush(pod["metadata"]["uid"]), 5)
        for _ in range(200):
            if client.objects(PODS)[Key("default", "p")]["status"].get("message") == "ready":
                return
            await asyncio.sleep(0.005)
        raise AssertionError(client.objects(PODS)[Key("default", "p")]["status"])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
