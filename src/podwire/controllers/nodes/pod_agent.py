"""The loop that removes pods nobody will ever finish: of nodes that are gone, and too many finished ones."""

from __future__ import annotations

from podwire.client.errors import NotFound
from podwire.controllers.nodes.eviction_agent import mark_disrupted
from podwire.controllers.nodes.lifecycle_agent import on_node
from podwire.controllers.nodes.plan import OUT_OF_SERVICE
from podwire.controllers.pods.state import created_at, is_finished, node_of
from podwire.controllers.shared import Shared, all_of
from podwire.controllers.workload import keyed_loop
from podwire.model.objects import Key, Obj, is_deleting, is_ready
from podwire.model.resources import NODES, PODS

COMPONENT = "pod-garbage-collector"
FINISHED = Key("", "")  # the key under which finished pods are counted


def surplus_finished(pods: list[Obj], threshold: int) -> list[Obj]:
    """Return the finished pods beyond the threshold, oldest first; none for a threshold of 0 or less."""
    finished = [p for p in pods if is_finished(p) and not is_deleting(p)]
    excess = len(finished) - threshold
    return sorted(finished, key=created_at)[:excess] if threshold > 0 and excess > 0 else []


class PodGarbage:
    """Keyed by node: its pods go when it is gone for good, or out of service."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._nodes, self._pods = shared.informer(NODES), shared.informer(PODS)
        self._pods_on = shared.index("node/pods", PODS, on_node)
        self._missing_since: dict[Key, float] = {}
        self._finished = 0
        self._loop = keyed_loop(shared, self._reconcile, workers=1)
        self._nodes.listen(self._node)
        self._pods.listen(self._pod)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(NODES, PODS)
        await self._loop.run()

    def _node(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if new is None or _is_out_of_service(new):
            self._loop.add(key)
        else:
            self._missing_since.pop(key, None)

    def _pod(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        was, now = old is not None and is_finished(old), new is not None and is_finished(new)
        self._finished += now - was
        if now and not was and self._finished > self._shared.config.terminated_pod_threshold > 0:
            self._loop.add(FINISHED)
        if new is None:
            return
        home = Key("", node_of(new))
        node = self._nodes.objects.get(home)
        if not home.name:
            if is_deleting(new):
                self._loop.add(key)
        elif node is None:
            if old is None or not node_of(old):
                self._loop.add(home)
        elif is_deleting(new) and _is_out_of_service(node):
            self._loop.add(home)

    async def _reconcile(self, key: Key) -> float | None:
        if key == FINISHED:
            limit = self._shared.config.terminated_pod_threshold
            await all_of([self._remove(p) for p in surplus_finished(list(self._pods.objects.values()), limit)])
            return None
        if key.namespace:
            pod = self._pods.objects.get(key)
            if pod is not None and is_deleting(pod) and not node_of(pod):
                await self._remove(pod)
            return None
        return await self._clean_node(key)

    async def _clean_node(self, key: Key) -> float | None:
        pods = list(self._pods_on.of(key.name))
        node = self._nodes.objects.get(key)
        if node is not None:
            self._missing_since.pop(key, None)
            if _is_out_of_service(node):
                await all_of([self._remove(p) for p in pods if is_deleting(p)])
            return None
        if not pods:
            self._missing_since.pop(key, None)
            return None
        now_s = self._shared.clock.monotonic()
        since_s = self._missing_since.setdefault(key, now_s)
        left_s = since_s + self._shared.config.orphan_quarantine_s - now_s
        if left_s > 0:
            return left_s
        try:
            await self._shared.client.get(NODES, key.name)  # the mirror may lag; the server does not
            return self._shared.config.orphan_quarantine_s
        except NotFound:
            pass
        await all_of([self._orphan(p) for p in pods])
        return None

    async def _orphan(self, pod: Obj) -> None:
        phase = "" if is_finished(pod) else "Failed"
        await mark_disrupted(self._shared, pod, "DeletionByPodGC", "PodGC: node no longer exists", phase)
        await self._remove(pod)

    async def _remove(self, pod: Obj) -> None:
        meta = pod["metadata"]
        async with self._shared.in_flight:
            try:
                await self._shared.client.delete(
                    PODS, meta["name"], meta["namespace"], grace_period_s=0, uid=meta["uid"]
                )
            except NotFound:
                pass


def _is_out_of_service(node: Obj) -> bool:
    taints = (node.get("spec") or {}).get("taints") or ()
    return not is_ready(node) and any(t["key"] == OUT_OF_SERVICE for t in taints)
