"""The loops over a hostile API: watches break, answers are lost, pods fail and vanish; the end is exact.

Stale mirrors and lost answers are where controllers create too much. So beside the end state, the number of
pods is watched on the way: it never exceeds what was ever asked for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from controllers_world import NamespacedClient, World, running_world, template
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.client.errors import Unavailable
from podwire.client.port import WatchEvent
from podwire.model.objects import Obj, controller_of, is_deleting, is_ready
from podwire.model.resources import PODS, REPLICASETS, Resource


class Hostile(NamespacedClient):
    """Loses answers, before the server saw the request or after it did what was asked; tells news late."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self.hostility = 0.0

    def _fails(self) -> bool:
        return self._random.random() < self.hostility

    async def create(self, resource: Resource, obj: Obj) -> Obj:
        if self._fails():
            raise Unavailable(0, "Unreachable", "lost before")
        made = await super().create(resource, obj)
        if self._fails():
            raise Unavailable(0, "Unreachable", "lost after")
        return made

    async def watch(self, resource: Resource, namespace: str = "", **options: Any) -> AsyncIterator[WatchEvent]:
        async for event in super().watch(resource, namespace, **options):
            if resource == PODS:
                await asyncio.sleep(self._random.choice((0, 0, 0.001, 0.02)))
            yield event

    async def delete(self, resource: Resource, name: str, namespace: str = "", **options: Any) -> None:
        await super().delete(resource, name, namespace, **options)
        if self._fails():
            raise Unavailable(0, "Unreachable", "lost after")


operations = st.lists(
    st.one_of(
        st.tuples(st.just("scale"), st.integers(0, 8)),
        st.tuples(st.just("kill"), st.integers(0, 20)),
        st.tuples(st.just("fail"), st.integers(0, 20)),
        st.tuples(st.just("break"), st.integers(0, 1)),
        st.tuples(st.just("orphan"), st.just(0)),
        st.tuples(st.just("pause"), st.integers(0, 3)),
    ),
    max_size=10,
)


def active(world: World) -> list[Obj]:
    found = [p for p in world.all(PODS) if (controller_of(p) or {}).get("kind") == "ReplicaSet"]
    return [
        p for p in found if not is_deleting(p) and (p.get("status") or {}).get("phase") not in ("Failed", "Succeeded")
    ]


async def perform(world: World, client: Hostile, what: str, number: int) -> None:
    pods = [p for p in world.all(PODS) if not is_deleting(p)]
    if what == "scale":
        await client.patch(REPLICASETS, "web", {"spec": {"replicas": number}}, "default")
    elif what == "break":
        await client.break_watches(compact=bool(number))
    elif what == "pause":
        await asyncio.sleep(number * 0.01)
    elif what == "orphan":
        labels = {"app": "web"}
        pod = {
            "metadata": {"name": f"orphan-{client._revision}", "namespace": "default", "labels": labels},
            "spec": {"containers": []},
        }
        await NamespacedClient.create(client, PODS, {"apiVersion": "v1", "kind": "Pod", **pod})
    elif pods:
        name = pods[number % len(pods)]["metadata"]["name"]
        if what == "kill":
            await NamespacedClient.delete(client, PODS, name, "default", grace_period_s=0)
        else:
            await client.patch(PODS, name, {"status": {"phase": "Failed"}}, "default", subresource="status")


async def scenario(steps: list[tuple[str, int]], seed: int, hostility: float) -> None:
    client = Hostile(seed)
    async with running_world(client=client) as world:
        labels = {"app": "web"}
        spec = {"replicas": 3, "selector": {"matchLabels": labels}, "template": template(labels)}
        await world.create(REPLICASETS, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
        most, orphans = 3, 0
        client.hostility = hostility
        for what, number in steps:
            await perform(world, client, what, number)
            most = max(most, number if what == "scale" else 0)
            orphans += what == "orphan"
            assert len(active(world)) <= most + orphans
        client.hostility = 0.0
        wanted = world.one(REPLICASETS, "web")["spec"]["replicas"]

        def settled() -> bool:
            assert len(active(world)) <= most + orphans
            status = world.one(REPLICASETS, "web").get("status") or {}
            return (
                len(active(world)) == wanted
                and all(is_ready(p) for p in active(world))
                and (status.get("readyReplicas") or 0) == wanted
            )

        await world.until(settled)


@settings(max_examples=25, deadline=None)
@given(operations, st.integers(0, 1000))
def test_a_replicaset_ends_with_exactly_what_is_asked(steps: list[tuple[str, int]], seed: int) -> None:
    asyncio.run(scenario(steps, seed, 0.0))


@settings(max_examples=25, deadline=None)
@given(operations, st.integers(0, 1000))
def test_lost_answers_make_no_surplus(steps: list[tuple[str, int]], seed: int) -> None:
    asyncio.run(scenario(steps, seed, 0.2))
