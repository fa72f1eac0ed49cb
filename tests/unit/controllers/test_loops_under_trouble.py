"""Silent nodes, vanished nodes, failing Jobs, owners that go in every way, strangers' pods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from controllers_world import CONFIG, World, node, running_world, template

from podwire.client.fake import FakeClient
from podwire.controllers.nodes.lifecycle_agent import NodeLifecycle
from podwire.controllers.shared import Shared
from podwire.model.objects import Key, Obj, condition, controller_of, is_deleting, is_ready, labels_of, owner_reference
from podwire.model.resources import (
    CONFIGMAPS,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    EVENTS,
    JOBS,
    LEASES,
    NODES,
    PODS,
    REPLICASETS,
    REPLICATIONCONTROLLERS,
    SERVICES,
    STATEFULSETS,
)
from podwire.runtime.clock import FakeClock

UNREACHABLE = "node.kubernetes.io/unreachable"


@pytest.fixture
async def hasty() -> AsyncIterator[World]:
    """A cluster that calls a node silent after 150 ms."""
    async with running_world(replace(CONFIG, node_grace_s=0.15)) as made:
        yield made


async def beat(client: FakeClient, *names: str) -> None:
    """Renew the leases of nodes for as long as the test runs."""
    serial = 0
    while True:
        serial += 1
        for name in names:
            lease = {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"renewTime": str(serial)}}
            if Key("kube-node-lease", name) in client.objects(LEASES):
                await client.patch(LEASES, name, lease, "kube-node-lease")
            else:
                await client.create(LEASES, lease)
        await asyncio.sleep(0.03)


def taints(world: World, name: str) -> set[tuple[str, str]]:
    return {(t["key"], t["effect"]) for t in world.one(NODES, name)["spec"].get("taints") or ()}


async def test_a_silent_node_is_tainted_its_pods_unready_then_evicted_and_it_may_return(hasty: World) -> None:
    beats = asyncio.create_task(beat(hasty.client, "node-0", "node-1", "node-2"))
    labels = {"app": "web"}
    tolerations = [{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]
    await hasty.create(DEPLOYMENTS, {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template(labels, tolerations=tolerations)},
    })  # fmt: skip
    await hasty.until(lambda: len([p for p in hasty.all(PODS) if is_ready(p)]) == 3)
    beats.cancel()
    hasty.kubelet.silent.add("node-1")
    beats = asyncio.create_task(beat(hasty.client, "node-0", "node-2"))
    await hasty.until(lambda: taints(hasty, "node-1") == {(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")})
    assert (condition(hasty.one(NODES, "node-1"), "Ready") or {})["status"] == "Unknown"
    assert not taints(hasty, "node-0")

    def on_silent_node() -> list[Obj]:
        return [p for p in hasty.all(PODS) if p["spec"].get("nodeName") == "node-1"]

    await hasty.until(lambda: all(not is_ready(p) for p in on_silent_node()))
    await hasty.until(lambda: all(is_deleting(p) for p in on_silent_node()))
    await hasty.until(lambda: len([p for p in hasty.all(PODS) if is_ready(p)]) == 3)
    assert on_silent_node()  # nobody confirms their end: they stay Terminating
    beats.cancel()
    beats = asyncio.create_task(beat(hasty.client, "node-0", "node-1", "node-2"))
    await hasty.client.patch(
        NODES, "node-1", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, subresource="status"
    )
    await hasty.until(lambda: not taints(hasty, "node-1"))
    beats.cancel()


async def test_when_every_node_is_silent_nobody_is_evicted() -> None:
    clock = FakeClock()
    client = FakeClient(clock=clock)
    for name in ("a", "b"):
        client.seed(NODES, node(name))
    shared = Shared(client, CONFIG, clock)
    loop = NodeLifecycle(shared)

    async def mirror() -> None:
        async with asyncio.TaskGroup() as group:
            shared.start(group)

    tasks = [asyncio.create_task(mirror()), asyncio.create_task(loop.run())]
    await asyncio.sleep(0.02)
    await clock.advance(39)
    assert all(is_ready(n) for n in client.objects(NODES).values())
    await clock.advance(2)
    await asyncio.sleep(0.05)
    await clock.advance(2)
    for one in client.objects(NODES).values():
        assert (condition(one, "Ready") or {})["reason"] == "NodeStatusUnknown"
        effects = [t["effect"] for t in one["spec"]["taints"]]
        assert "NoSchedule" in effects
    assert [t["effect"] for t in client.objects(NODES)[Key("", "b")]["spec"]["taints"]] == ["NoSchedule"]
    for task in tasks:
        task.cancel()


async def test_pods_of_a_node_that_is_gone_are_removed(world: World) -> None:
    world.kubelet.silent.add("node-1")
    pod = {
        "metadata": {"name": "left", "namespace": "default"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c"}]},
    }
    await world.create(PODS, pod)
    await world.client.delete(NODES, "node-1")
    await world.until(lambda: not world.all(PODS))


async def test_orphaned_children_stay_and_are_adopted_again(world: World) -> None:
    labels = {"app": "web"}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template(labels)}
    await world.create(REPLICASETS, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    await world.until(lambda: len(world.all(PODS)) == 2)
    before = {p["metadata"]["name"] for p in world.all(PODS)}
    await world.client.delete(REPLICASETS, "web", "default", propagation="Orphan")
    await world.until(lambda: not world.all(REPLICASETS) and all(controller_of(p) is None for p in world.all(PODS)))
    await world.create(REPLICASETS, {"metadata": {"name": "again", "namespace": "default"}, "spec": spec})
    await world.until(lambda: all((controller_of(p) or {}).get("name") == "again" for p in world.all(PODS)))
    assert {p["metadata"]["name"] for p in world.all(PODS)} == before


async def test_foreground_deletion_takes_the_dependents_first(world: World) -> None:
    labels = {"app": "web"}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template(labels)}
    await world.create(DEPLOYMENTS, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    await world.until(lambda: len([p for p in world.all(PODS) if is_ready(p)]) == 2)
    gone: list[str] = []

    def watch_order() -> bool:
        for what, resource in (("pods", PODS), ("replicasets", REPLICASETS), ("deployments", DEPLOYMENTS)):
            if not world.all(resource) and what not in gone:
                gone.append(what)
        return len(gone) == 3

    await world.client.delete(DEPLOYMENTS, "web", "default", propagation="Foreground")
    await world.until(watch_order)
    assert gone == ["pods", "replicasets", "deployments"]


async def test_an_owner_of_another_namespace_owns_nothing(world: World) -> None:
    owner = await world.create(CONFIGMAPS, {"metadata": {"name": "owner", "namespace": "kube-system"}})
    refs = [owner_reference(owner, controller=False)]
    await world.create(CONFIGMAPS, {"metadata": {"name": "child", "namespace": "default", "ownerReferences": refs}})
    await world.until(lambda: Key("default", "child") not in world.client.objects(CONFIGMAPS))
    await world.until(lambda: any(e["reason"] == "OwnerRefInvalidNamespace" for e in world.all(EVENTS)))


async def test_an_object_with_two_owners_outlives_one(world: World) -> None:
    one = await world.create(CONFIGMAPS, {"metadata": {"name": "one", "namespace": "default"}})
    two = await world.create(CONFIGMAPS, {"metadata": {"name": "two", "namespace": "default"}})
    refs = [owner_reference(o, controller=False) for o in (one, two)]
    await world.create(CONFIGMAPS, {"metadata": {"name": "child", "namespace": "default", "ownerReferences": refs}})
    await world.client.delete(CONFIGMAPS, "one", "default")
    await world.until(lambda: len(world.one(CONFIGMAPS, "child")["metadata"]["ownerReferences"]) == 1)
    await world.client.delete(CONFIGMAPS, "two", "default")
    await world.until(lambda: Key("default", "child") not in world.client.objects(CONFIGMAPS))


async def test_a_replicationcontroller_keeps_its_pods(world: World) -> None:
    spec = {"replicas": 2, "selector": {"app": "old"}, "template": template({"app": "old"})}
    await world.create(REPLICATIONCONTROLLERS, {"metadata": {"name": "old", "namespace": "default"}, "spec": spec})
    await world.until(lambda: world.one(REPLICATIONCONTROLLERS, "old")["status"].get("readyReplicas") == 2)


async def run_to(world: World, phase: str) -> None:
    for pod in world.all(PODS):
        if (pod.get("status") or {}).get("phase") == "Running":
            await world.kubelet.report(pod, phase, ready=False)


async def test_a_job_that_fails_too_often_is_failed(world: World) -> None:
    spec = {"backoffLimit": 0, "template": template({}, restartPolicy="Never")}
    await world.create(JOBS, {"metadata": {"name": "bad", "namespace": "default"}, "spec": spec})
    await world.until(lambda: any((p.get("status") or {}).get("phase") == "Running" for p in world.all(PODS)))
    await run_to(world, "Failed")
    await world.until(lambda: condition(world.one(JOBS, "bad"), "Failed"))
    job = world.one(JOBS, "bad")
    assert (condition(job, "Failed") or {})["reason"] == "BackoffLimitExceeded"
    assert condition(job, "FailureTarget")
    assert job["status"]["failed"] == 1


async def test_an_indexed_job_gives_each_pod_its_index(world: World) -> None:
    spec = {
        "completions": 3,
        "parallelism": 3,
        "completionMode": "Indexed",
        "template": template({}, restartPolicy="Never"),
    }
    await world.create(JOBS, {"metadata": {"name": "idx", "namespace": "default"}, "spec": spec})
    await world.until(lambda: sum((p.get("status") or {}).get("phase") == "Running" for p in world.all(PODS)) == 3)
    names = {p["spec"]["hostname"] for p in world.all(PODS)}
    assert names == {"idx-0", "idx-1", "idx-2"}
    await run_to(world, "Succeeded")
    await world.until(lambda: condition(world.one(JOBS, "idx"), "Complete"))
    assert world.one(JOBS, "idx")["status"]["completedIndexes"] == "0-2"
    assert world.one(JOBS, "idx")["status"]["succeeded"] == 3


async def test_a_pod_of_a_job_that_somebody_deletes_has_failed_and_is_replaced(world: World) -> None:
    spec = {"template": template({}, restartPolicy="Never")}
    await world.create(JOBS, {"metadata": {"name": "one", "namespace": "default"}, "spec": spec})
    first = (await world.until(lambda: world.all(PODS)))[0]["metadata"]["name"]
    await world.client.delete(PODS, first, "default")
    await world.until(lambda: world.one(JOBS, "one")["status"].get("failed") == 1)
    await world.until(lambda: Key("default", first) not in world.client.objects(PODS))


async def test_a_suspended_job_runs_nothing_until_resumed_and_a_deleted_one_frees_its_pods(world: World) -> None:
    spec = {"suspend": True, "template": template({}, restartPolicy="Never")}
    await world.create(JOBS, {"metadata": {"name": "later", "namespace": "default"}, "spec": spec})
    await world.until(lambda: condition(world.one(JOBS, "later"), "Suspended"))
    assert not world.all(PODS)
    await world.client.patch(JOBS, "later", {"spec": {"suspend": False}}, "default")
    await world.until(lambda: world.all(PODS))
    await world.client.patch(JOBS, "later", {"spec": {"suspend": True}}, "default")
    await world.until(lambda: not world.all(PODS))
    assert not world.one(JOBS, "later")["status"].get("failed")
    await world.client.patch(JOBS, "later", {"spec": {"suspend": False}}, "default")
    await world.until(lambda: world.all(PODS))
    await world.client.delete(JOBS, "later", "default")
    await world.until(lambda: not world.all(PODS))


async def test_ready_but_not_yet_available_pods_hold_a_rollout_back(world: World) -> None:
    labels = {"app": "web"}
    spec = {"replicas": 1, "minReadySeconds": 1, "selector": {"matchLabels": labels}, "template": template(labels)}
    await world.create(DEPLOYMENTS, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    await world.until(lambda: world.one(DEPLOYMENTS, "web").get("status", {}).get("readyReplicas") == 1)
    assert not world.one(DEPLOYMENTS, "web")["status"].get("availableReplicas")
    await world.until(lambda: world.one(DEPLOYMENTS, "web")["status"].get("availableReplicas") == 1)


async def test_headless_services_know_hostnames_and_not_ready_pods_when_asked(world: World) -> None:
    await world.create(SERVICES, {
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {"clusterIP": "None", "ipFamilies": ["IPv4"], "selector": {"app": "db"}, "publishNotReadyAddresses": True},
    })  # fmt: skip
    labels = {"app": "db"}
    spec = {"replicas": 2, "serviceName": "db", "podManagementPolicy": "Parallel", "selector": {"matchLabels": labels}, "template": template(labels)}  # fmt: skip
    await world.create(STATEFULSETS, {"metadata": {"name": "db", "namespace": "default"}, "spec": spec})

    def hostnames() -> set[Any]:
        return {e.get("hostname") for s in world.all(ENDPOINTSLICES) for e in s["endpoints"]}

    await world.until(lambda: hostnames() == {"db-0", "db-1"})
    slices = world.all(ENDPOINTSLICES)
    assert all("service.kubernetes.io/headless" in labels_of(s) for s in slices)
    for pod in world.all(PODS):
        await world.kubelet.report(pod, "Running", ready=False)
    await world.until(
        lambda: all(not e["conditions"]["serving"] for s in world.all(ENDPOINTSLICES) for e in s["endpoints"])
    )
    assert all(e["conditions"]["ready"] for s in world.all(ENDPOINTSLICES) for e in s["endpoints"])


async def test_named_ports_that_differ_make_two_port_sets(world: World) -> None:
    await world.create(SERVICES, {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.7", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
    })  # fmt: skip
    for name, port in (("one", 8080), ("two", 9090)):
        container = {"name": "c", "ports": [{"name": "web", "containerPort": port}]}
        await world.create(PODS, {
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}}, "spec": {"containers": [container]},
        })  # fmt: skip

    def ports() -> set[int]:
        return {p["port"] for s in world.all(ENDPOINTSLICES) for p in s["ports"] if s["endpoints"]}

    await world.until(lambda: ports() == {8080, 9090})
    assert len(world.one(ENDPOINTS, "web")["subsets"]) == 2


async def test_hand_made_endpoints_are_mirrored_and_follow(world: World) -> None:
    await world.create(
        SERVICES, {"metadata": {"name": "ext", "namespace": "default"}, "spec": {"ports": [{"port": 80}]}}
    )
    subsets = [{"addresses": [{"ip": "10.1.0.1"}], "notReadyAddresses": [{"ip": "10.1.0.2"}], "ports": [{"port": 80}]}]
    await world.create(ENDPOINTS, {"metadata": {"name": "ext", "namespace": "default"}, "subsets": subsets})

    def mirrored() -> dict[str, bool]:
        return {e["addresses"][0]: e["conditions"]["ready"] for s in world.all(ENDPOINTSLICES) for e in s["endpoints"]}

    await world.until(lambda: mirrored() == {"10.1.0.1": True, "10.1.0.2": False})
    assert labels_of(world.all(ENDPOINTSLICES)[0])["endpointslice.kubernetes.io/managed-by"] == (
        "endpointslicemirroring-controller.k8s.io"
    )
    await world.client.delete(ENDPOINTS, "ext", "default")
    await world.until(lambda: not world.all(ENDPOINTSLICES))


async def test_a_gated_pod_waits_and_another_schedulers_pod_is_left_alone(world: World) -> None:
    await world.create(PODS, {
        "metadata": {"name": "gated", "namespace": "default"},
        "spec": {"containers": [{"name": "c"}], "schedulingGates": [{"name": "wait"}]},
    })  # fmt: skip
    await world.create(PODS, {
        "metadata": {"name": "other", "namespace": "default"},
        "spec": {"containers": [{"name": "c"}], "schedulerName": "mine"},
    })  # fmt: skip
    await world.until(
        lambda: (condition(world.one(PODS, "gated"), "PodScheduled") or {}).get("reason") == "SchedulingGated"
    )
    await world.client.patch(PODS, "gated", {"spec": {"schedulingGates": None}}, "default")
    await world.until(lambda: world.one(PODS, "gated")["spec"].get("nodeName"))
    assert not world.one(PODS, "other")["spec"].get("nodeName")


async def test_the_important_come_first() -> None:
    async with running_world(nodes=0) as world:
        for name, priority in (("low", 0), ("high", 1000)):
            await world.create(PODS, {
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            })  # fmt: skip
        await world.until(lambda: condition(world.one(PODS, "low"), "PodScheduled"))
        await world.create(NODES, node("small", cpu="1"))
        await world.until(lambda: world.one(PODS, "high")["spec"].get("nodeName"))
        assert not world.one(PODS, "low")["spec"].get("nodeName")


async def test_the_same_event_again_is_counted(world: World) -> None:
    assert world.shared is not None
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", "uid": "u"}}
    for _ in range(3):
        world.shared.recorder.normal(pod, "Tested", "hello", "test")
    for n in range(100):
        world.shared.recorder.normal(pod, "Noise", f"number {n}", "test")

    def tested() -> list[Obj]:
        return [e for e in world.all(EVENTS) if e["reason"] == "Tested"]

    await world.until(lambda: tested() and tested()[0]["count"] == 3)
    await world.until(lambda: len(world.all(EVENTS)) >= 23)
    await asyncio.sleep(0.05)
    assert len(world.all(EVENTS)) == 23  # 25 at once for one object: 3 of them one event
