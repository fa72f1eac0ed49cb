"""The loop of StatefulSets."""

from __future__ import annotations

from podwire.client.errors import ApiError
from podwire.controllers.children import Children
from podwire.controllers.pods.state import soonest_available_s
from podwire.controllers.replicasets.agent import selector_of
from podwire.controllers.revisions.agent import Revisions
from podwire.controllers.revisions.plan import hash_label_of, template_in
from podwire.controllers.shared import Shared, all_of
from podwire.controllers.statefulsets.plan import (
    Step,
    parse_settings,
    plan_status,
    plan_step,
    revision_of,
    stateful_pod,
)
from podwire.controllers.workload import keyed_loop, status_differs, wake_on_change, wake_on_children
from podwire.model.objects import Key, Obj, is_deleting
from podwire.model.resources import CONTROLLERREVISIONS, PODS, STATEFULSETS

COMPONENT = "statefulset-controller"


class StatefulSets:
    """Keeps named pods in order."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._sets = shared.informer(STATEFULSETS)
        self._pods = Children(shared, PODS)
        self._revisions = Revisions(shared, STATEFULSETS)
        self._loop = keyed_loop(shared, self._reconcile, workers=4)
        wake_on_change(shared, STATEFULSETS, self._loop)
        wake_on_children(shared, STATEFULSETS, self._pods, self._loop, selector_of)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(STATEFULSETS, PODS, CONTROLLERREVISIONS)
        await self._loop.run()

    async def _reconcile(self, key: Key) -> float | None:
        owner = self._sets.objects.get(key)
        if owner is None or is_deleting(owner):
            return None
        settings, selector = parse_settings(owner), selector_of(owner)
        pods = await self._pods.claim(owner, STATEFULSETS, selector)
        revisions = await self._revisions.claimed(owner, selector)
        update, collisions = await self._revisions.newest(owner, revisions)
        name = (owner.get("status") or {}).get("currentRevision")
        current = next((r for r in revisions if r["metadata"]["name"] == name), update)
        now = self._shared.clock.now()
        step = plan_step(owner, settings, pods, hash_label_of(current), hash_label_of(update), now)
        failure = None
        try:
            await self._take(owner, step, current, update)
        except ApiError as error:
            failure = error
        pods = self._pods.of(owner)
        status = plan_status(owner, settings, pods, _named(current), _named(update), collisions, now)
        if status_differs(status, owner.get("status")):
            await self._shared.client.update(STATEFULSETS, {**owner, "status": status}, "status")
        if failure is not None:
            raise failure
        live = {status["currentRevision"], status["updateRevision"], current["metadata"]["name"]}
        live |= {r["metadata"]["name"] for r in revisions if hash_label_of(r) in {revision_of(p) for p in pods}}
        await self._revisions.prune(owner, revisions, live)
        return soonest_available_s(pods, settings.min_ready_s, now)

    async def _take(self, owner: Obj, step: Step, current: Obj, update: Obj) -> None:
        await all_of([self._delete(owner, p) for p in step.delete])
        by_hash = {hash_label_of(r): template_in(r) for r in (current, update)}
        await all_of([self._create(owner, by_hash[r], ordinal, r) for ordinal, r in step.create])

    async def _create(self, owner: Obj, template: Obj, ordinal: int, revision: str) -> None:
        pod = stateful_pod(owner, template, ordinal, revision)
        name, set_name = pod["metadata"]["name"], owner["metadata"]["name"]
        # The name is the identity: when it is taken, no other will do.
        pod["metadata"].pop("generateName", None)
        if owner["spec"].get("volumeClaimTemplates"):
            text = "volumeClaimTemplates are not supported: each claim is an emptyDir that lives as long as its pod"
            self._shared.recorder.warning(owner, "PersistentVolumesUnsupported", text, COMPONENT)
        try:
            await self._pods.create(owner, pod)
        except ApiError as error:
            text = f"create Pod {name} in StatefulSet {set_name} failed error: {error.message}"
            self._shared.recorder.warning(owner, "FailedCreate", text, COMPONENT)
            raise
        text = f"create Pod {name} in StatefulSet {set_name} successful"
        self._shared.recorder.normal(owner, "SuccessfulCreate", text, COMPONENT)

    async def _delete(self, owner: Obj, pod: Obj) -> None:
        if await self._pods.delete(owner, pod):
            text = f"delete Pod {pod['metadata']['name']} in StatefulSet {owner['metadata']['name']} successful"
            self._shared.recorder.normal(owner, "SuccessfulDelete", text, COMPONENT)


def _named(revision: Obj) -> tuple[str, str]:
    return revision["metadata"]["name"], hash_label_of(revision)
