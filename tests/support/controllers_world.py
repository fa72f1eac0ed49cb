"""A whole cluster of control loops over the fake API, with kubelets that only pretend."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest

from podwire.client.errors import ApiError
from podwire.client.fake import FakeClient
from podwire.client.informer import Informer
from podwire.controllers.agent import make_loops
from podwire.controllers.config import ControllersConfig
from podwire.controllers.shared import Shared
from podwire.model.objects import Key, Obj, is_deleting, timestamp
from podwire.model.resources import NAMESPACES, NODES, PODS, Resource
from podwire.runtime.clock import SystemClock


class NamespacedClient(FakeClient):
    """The fake with what the API server does on deletion.

    spec.finalizers hold a namespace until /finalize, and propagationPolicy becomes a finalizer.
    """

    async def delete(self, resource: Resource, name: str, namespace: str = "", **options: Any) -> None:
        if resource == NAMESPACES:
            current = await self.get(NAMESPACES, name)
            if current["spec"].get("finalizers"):
                # A metadata finalizer makes the fake hold it back; /finalize below takes it off again.
                held = {"metadata": {"finalizers": ["held"]}, "status": {"phase": "Terminating"}}
                await self.patch(NAMESPACES, name, held)
        finalizer = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(options.get("propagation", ""))
        if finalizer:
            current = await self.get(resource, name, namespace)
            finalizers = [*(current["metadata"].get("finalizers") or ()), finalizer]
            await self.patch(resource, name, {"metadata": {"finalizers": finalizers}}, namespace)
        await super().delete(resource, name, namespace, **options)

    async def update(self, resource: Resource, obj: Obj, subresource: str = "") -> Obj:
        if subresource == "finalize":
            assert obj["spec"]["finalizers"] == []
            return await self.patch(NAMESPACES, obj["metadata"]["name"], {"metadata": {"finalizers": None}})
        return await super().update(resource, obj, subresource)


class World:
    """The fake API, the loops, and what a test wants to know of them."""

    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.kubelet = Kubelets(client)
        self.shared: Shared | None = None

    async def create(self, resource: Resource, obj: Obj) -> Obj:
        return await self.client.create(resource, {"apiVersion": resource.api_version, "kind": resource.kind, **obj})

    def all(self, resource: Resource, namespace: str = "default") -> list[Obj]:
        found = self.client.objects(resource).values()
        return [o for o in found if not resource.namespaced or o["metadata"]["namespace"] == namespace]

    def one(self, resource: Resource, name: str, namespace: str = "default") -> Obj:
        key = Key(namespace if resource.namespaced else "", name)
        return self.client.objects(resource)[key]

    async def until(self, wanted: Callable[[], Any], timeout_s: float = 8.0) -> Any:
        """Return what ``wanted`` returns once it is true; fail when it never is."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while True:
            try:
                found = wanted()
            except KeyError:
                found = None
            if found:
                return found
            if loop.time() > end:
                pytest.fail(f"not reached in {timeout_s} s; pods: {[_brief(p) for p in self.all(PODS)]}")
            await asyncio.sleep(0.01)


def _brief(pod: Obj) -> tuple[Any, ...]:
    status = pod.get("status") or {}
    return (
        pod["metadata"]["name"],
        pod["spec"].get("nodeName"),
        status.get("phase"),
        is_deleting(pod),
        [(c["type"], c["status"], c.get("message")) for c in status.get("conditions") or ()],
    )


class Kubelets:
    """Makes every bound pod Running and Ready at once, and every deleted pod vanish; both can be held back."""

    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.silent: set[str] = set()  # nodes whose kubelet does nothing
        self.keep_waiting: Callable[[Obj], bool] = lambda pod: False  # pods that do not become ready
        self._serial = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        pods = Informer(self.client, PODS)
        pods.listen(self._see)
        await pods.run()

    def _see(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if new is None or not new["spec"].get("nodeName") or new["spec"]["nodeName"] in self.silent:
            return
        task = asyncio.get_running_loop().create_task(self._act(key, copy.deepcopy(new)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _act(self, key: Key, pod: Obj) -> None:
        try:
            if is_deleting(pod):
                await self.client.delete(PODS, key.name, key.namespace, grace_period_s=0, uid=pod["metadata"]["uid"])
            elif (pod.get("status") or {}).get("phase") in (None, "Pending") and not self.keep_waiting(pod):
                # A stale view must not bring a pod back that failed meanwhile: the newer one is on its way.
                await self.report(pod, "Running", ready=True, only_if_unchanged=True)
        except ApiError:
            pass

    async def report(self, pod: Obj, phase: str, *, ready: bool, only_if_unchanged: bool = False) -> None:
        self._serial += 1
        now = timestamp(SystemClock().now())
        conditions = [
            {"type": t, "status": "True" if ready else "False", "lastTransitionTime": now}
            for t in ("Ready", "ContainersReady")
        ]
        ip = (pod.get("status") or {}).get("podIP") or f"10.244.{self._serial // 250}.{self._serial % 250 + 2}"
        status = {"phase": phase, "conditions": conditions, "podIP": ip, "podIPs": [{"ip": ip}]}
        meta = pod["metadata"]
        patch: Obj = {"status": status}
        if only_if_unchanged:
            patch["metadata"] = {"resourceVersion": meta["resourceVersion"]}
        await self.client.patch(PODS, meta["name"], patch, meta["namespace"], subresource="status")


def node(name: str, *, cpu: str = "4", pods: str = "110", labels: dict[str, str] | None = None, **spec: Any) -> Obj:
    """Return a ready node."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": pods},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
        },
    }


def template(labels: dict[str, str], image: str = "nginx", **spec: Any) -> Obj:
    """Return a pod template of one container."""
    return {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}], **spec}}


CONFIG = ControllersConfig(
    root_ca_pem="-----PEM-----",
    cluster_cidrs=(ip_network("10.244.0.0/16"),),
    garbage_delay_s=0.0,
    orphan_quarantine_s=0.05,
)


def namespace(name: str) -> Obj:
    """Return an active namespace."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


@asynccontextmanager
async def running_world(
    config: ControllersConfig = CONFIG, nodes: int = 3, client: FakeClient | None = None
) -> AsyncIterator[World]:
    """Yield a cluster of ready nodes with every loop running."""
    client = client or NamespacedClient()
    for name in ("default", "kube-system"):
        client.seed(NAMESPACES, namespace(name))
    for n in range(nodes):
        client.seed(NODES, node(f"node-{n}"))
    world = World(client)
    shared = world.shared = Shared(client, config, SystemClock())
    loops = make_loops(shared)
    async with asyncio.TaskGroup() as group:

        async def mirror() -> None:
            async with asyncio.TaskGroup() as inner:
                shared.start(inner)

        tasks = [group.create_task(c) for c in (mirror(), world.kubelet.run(), *(loop.run() for loop in loops))]
        yield world
        for task in tasks:
            task.cancel()
