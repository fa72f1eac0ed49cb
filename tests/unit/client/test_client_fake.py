"""The fake API keeps what agents rely on."""

from __future__ import annotations

import asyncio

import pytest

from podwire.client.errors import AlreadyExists, Conflict, Gone, NotFound
from podwire.client.fake import FakeClient
from podwire.client.informer import Informer
from podwire.model.objects import Key
from podwire.model.resources import CONFIGMAPS, PODS
from podwire.runtime.clock import FakeClock


def pod(name: str, node: str = "", **labels: str) -> dict:
    spec = {"containers": [{"name": "c", "image": "nginx"}]} | ({"nodeName": node} if node else {})
    return {"metadata": {"name": name, "namespace": "default", "labels": labels}, "spec": spec}


async def test_create_get_list_and_names():
    client = FakeClient()
    await client.create(PODS, pod("a", app="x"))
    await client.create(PODS, pod("b", app="y"))
    with pytest.raises(AlreadyExists):
        await client.create(PODS, pod("a"))
    assert (await client.get(PODS, "a", "default"))["status"]["phase"] == "Pending"
    assert [o["metadata"]["name"] for o in (await client.list(PODS, labels="app=y")).items] == ["b"]
    with pytest.raises(NotFound):
        await client.get(PODS, "z", "default")


async def test_status_is_a_subresource():
    client = FakeClient()
    await client.create(PODS, pod("a"))
    await client.patch(PODS, "a", {"status": {"phase": "Running"}}, "default")
    assert (await client.get(PODS, "a", "default"))["status"]["phase"] == "Pending"
    await client.patch(PODS, "a", {"status": {"phase": "Running"}, "spec": {"x": 1}}, "default", subresource="status")
    got = await client.get(PODS, "a", "default")
    assert got["status"]["phase"] == "Running"
    assert "x" not in got["spec"]


async def test_strategic_patch_merges_conditions_by_type():
    client = FakeClient()
    await client.create(PODS, pod("a"))
    for type in ("Ready", "Initialized", "Ready"):
        patch = {"status": {"conditions": [{"type": type, "status": "True"}]}}
        await client.patch(PODS, "a", patch, "default", kind="strategic", subresource="status")
    got = await client.get(PODS, "a", "default")
    assert [c["type"] for c in got["status"]["conditions"]] == ["Ready", "Initialized"]


async def test_graceful_deletion_and_uid_precondition():
    client = FakeClient(clock=FakeClock())
    await client.create(PODS, pod("a", "node-0"))
    await client.delete(PODS, "a", "default")
    got = await client.get(PODS, "a", "default")
    assert got["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:30Z"
    with pytest.raises(Conflict):
        await client.delete(PODS, "a", "default", grace_period_s=0, uid="other")
    await client.delete(PODS, "a", "default", grace_period_s=0, uid=got["metadata"]["uid"])
    with pytest.raises(NotFound):
        await client.get(PODS, "a", "default")


async def test_finalizers_hold_an_object():
    client = FakeClient()
    await client.create(CONFIGMAPS, {"metadata": {"name": "c", "namespace": "n", "finalizers": ["f/x"]}})
    await client.delete(CONFIGMAPS, "c", "n")
    held = await client.get(CONFIGMAPS, "c", "n")
    held["metadata"]["finalizers"] = []
    await client.update(CONFIGMAPS, held)
    with pytest.raises(NotFound):
        await client.get(CONFIGMAPS, "c", "n")


async def test_stale_update_conflicts():
    client = FakeClient()
    first = await client.create(CONFIGMAPS, {"metadata": {"name": "c", "namespace": "n"}})
    await client.update(CONFIGMAPS, {**first, "data": {"a": "1"}})
    with pytest.raises(Conflict):
        await client.update(CONFIGMAPS, {**first, "data": {"a": "2"}})


async def test_informer_sees_selector_transitions():
    client = FakeClient()
    await client.create(PODS, pod("a"))
    seen: list[tuple[str, bool, bool]] = []
    informer = Informer(client, PODS, fields="spec.nodeName=node-0")
    informer.listen(lambda key, old, new: seen.append((key.name, old is None, new is None)))
    task = asyncio.create_task(informer.run())
    await informer.synced.wait()
    target = {"target": {"name": "node-0"}}
    await client.create_subresource(PODS, "a", "default", "binding", target)
    await asyncio.sleep(0.01)
    assert seen == [("a", True, False)]
    await client.break_watches(compact=True)
    await client.delete(PODS, "a", "default", grace_period_s=0)
    await asyncio.sleep(0.01)
    assert seen[-1] == ("a", False, True)
    assert Key("default", "a") not in informer.objects
    task.cancel()


async def test_watch_from_compacted_revision_is_gone():
    client = FakeClient()
    await client.create(PODS, pod("a"))
    await client.create(PODS, pod("b"))
    await client.break_watches(compact=True)
    with pytest.raises(Gone):
        async for _ in client.watch(PODS, resource_version="1"):
            pass
