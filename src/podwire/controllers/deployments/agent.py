"""The loop of Deployments."""

from __future__ import annotations

from podwire.client.errors import AlreadyExists
from podwire.controllers.children import Children
from podwire.controllers.deployments.history import (
    find_newest,
    freshened,
    new_replica_set,
    next_revision,
    size_annotations,
    superfluous,
)
from podwire.controllers.deployments.rolling import Sizes, initial_replicas, is_scaling, roll, scale
from podwire.controllers.deployments.status import (
    COMPLETE,
    CREATED,
    FOUND,
    PAUSED,
    RESUMED,
    deadline_in_s,
    plan_conditions,
    plan_counts,
    put,
)
from podwire.controllers.deployments.values import (
    REVISION,
    Rollout,
    actual_of,
    parse_rollout,
    replicas_of,
    revision_of,
)
from podwire.controllers.pods.state import is_finished
from podwire.controllers.replicasets.agent import selector_of
from podwire.controllers.shared import Shared
from podwire.controllers.workload import Pace, keyed_loop, status_differs, wake_on_change, wake_on_children
from podwire.model.objects import Key, Obj, annotations_of, condition, controller_of, is_deleting
from podwire.model.resources import DEPLOYMENTS, PODS, REPLICASETS

COMPONENT = "deployment-controller"


