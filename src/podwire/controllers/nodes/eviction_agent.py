"""The loop that deletes pods which do not (or no longer) tolerate a NoExecute taint of their node."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from podwire.client.errors import ApiError
from podwire.controllers.nodes.lifecycle_agent import on_node
from podwire.controllers.pods.state import is_active, node_of
from podwire.controllers.shared import Shared, log
from podwire.controllers.workload import keyed_loop
from podwire.model.objects import Key, Obj, is_deleting, parse_timestamp, timestamp, with_condition
from podwire.model.resources import NODES, PODS
from podwire.model.tolerations import parse_taint, parse_toleration

COMPONENT = "taint-eviction-controller"


def no_execute(node: Obj) -> list[Any]:
    """Return the NoExecute taints of a node, as stored."""
    return [t for t in (node.get("spec") or {}).get("taints") or () if t["effect"] == "NoExecute"]


def evict_in_s(pod: Obj, taints: Sequence[Any], now: datetime) -> float | None:
    """Return the seconds until the pod must go; 0 for now; None when it may stay."""
    tolerations = [parse_toleration(t) for t in (pod.get("spec") or {}).get("tolerations") or ()]
    deadlines = []
    for raw in taints:
        taint = parse_taint(raw)
        covering = [t for t in tolerations if t.tolerates(taint)]
        if not covering:
            return 0.0
        limits = [t.seconds for t in covering if t.seconds is not None]
        if limits:
            since = parse_timestamp(raw["timeAdded"]) if raw.get("timeAdded") else now
            deadlines.append(max(0.0, max(0, min(limits)) - (now - since).total_seconds()))
    return min(deadlines, default=None)


class TaintEviction:
    """Evicts by taints."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._nodes, self._pods = shared.informer(NODES), shared.informer(PODS)
        self._pods_on = shared.index("node/pods", PODS, on_node)
        self._loop = keyed_loop(shared, self._reconcile, workers=4)
        self._nodes.listen(self._node)
        self._pods.listen(self._pod)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(NODES, PODS)
        await self._loop.run()

    def _node(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        before = no_execute(old) if old is not None else []
        if new is not None and no_execute(new) != before:
            for pod in self._pods_on.of(key.name):
                self._loop.add(Key(pod["metadata"]["namespace"], pod["metadata"]["name"]))

    def _pod(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if new is None or not node_of(new):
            return
        if old is None or node_of(old) != node_of(new):
            node = self._nodes.objects.get(Key("", node_of(new)))
            if node is not None and no_execute(node):
                self._loop.add(key)

    async def _reconcile(self, key: Key) -> float | None:
        pod = self._pods.objects.get(key)
        if pod is None or not is_active(pod):
            return None
        node = self._nodes.objects.get(Key("", node_of(pod)))
        taints = no_execute(node) if node is not None else []
        wait_s = evict_in_s(pod, taints, self._shared.clock.now())
        if wait_s is None or wait_s > 0:
            return wait_s
        text = f"Marking for deletion Pod {key}"
        self._shared.recorder.normal(pod, "TaintManagerEviction", text, COMPONENT)
        await mark_disrupted(
            self._shared, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"
        )
        await self._shared.client.delete(PODS, key.name, key.namespace, uid=pod["metadata"]["uid"])
        return None


async def mark_disrupted(shared: Shared, pod: Obj, reason: str, message: str, phase: str = "") -> None:
    """Set the condition DisruptionTarget before a pod is deleted (and the phase, when given)."""
    if is_deleting(pod) and not phase:
        return
    new = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    conditions = (pod.get("status") or {}).get("conditions") or []
    status: Obj = {"conditions": with_condition(conditions, new, timestamp(shared.clock.now()))}
    if phase:
        status["phase"] = phase
    meta = pod["metadata"]
    try:
        await shared.client.patch(
            PODS,
            meta["name"],
            {"metadata": {"uid": meta["uid"]}, "status": status},
            meta["namespace"],
            subresource="status",
        )
    except ApiError as error:
        log.debug("not-marked", pod=meta["name"], error=str(error))  # the deletion matters, not the mark
