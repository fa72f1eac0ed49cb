"""The loop of DaemonSets."""

from __future__ import annotations

from podwire.client.errors import ApiError
from podwire.controllers.children import Children, generated_name
from podwire.controllers.daemonsets.plan import (
    DaemonPlan,
    daemon_pod,
    eligibility,
    plan_presence,
    plan_status,
    plan_update,
)
from podwire.controllers.deployments.values import scaled
from podwire.controllers.pods.state import soonest_available_s
from podwire.controllers.replicasets.agent import selector_of
from podwire.controllers.revisions.agent import Revisions
from podwire.controllers.revisions.plan import hash_label_of
from podwire.controllers.shared import Shared, all_of
from podwire.controllers.workload import keyed_loop, status_differs, wake_on_change, wake_on_children
from podwire.model.objects import Key, Obj, is_deleting, labels_of
from podwire.model.resources import CONTROLLERREVISIONS, DAEMONSETS, NODES, PODS

COMPONENT = "daemonset-controller"


class DaemonSets:
    """Keeps one pod on each node that will have it."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._sets, self._nodes = shared.informer(DAEMONSETS), shared.informer(NODES)
        self._pods = Children(shared, PODS)
        self._revisions = Revisions(shared, DAEMONSETS)
        self._loop = keyed_loop(shared, self._reconcile, workers=2)
        wake_on_change(shared, DAEMONSETS, self._loop)
        wake_on_children(shared, DAEMONSETS, self._pods, self._loop, selector_of)
        self._nodes.listen(self._node)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(DAEMONSETS, NODES, PODS, CONTROLLERREVISIONS)
        await self._loop.run()

    def _node(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if old is not None and new is not None and _placing_facts(old) == _placing_facts(new):
            return
        for owner in self._sets.objects:
            self._loop.add(owner)

    async def _reconcile(self, key: Key) -> float | None:
        owner = self._sets.objects.get(key)
        if owner is None or is_deleting(owner):
            return None
        selector = selector_of(owner)
        pods = await self._pods.claim(owner, DAEMONSETS, selector)
        revisions = await self._revisions.claimed(owner, selector)
        newest, collisions = await self._revisions.newest(owner, revisions)
        revision = hash_label_of(newest)
        nodes = {k.name: n for k, n in self._nodes.objects.items()}
        verdicts = eligibility(owner, nodes)
        now = self._shared.clock.now()
        failure = await self._attempt(owner, plan_presence(pods, verdicts, revision, _surges(owner)), revision)
        if failure is None:
            pods = self._pods.of(owner)
            failure = await self._attempt(owner, plan_update(owner, pods, verdicts, revision, now), revision)
        pods = self._pods.of(owner)
        live = {newest["metadata"]["name"]} | {
            r["metadata"]["name"]
            for r in revisions
            if any(labels_of(p).get("controller-revision-hash") == hash_label_of(r) for p in pods)
        }
        await self._revisions.prune(owner, revisions, live)
        status = plan_status(owner, pods, verdicts, revision, collisions, now)
        if status_differs(status, owner.get("status")):
            await self._shared.client.update(DAEMONSETS, {**owner, "status": status}, "status")
        if failure is not None:
            raise failure
        return soonest_available_s(pods, owner["spec"].get("minReadySeconds") or 0, now)

    async def _attempt(self, owner: Obj, plan: DaemonPlan, revision: str) -> ApiError | None:
        """Carry out a plan; return what failed, so that the status is told all the same."""
        try:
            for pod in plan.failed:
                name, node = pod["metadata"]["name"], pod["spec"].get("nodeName", "")
                text = (
                    f"Found failed daemon pod {pod['metadata']['namespace']}/{name} on node {node}, will try to kill it"
                )
                self._shared.recorder.warning(owner, "FailedDaemonPod", text, COMPONENT)
            await all_of([self._delete(owner, p) for p in (*plan.failed, *plan.delete)])
            await self._pods.in_batches([lambda n=n: self._create(owner, n, revision) for n in plan.create])  # type: ignore[misc]
        except ApiError as error:
            return error
        return None

    async def _create(self, owner: Obj, node: str, revision: str) -> None:
        pod = daemon_pod(owner, node, generated_name(owner["metadata"]["name"] + "-"), revision)
        try:
            made = await self._pods.create(owner, pod)
        except ApiError as error:
            self._shared.recorder.warning(owner, "FailedCreate", f"Error creating: {error.message}", COMPONENT)
            raise
        text = f"Created pod: {made['metadata']['name']}"
        self._shared.recorder.normal(owner, "SuccessfulCreate", text, COMPONENT)

    async def _delete(self, owner: Obj, pod: Obj) -> None:
        if await self._pods.delete(owner, pod):
            text = f"Deleted pod: {pod['metadata']['name']}"
            self._shared.recorder.normal(owner, "SuccessfulDelete", text, COMPONENT)


def _surges(owner: Obj) -> bool:
    rolling = (owner["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    return scaled(rolling.get("maxSurge") or 0, 100, up=True) > 0


def _placing_facts(node: Obj) -> tuple[object, ...]:
    spec = node.get("spec") or {}
    return (labels_of(node), spec.get("taints"), spec.get("unschedulable"))
