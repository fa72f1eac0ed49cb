"""The loop that notices silent nodes, and turns conditions into taints."""

from __future__ import annotations

from podwire.controllers.nodes.plan import (
    heartbeat_of,
    silent_conditions,
    unready_conditions,
    wanted_taints,
)
from podwire.controllers.pods.state import node_of
from podwire.controllers.shared import Shared, all_of
from podwire.controllers.workload import keyed_loop
from podwire.model.objects import Key, Obj, condition, is_ready, timestamp
from podwire.model.resources import LEASES, NODES, PODS

COMPONENT = "node-controller"
LEASE_NAMESPACE = "kube-node-lease"


def on_node(pod: Obj) -> tuple[str, ...]:
    """Return the node that a pod is indexed under."""
    name = node_of(pod)
    return (name,) if name else ()


class NodeLifecycle:
    """Watches heartbeats by its own clock: what a node's clock says does not matter, that it changes does."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._nodes, self._leases = shared.informer(NODES), shared.informer(LEASES)
        self._pods_on = shared.index("node/pods", PODS, on_node)
        self._heard: dict[Key, tuple[tuple[str, str], float]] = {}
        self._loop = keyed_loop(shared, self._reconcile, workers=4)
        self._nodes.listen(self._node)
        self._leases.listen(self._lease)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(NODES, LEASES, PODS)
        await self._loop.run()

    def _node(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            self._heard.pop(key, None)
            return
        self._hear(key, new)
        if old is None or _judged(old) != _judged(new):
            self._loop.add(key)
        if old is not None and is_ready(old) != is_ready(new):
            for other in self._nodes.objects:  # whether all are silent may have changed
                self._loop.add(other)

    def _lease(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if key.namespace != LEASE_NAMESPACE or new is None:
            return
        name = Key("", key.name)
        node = self._nodes.objects.get(name)
        if node is not None:
            self._hear(name, node)

    def _hear(self, key: Key, node: Obj) -> None:
        heartbeat = heartbeat_of(node, self._leases.objects.get(Key(LEASE_NAMESPACE, key.name)))
        known = self._heard.get(key)
        if known is None or known[0] != heartbeat:
            self._heard[key] = (heartbeat, self._shared.clock.monotonic())

    async def _reconcile(self, key: Key) -> float | None:
        node = self._nodes.objects.get(key)
        if node is None:
            return None
        config = self._shared.config
        ready = condition(node, "Ready")
        grace_s = config.node_grace_s if ready is not None else config.node_startup_grace_s
        heard_s = self._heard[key][1] if key in self._heard else self._shared.clock.monotonic()
        left_s = heard_s + grace_s - self._shared.clock.monotonic()
        if left_s <= 0 and (ready is None or ready.get("status") != "Unknown"):
            node = await self._declare_silent(key, node)
        await self._taint(key, node)
        if not is_ready(node) and condition(node, "Ready") is not None:
            await self._unready_pods(key)
        # Silent already: the next heartbeat is news enough.
        return left_s if left_s > 0 else None

    async def _declare_silent(self, key: Key, node: Obj) -> Obj:
        moment = timestamp(self._shared.clock.now())
        conditions = silent_conditions(node, moment)
        body = {**node, "status": {**(node.get("status") or {}), "conditions": conditions}}
        written = await self._shared.client.update(NODES, body, "status")
        text = f"Node {key.name} status is now: NodeNotReady"
        self._shared.recorder.normal(node, "NodeNotReady", text, COMPONENT)
        return written

    async def _taint(self, key: Key, node: Obj) -> None:
        others_speak = any(is_ready(n) for k, n in self._nodes.objects.items() if k != key)
        says_itself = (condition(node, "Ready") or {}).get("status") == "False"
        taints = wanted_taints(node, others_speak or says_itself, self._shared.clock)
        if taints is not None:
            meta = node["metadata"]
            patch = {
                "metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
                "spec": {"taints": taints or None},
            }
            await self._shared.client.patch(NODES, key.name, patch)

    async def _unready_pods(self, key: Key) -> None:
        moment = timestamp(self._shared.clock.now())
        await all_of([self._unready(p, moment) for p in list(self._pods_on.of(key.name))])

    async def _unready(self, pod: Obj, moment: str) -> None:
        conditions = unready_conditions(pod, moment)
        if conditions is None:
            return
        meta = pod["metadata"]
        patch = {
            "metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
            "status": {"conditions": conditions},
        }
        async with self._shared.in_flight:
            await self._shared.client.patch(PODS, meta["name"], patch, meta["namespace"], subresource="status")
        self._shared.recorder.warning(pod, "NodeNotReady", "Node is not ready", COMPONENT)


def _judged(node: Obj) -> tuple[object, ...]:
    """Return what of a node leads to taints; its heartbeats do not."""
    spec = node.get("spec") or {}
    statuses = [(c["type"], c["status"]) for c in (node.get("status") or {}).get("conditions") or ()]
    return (spec.get("taints"), spec.get("unschedulable"), statuses)
