"""The scheduler's loop: pods that wait, in order of priority and age; each placed once, bound concurrently."""

from __future__ import annotations

import asyncio
import heapq

from podwire.client.errors import ApiError, Conflict, NotFound
from podwire.controllers.pods.state import created_at, is_finished, node_of
from podwire.controllers.scheduler.cluster import Cluster
from podwire.controllers.scheduler.values import PodFacts, is_gated, parse_node, parse_pod
from podwire.controllers.shared import Shared, log
from podwire.model.objects import (
    Key,
    Obj,
    condition,
    is_deleting,
    key_of,
    labels_of,
    timestamp,
    with_condition,
)
from podwire.model.resources import NAMESPACES, NODES, PODS

COMPONENT = "default-scheduler"
RETRY_GAP_S = 0.1  # unschedulable pods are tried again together, at most so often
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.1, 10.0
TURN = 32  # placements between two turns of the event loop


class Scheduler:
    """Binds pods of schedulerName "default-scheduler" to nodes."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._cluster = Cluster()
        self._pods = shared.informer(PODS)
        self._queue: list[tuple[int, str, int, Key]] = []
        self._queued: set[Key] = set()
        self._parked: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._binding: dict[str, str] = {}  # uid -> node, until the pod is seen bound
        self._serial = 0
        self._wake = asyncio.Event()
        self._retry: asyncio.TimerHandle | None = None
        self._slots = asyncio.Semaphore(shared.config.bindings_in_flight)
        shared.informer(NODES).listen(self._node)
        shared.informer(NAMESPACES).listen(self._namespace)
        self._pods.listen(self._pod)

    async def run(self) -> None:
        """Schedule until cancelled."""
        await self._shared.synced(NODES, PODS, NAMESPACES)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._drain(group)

    def _node(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            self._cluster.remove_node(key.name)
            self._retry_parked()
            return
        if old is not None and _placing_facts(old) == _placing_facts(new):
            return
        self._cluster.set_node(parse_node(new))
        self._retry_parked()

    def _namespace(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            self._cluster.namespace_labels.pop(key.name, None)
        elif old is None or labels_of(old) != labels_of(new):
            self._cluster.namespace_labels[key.name] = labels_of(new)
            self._retry_parked()

    def _pod(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self._forget(key, old)
        if new is None:
            return
        uid, node = new["metadata"]["uid"], node_of(new)
        if is_finished(new):
            self._forget(key, new)
        elif node:
            self._binding.pop(uid, None)
            self._failures.pop(key, None)
            self._parked.discard(key)
            if old is None or self._cluster.home_of(uid) != node or _pod_facts_changed(old, new):
                self._cluster.place(parse_pod(new), node)
                if self._parked:
                    self._retry_parked()
        elif (
            self._mine(new)
            and uid not in self._binding
            and (old is None or key not in self._parked or _pod_facts_changed(old, new))
        ):
            self._parked.discard(key)
            self._enqueue(key, new)

    def _forget(self, key: Key, pod: Obj) -> None:
        self._binding.pop(pod["metadata"]["uid"], None)
        self._parked.discard(key)
        self._failures.pop(key, None)
        if self._cluster.remove(pod["metadata"]["uid"]):
            self._retry_parked()

    def _mine(self, pod: Obj) -> bool:
        return (pod["spec"].get("schedulerName") or COMPONENT) == COMPONENT and not is_deleting(pod)

    def _enqueue(self, key: Key, pod: Obj) -> None:
        if key in self._queued:
            return
        self._queued.add(key)
        self._serial += 1
        priority = pod["spec"].get("priority") or 0
        heapq.heappush(self._queue, (-priority, created_at(pod), self._serial, key))
        self._wake.set()

    def _retry_parked(self) -> None:
        """Try the unschedulable pods again soon: something changed that may have made room."""
        if self._parked and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_GAP_S, self._unpark)

    def _unpark(self) -> None:
        self._retry = None
        parked, self._parked = self._parked, set()
        for key in parked:
            self._revive(key)

    def _revive(self, key: Key) -> None:
        pod = self._pods.objects.get(key)
        if pod is not None and not node_of(pod) and self._mine(pod):
            self._enqueue(key, pod)

    async def _drain(self, group: asyncio.TaskGroup) -> None:
        placed = 0
        while self._queue:
            key = heapq.heappop(self._queue)[3]
            self._queued.discard(key)
            pod = self._pods.objects.get(key)
            if pod is None or node_of(pod) or is_finished(pod) or not self._mine(pod):
                continue
            if pod["metadata"]["uid"] in self._binding:
                continue
            self._place(group, key, pod)
            placed += 1
            if placed % TURN == 0:
                await asyncio.sleep(0)  # bindings go out while the rest is placed

    def _place(self, group: asyncio.TaskGroup, key: Key, pod: Obj) -> None:
        if is_gated(pod):
            self._parked.add(key)
            text = "Scheduling is blocked due to non-empty scheduling gates"
            group.create_task(self._refuse(pod, "SchedulingGated", text))
            return
        facts = parse_pod(pod)
        placement = self._cluster.choose(facts)
        if not placement.node:
            self._parked.add(key)
            group.create_task(self._refuse(pod, "Unschedulable", placement.message))
            return
        self._cluster.place(facts, placement.node)
        self._binding[facts.uid] = placement.node
        group.create_task(self._bind(key, facts, pod, placement.node))

    async def _bind(self, key: Key, facts: PodFacts, pod: Obj, node: str) -> None:
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": facts.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            async with self._slots:
                await self._shared.client.create_subresource(PODS, key.name, key.namespace, "binding", binding)
        except ApiError as error:
            self._unassume(key, facts.uid, error)
            return
        text = f"Successfully assigned {key.namespace}/{key.name} to {node}"
        self._shared.recorder.normal(pod, "Scheduled", text, COMPONENT)

    def _unassume(self, key: Key, uid: str, error: ApiError) -> None:
        """Take a failed binding back; the pod is tried again, later each time."""
        if self._binding.pop(uid, None) is None:
            return  # seen bound, or gone, meanwhile
        self._cluster.remove(uid)
        if isinstance(error, NotFound):
            return
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures - 1, 10))
        log.warning("bind-failed", pod=key, error=str(error), again_s=delay_s)
        asyncio.get_running_loop().call_later(delay_s, self._revive, key)

    async def _refuse(self, pod: Obj, reason: str, message: str) -> None:
        """Say in the pod's condition PodScheduled, and once in an event, why it waits."""
        known = condition(pod, "PodScheduled") or {}
        if known.get("reason") == reason and known.get("message") == message:
            return
        now = timestamp(self._shared.clock.now())
        new = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
        conditions = with_condition((pod.get("status") or {}).get("conditions") or (), new, now)
        key = key_of(pod)
        patch = {
            "metadata": {"uid": pod["metadata"]["uid"], "resourceVersion": pod["metadata"]["resourceVersion"]},
            "status": {"conditions": conditions},
        }
        if reason == "Unschedulable":
            self._shared.recorder.warning(pod, "FailedScheduling", message, COMPONENT)
        try:
            await self._shared.client.patch(PODS, key.name, patch, key.namespace, subresource="status")
        except (Conflict, NotFound):
            return  # the newer pod arrives through the watch and is looked at again
        except ApiError as error:
            log.warning("status-not-written", pod=key, error=str(error))


def _placing_facts(node: Obj) -> tuple[object, ...]:
    """Return what of a node decides about placements; its heartbeats do not."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    return (labels_of(node), spec.get("taints"), spec.get("unschedulable"), status.get("allocatable"))


def _pod_facts_changed(old: Obj, new: Obj) -> bool:
    return labels_of(old) != labels_of(new) or old["spec"] != new["spec"] or is_deleting(old) != is_deleting(new)
