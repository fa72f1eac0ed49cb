"""Every loop at once over the fake API: what a person does with kubectl, and what comes of it."""

from __future__ import annotations

from typing import Any

from controllers_world import World, node, template

from podwire.model.objects import Key, Obj, condition, is_deleting, is_ready, labels_of, timestamp
from podwire.model.resources import (
    CONFIGMAPS,
    CRONJOBS,
    DAEMONSETS,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    EVENTS,
    JOBS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICEACCOUNTS,
    SERVICES,
    STATEFULSETS,
)


def deployment(name: str = "web", replicas: int = 3, image: str = "nginx", **spec: Any) -> Obj:
    labels = {"app": name}
    return {
        "metadata": {"name": name, "namespace": "default", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": template(labels, image),
            **spec,
        },
    }


def progressing(obj: Obj) -> Any:
    return (condition(obj, "Progressing") or {}).get("reason")


def ready_pods(world: World) -> list[Obj]:
    return [p for p in world.all(PODS) if is_ready(p) and not is_deleting(p)]


async def test_a_deployment_rolls_out_and_says_so(world: World) -> None:
    await world.create(DEPLOYMENTS, deployment())
    await world.until(lambda: progressing(world.one(DEPLOYMENTS, "web")) == "NewReplicaSetAvailable")
    status = world.one(DEPLOYMENTS, "web")["status"]
    assert (status["replicas"], status["updatedReplicas"], status["availableReplicas"]) == (3, 3, 3)
    assert len(world.all(PODS)) == 3
    assert {p["spec"]["nodeName"] for p in world.all(PODS)} == {"node-0", "node-1", "node-2"}
    owner = world.all(REPLICASETS)[0]
    assert owner["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    assert world.one(DEPLOYMENTS, "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    suffix = owner["metadata"]["labels"]["pod-template-hash"]
    assert owner["metadata"]["name"] == f"web-{suffix}"
    assert len(suffix) == 10
    assert all(labels_of(p)["pod-template-hash"] == suffix for p in world.all(PODS))


async def test_a_new_image_replaces_all_pods_and_undo_brings_the_old_set_back(world: World) -> None:
    await world.create(DEPLOYMENTS, deployment(replicas=4))
    await world.until(lambda: progressing(world.one(DEPLOYMENTS, "web")) == "NewReplicaSetAvailable")
    first = world.all(REPLICASETS)[0]["metadata"]["name"]

    await world.client.patch(DEPLOYMENTS, "web", {"spec": {"template": template({"app": "web"}, "nginx:2")}}, "default")
    await world.until(
        lambda: (
            len(ready_pods(world)) == 4
            and all(p["spec"]["containers"][0]["image"] == "nginx:2" for p in world.all(PODS))
        )
    )
    sets = {s["metadata"]["name"]: s for s in world.all(REPLICASETS)}
    assert len(sets) == 2
    assert sets[first]["spec"]["replicas"] == 0

    await world.client.patch(DEPLOYMENTS, "web", {"spec": {"template": template({"app": "web"}, "nginx")}}, "default")
    await world.until(
        lambda: (
            len(ready_pods(world)) == 4
            and len(world.all(PODS)) == 4
            and all(p["spec"]["containers"][0]["image"] == "nginx" for p in world.all(PODS))
        )
    )
    back = world.one(REPLICASETS, first)["metadata"]["annotations"]
    assert back["deployment.kubernetes.io/revision"] == "3"
    assert back["deployment.kubernetes.io/revision-history"] == "1"


async def test_recreate_never_runs_old_and_new_together(world: World) -> None:
    await world.create(DEPLOYMENTS, deployment(replicas=2, strategy={"type": "Recreate"}))
    await world.until(lambda: len(ready_pods(world)) == 2)
    mixed: list[set[str]] = []
    await world.client.patch(DEPLOYMENTS, "web", {"spec": {"template": template({"app": "web"}, "v2")}}, "default")

    def done() -> bool:
        images = {p["spec"]["containers"][0]["image"] for p in world.all(PODS)}
        if len(images) > 1:
            mixed.append(images)
        return images == {"v2"} and len(ready_pods(world)) == 2

    await world.until(done)
    assert not mixed


async def test_scaling_up_and_down(world: World) -> None:
    await world.create(DEPLOYMENTS, deployment(replicas=1))
    await world.until(lambda: len(ready_pods(world)) == 1)
    await world.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 20}}, "default")
    await world.until(lambda: len(ready_pods(world)) == 20)
    await world.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 0}}, "default")
    await world.until(lambda: not world.all(PODS))