class Deployments:
    """Rolls each Deployment towards its template and size."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._deployments = shared.informer(DEPLOYMENTS)
        self._sets = Children(shared, REPLICASETS)
        self._pods = Children(shared, PODS)
        self._loop = keyed_loop(shared, self._reconcile)
        wake_on_change(shared, DEPLOYMENTS, self._loop)
        wake_on_children(shared, DEPLOYMENTS, self._sets, self._loop, selector_of)
        self._pace = Pace(self._loop)
        self._pods.listen(self._pod_gone)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(DEPLOYMENTS, REPLICASETS, PODS)
        await self._loop.run()

    def _pod_gone(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        """Wake a Recreate Deployment, which waits for its old pods to be gone."""
        if old is None or (new is not None and not is_finished(new)):
            return
        ref = controller_of(old)
        if ref is None or ref["kind"] != "ReplicaSet":
            return
        owner = self._shared.informer(REPLICASETS).objects.get(Key(key.namespace, ref["name"]))
        up = controller_of(owner) if owner is not None else None
        if up is not None and up["kind"] == "Deployment":
            self._pace.add(Key(key.namespace, up["name"]))

    async def _reconcile(self, key: Key) -> float | None:
        deployment = self._deployments.objects.get(key)
        if deployment is None:
            return None
        deployment = dict(deployment)  # its metadata is replaced as this reconcile writes
        rollout = parse_rollout(deployment)
        sets = await self._sets.claim(deployment, DEPLOYMENTS, selector_of(deployment))
        newest = find_newest(deployment, sets)
        old = [s for s in sets if s is not newest]
        conditions: list[Obj] | None = None
        if not is_deleting(deployment):
            conditions = self._note_pause(deployment, rollout)
            newest, old, more = await self._step(deployment, rollout, newest, old)
            conditions = more if conditions is None else conditions
        return await self._write_status(deployment, rollout, newest, old, conditions)

    async def _step(
        self, deployment: Obj, rollout: Rollout, newest: Obj | None, old: list[Obj]
    ) -> tuple[Obj | None, list[Obj], list[Obj] | None]:
        """Take one step; return the sets as they then are, and conditions when the newest set is news."""
        everything = [*old, *([newest] if newest is not None else [])]
        conditions = None
        if rollout.paused or is_scaling(rollout, everything):
            sizes = scale(rollout, newest, old)
        else:
            if rollout.strategy == "Recreate":
                sizes = {s["metadata"]["name"]: 0 for s in old if replicas_of(s)}
                if not sizes and self._old_pods_run(old):
                    return newest, old, None
            if rollout.strategy == "RollingUpdate" or not sizes:
                newest, conditions = await self._ensure_newest(deployment, rollout, newest, old)
                if rollout.strategy == "RollingUpdate":
                    sizes = roll(rollout, newest, old)
                elif replicas_of(newest) != rollout.replicas:
                    sizes = {newest["metadata"]["name"]: rollout.replicas}
        newest, old = await self._resize(deployment, rollout, newest, old, sizes)
        if newest is not None:
            await self._prune(deployment, rollout, newest, old)
        return newest, old, conditions

    def _old_pods_run(self, old: list[Obj]) -> bool:
        return any(actual_of(s) for s in old) or any(not is_finished(p) for s in old for p in self._pods.of(s))

    async def _ensure_newest(
        self, deployment: Obj, rollout: Rollout, newest: Obj | None, old: list[Obj]
    ) -> tuple[Obj, list[Obj] | None]:
        """Return the ReplicaSet of the present template, made or freshened, and news for Progressing."""
        now = self._shared.clock.now()
        conditions = (deployment.get("status") or {}).get("conditions") or []
        if newest is not None:
            wanted = freshened(deployment, rollout, newest, old)
            if wanted is not None:
                newest = await self._sets.update(deployment, wanted)
            await self._note_revision(deployment, revision_of(newest))
            if condition(deployment, "Progressing") is None and rollout.deadline_s is not None:
                text = f'Found new replica set "{newest["metadata"]["name"]}"'
                return newest, put(conditions, "Progressing", "True", FOUND, text, now)
            return newest, None
        wanted = new_replica_set(deployment, rollout, old, initial_replicas(rollout, old))
        try:
            made = await self._sets.create(deployment, wanted)
        except AlreadyExists:
            await self._count_collision(deployment, wanted["metadata"]["name"])
            raise
        if replicas_of(made):
            self._say_scaled(deployment, made, 0)
        await self._note_revision(deployment, next_revision(old))
        if rollout.deadline_s is None:
            return made, None
        text = f'Created new replica set "{made["metadata"]["name"]}"'
        return made, put(conditions, "Progressing", "True", CREATED, text, now)

    async def _count_collision(self, deployment: Obj, name: str) -> None:
        """Make the next attempt hash to another name, unless the name is only news on its way here."""
        found = await self._shared.client.get(REPLICASETS, name, deployment["metadata"]["namespace"])
        ref = controller_of(found)
        if ref is not None and ref["uid"] == deployment["metadata"]["uid"] and find_newest(deployment, [found]):
            return
        status = dict(deployment.get("status") or {})
        status["collisionCount"] = (status.get("collisionCount") or 0) + 1
        await self._shared.client.update(DEPLOYMENTS, {**deployment, "status": status}, "status")

    async def _note_revision(self, deployment: Obj, revision: int) -> None:
        if annotations_of(deployment).get(REVISION) == str(revision):
            return
        meta = deployment["metadata"]
        annotations = {REVISION: str(revision)}
        patch = {"metadata": {"annotations": annotations, "resourceVersion": meta["resourceVersion"]}}
        fresh = await self._shared.client.patch(DEPLOYMENTS, meta["name"], patch, meta["namespace"])
        # The status is written next; it must not conflict with what was just written here.
        deployment["metadata"] = fresh["metadata"]

    async def _resize(
        self, deployment: Obj, rollout: Rollout, newest: Obj | None, old: list[Obj], sizes: Sizes
    ) -> tuple[Obj | None, list[Obj]]:
        """Write new sizes, and the sizes that they were made for on every active set."""

        async def resized(s: Obj) -> Obj:
            size = sizes.get(s["metadata"]["name"], replicas_of(s))
            annotations = {**annotations_of(s), **size_annotations(rollout)}
            stale = size > 0 and annotations != annotations_of(s)
            if size == replicas_of(s) and not stale:
                return s
            made = await self._sets.update(
                deployment,
                {
                    **s,
                    "metadata": {**s["metadata"], "annotations": annotations},
                    "spec": {**s["spec"], "replicas": size},
                },
            )
            if size != replicas_of(s):
                self._say_scaled(deployment, made, replicas_of(s))
            return made

        old = [await resized(s) for s in old]
        return (await resized(newest) if newest is not None else None), old

    def _say_scaled(self, deployment: Obj, replica_set: Obj, before: int) -> None:
        size = replicas_of(replica_set)
        way = "up" if size > before else "down"
        self._shared.recorder.normal(
            deployment,
            "ScalingReplicaSet",
            f"Scaled {way} replica set {replica_set['metadata']['name']} from {before} to {size}",
            COMPONENT,
        )

    async def _prune(self, deployment: Obj, rollout: Rollout, newest: Obj, old: list[Obj]) -> None:
        known = condition(deployment, "Progressing")
        if known is None or known.get("reason") == COMPLETE or rollout.deadline_s is None:
            for s in superfluous(rollout, old):
                await self._sets.delete(deployment, s)

    def _note_pause(self, deployment: Obj, rollout: Rollout) -> list[Obj] | None:
        """Return conditions that say paused or resumed; None when that is no news."""
        if rollout.deadline_s is None:
            return None
        known = condition(deployment, "Progressing")
        if known is not None and known.get("reason") == "ProgressDeadlineExceeded":
            return None
        paused = known is not None and known.get("reason") == PAUSED
        if paused == rollout.paused:
            return None
        reason, text = (PAUSED, "Deployment is paused") if rollout.paused else (RESUMED, "Deployment is resumed")
        conditions = (deployment.get("status") or {}).get("conditions") or []
        return put(conditions, "Progressing", "Unknown", reason, text, self._shared.clock.now())

    async def _write_status(
        self, deployment: Obj, rollout: Rollout, newest: Obj | None, old: list[Obj], conditions: list[Obj] | None
    ) -> float | None:
        now = self._shared.clock.now()
        base = deployment
        if conditions is not None:
            base = {**deployment, "status": {**(deployment.get("status") or {}), "conditions": conditions}}
        status = plan_counts(base, rollout, newest, old)
        status["conditions"] = plan_conditions(base, rollout, newest, old, status, now)
        written = {**deployment, "status": status}
        if status_differs(status, deployment.get("status")):
            await self._shared.client.update(DEPLOYMENTS, written, "status")
        return None if is_deleting(deployment) else deadline_in_s(written, rollout, now)