async def test_deleting_a_deployment_leaves_nothing(world: World) -> None:
    await world.create(DEPLOYMENTS, deployment())
    await world.until(lambda: len(ready_pods(world)) == 3)
    await world.client.delete(DEPLOYMENTS, "web", "default")
    await world.until(lambda: not world.all(REPLICASETS) and not world.all(PODS))


async def test_a_statefulset_comes_up_in_order_and_updates_from_the_top(world: World) -> None:
    labels = {"app": "db"}
    await world.create(STATEFULSETS, {
        "metadata": {"name": "db", "namespace": "default", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": labels}, "template": template(labels)},
    })  # fmt: skip
    await world.until(lambda: len(ready_pods(world)) == 3)
    pods = sorted(world.all(PODS), key=lambda p: int(p["metadata"]["resourceVersion"]))
    assert sorted(p["metadata"]["name"] for p in pods) == ["db-0", "db-1", "db-2"]
    assert labels_of(world.one(PODS, "db-1"))["apps.kubernetes.io/pod-index"] == "1"
    assert world.one(PODS, "db-1")["spec"]["hostname"] == "db-1"
    creates = [
        path
        for verb, path in world.client.requests
        if verb == "create" and path.startswith("pods/default/db-") and "binding" not in path
    ]
    assert [c.rsplit("/", 1)[1] for c in creates] == ["db-0", "db-1", "db-2"]

    await world.client.patch(STATEFULSETS, "db", {"spec": {"template": template(labels, "v2")}}, "default")
    await world.until(
        lambda: (
            world.one(STATEFULSETS, "db")["status"].get("currentRevision")
            == world.one(STATEFULSETS, "db")["status"]["updateRevision"]
            and len(ready_pods(world)) == 3
            and all(p["spec"]["containers"][0]["image"] == "v2" for p in world.all(PODS))
        )
    )
    await world.client.patch(STATEFULSETS, "db", {"spec": {"replicas": 1}}, "default")
    await world.until(lambda: [p["metadata"]["name"] for p in world.all(PODS)] == ["db-0"])


async def test_a_daemonset_follows_the_nodes(world: World) -> None:
    labels = {"app": "agent"}
    await world.create(DAEMONSETS, {
        "metadata": {"name": "agent", "namespace": "default", "generation": 1},
        "spec": {"selector": {"matchLabels": labels}, "template": template(labels)},
    })  # fmt: skip
    await world.until(lambda: world.one(DAEMONSETS, "agent")["status"].get("numberAvailable") == 3)
    await world.create(NODES, node("node-3"))
    await world.until(lambda: world.one(DAEMONSETS, "agent")["status"].get("numberAvailable") == 4)
    await world.client.delete(NODES, "node-3")
    await world.until(lambda: len(world.all(PODS)) == 3)
    await world.client.patch(DAEMONSETS, "agent", {"spec": {"template": template(labels, "v2")}}, "default")
    await world.until(
        lambda: (
            len(ready_pods(world)) == 3 and all(p["spec"]["containers"][0]["image"] == "v2" for p in world.all(PODS))
        )
    )


async def test_a_job_completes_and_each_pod_counts_once(world: World) -> None:
    await world.create(JOBS, {
        "metadata": {"name": "work", "namespace": "default"},
        "spec": {"completions": 5, "parallelism": 2, "template": template({}, restartPolicy="Never")},
    })  # fmt: skip

    async def finish_running() -> None:
        for pod in world.all(PODS):
            if (pod.get("status") or {}).get("phase") == "Running":
                await world.kubelet.report(pod, "Succeeded", ready=False)

    for _ in range(400):
        await finish_running()
        if condition(world.one(JOBS, "work"), "Complete"):
            break
        await world.until(lambda: True)
        import asyncio

        await asyncio.sleep(0.01)
    status = world.one(JOBS, "work")["status"]
    assert status["succeeded"] == 5
    assert status["completionTime"]
    assert condition(world.one(JOBS, "work"), "SuccessCriteriaMet")
    assert not any((p["metadata"].get("finalizers")) for p in world.all(PODS))
    assert len(world.all(PODS)) == 5


async def test_a_service_gets_slices_and_endpoints_of_ready_pods(world: World) -> None:
    await world.create(SERVICES, {
        "metadata": {"name": "web", "namespace": "default", "labels": {"team": "a"}},
        "spec": {"clusterIP": "10.96.0.20", "ipFamilies": ["IPv4"], "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })  # fmt: skip
    await world.until(lambda: world.all(ENDPOINTSLICES))
    await world.create(DEPLOYMENTS, deployment())

    def ready_addresses() -> set[str]:
        return {
            a
            for s in world.all(ENDPOINTSLICES)
            for e in s["endpoints"]
            if e["conditions"]["ready"]
            for a in e["addresses"]
        }

    await world.until(lambda: len(ready_pods(world)) == 3 and len(ready_addresses()) == 3)
    assert ready_addresses() == {p["status"]["podIP"] for p in ready_pods(world)}
    slices = world.all(ENDPOINTSLICES)
    assert len(slices) == 1
    assert labels_of(slices[0]) == {
        "team": "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert slices[0]["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    await world.until(lambda: len(world.one(ENDPOINTS, "web")["subsets"][0].get("addresses", ())) == 3)
    await world.client.delete(SERVICES, "web", "default")
    await world.until(lambda: not world.all(ENDPOINTSLICES) and not world.all(ENDPOINTS))


async def test_a_namespace_is_furnished_and_dies_with_all_it_holds(world: World) -> None:
    await world.create(NAMESPACES, {"metadata": {"name": "shop"}, "spec": {"finalizers": ["kubernetes"]}})
    await world.until(lambda: world.one(CONFIGMAPS, "kube-root-ca.crt", "shop"))
    await world.until(lambda: world.one(SERVICEACCOUNTS, "default", "shop"))
    obj = deployment()
    obj["metadata"]["namespace"] = "shop"
    await world.create(DEPLOYMENTS, obj)
    await world.until(lambda: len(world.all(PODS, "shop")) == 3)
    await world.client.delete(NAMESPACES, "shop")
    await world.until(lambda: Key("", "shop") not in world.client.objects(NAMESPACES))
    assert not world.all(PODS, "shop")
    assert not world.all(DEPLOYMENTS, "shop")
    assert not world.all(CONFIGMAPS, "shop")


async def test_nodes_get_distinct_cidrs(world: World) -> None:
    await world.until(lambda: all(n["spec"].get("podCIDR") for n in world.all(NODES)))
    assert {n["spec"]["podCIDR"] for n in world.all(NODES)} == {"10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"}


async def test_what_fits_nowhere_says_why_and_is_placed_once_there_is_room(world: World) -> None:
    await world.create(PODS, {
        "metadata": {"name": "big", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "6"}}}]},
    })  # fmt: skip
    found = await world.until(lambda: condition(world.one(PODS, "big"), "PodScheduled"))
    assert found["reason"] == "Unschedulable"
    assert found["message"].startswith("0/3 nodes are available: 3 Insufficient cpu.")
    await world.until(lambda: [e for e in world.all(EVENTS) if e["reason"] == "FailedScheduling"])
    await world.create(NODES, node("large", cpu="16"))
    await world.until(lambda: world.one(PODS, "big")["spec"].get("nodeName") == "large")


async def test_a_cronjob_due_makes_one_job(world: World) -> None:
    from datetime import UTC, datetime, timedelta

    await world.create(CRONJOBS, {
        "metadata": {
            "name": "tick", "namespace": "default",
            "creationTimestamp": timestamp(datetime.now(UTC) - timedelta(minutes=3)),
        },
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template({}, restartPolicy="Never")}}},
    })  # fmt: skip
    await world.until(lambda: len(world.all(JOBS)) == 1)
    assert world.all(JOBS)[0]["metadata"]["name"].startswith("tick-")
    await world.until(lambda: world.one(CRONJOBS, "tick")["status"].get("lastScheduleTime"))
