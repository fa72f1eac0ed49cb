"""The loop of Jobs."""

from __future__ import annotations

from podwire.client.errors import ApiError, NotFound
from podwire.controllers.children import Children, generated_name
from podwire.controllers.jobs.plan import (
    Settings,
    Verdict,
    backoff_left_s,
    completed_indexes,
    deadline_in_s,
    finished_at,
    job_pod,
    judge,
    missing_pods,
    parse_settings,
)
from podwire.controllers.jobs.status import plan_status
from podwire.controllers.jobs.tracking import FINALIZER, Tally, holds_finalizer, tally
from podwire.controllers.pods.state import is_active
from podwire.controllers.replicasets.agent import NOTHING, selector_of
from podwire.controllers.shared import Shared, all_of
from podwire.controllers.workload import keyed_loop, status_differs, wake_on_change, wake_on_children
from podwire.model.objects import Key, Obj, condition, controller_of, is_deleting, parse_timestamp, timestamp
from podwire.model.resources import JOBS, PODS

COMPONENT = "job-controller"


class Jobs:
    """Runs pods to completion, and counts each once."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._jobs = shared.informer(JOBS)
        self._pods = Children(shared, PODS)
        self._loop = keyed_loop(shared, self._reconcile, workers=4)
        wake_on_change(shared, JOBS, self._loop)
        wake_on_children(shared, JOBS, self._pods, self._loop, selector_of)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(JOBS, PODS)
        self._free_strays()
        await self._loop.run()

    def _free_strays(self) -> None:
        """Wake the (vanished) Jobs of pods that still wait to be counted."""
        for key, pod in self._shared.informer(PODS).objects.items():
            ref = controller_of(pod)
            if holds_finalizer(pod) and ref is not None and ref["kind"] == "Job":
                self._loop.add(Key(key.namespace, ref["name"]))

    async def _reconcile(self, key: Key) -> float | None:
        job = self._jobs.objects.get(key)
        if job is None:
            await self._release_orphans(key)
            return None
        settings, now = parse_settings(job), self._shared.clock.now()
        if is_deleting(job):
            await all_of([self._release(job, p) for p in self._pods.of(job) if holds_finalizer(p)])
            return None
        if finished_at(job):
            await all_of([self._release(job, p) for p in self._pods.of(job) if holds_finalizer(p)])
            return await self._expire(job, settings)
        selector = selector_of(job)
        pods = self._pods.of(job) if selector == NOTHING else await self._pods.claim(job, JOBS, selector)
        done = completed_indexes(job, settings, pods)
        counts = tally(job, pods, done)
        verdict = judge(job, settings, pods, counts, now)
        wait_s, failure = await self._act(job, settings, pods, counts, done, verdict)
        pods = self._pods.of(job)
        status = plan_status(job, settings, pods, counts, done, verdict, timestamp(now))
        if status_differs(status, job.get("status")):
            before, job = job, await self._shared.client.update(JOBS, {**job, "status": status}, "status")
            self._tell(before, job, verdict)
        # Stored now; so the finalizers may go, and the next round moves the uids into the counters.
        await all_of([self._release(job, p) for p in counts.release])
        if failure is not None:
            raise failure
        left_s = deadline_in_s(job, settings, now)
        return min((s for s in (wait_s, left_s) if s is not None and s > 0), default=None)

    async def _act(
        self, job: Obj, settings: Settings, pods: list[Obj], counts: Tally, done: frozenset[int] | None,
        verdict: Verdict | None,
    ) -> tuple[float | None, ApiError | None]:  # fmt: skip
        """Make and stop pods; return seconds to wait for a back-off, and what failed."""
        try:
            if verdict is not None or settings.suspended:
                await all_of([self._delete(job, p) for p in pods if is_active(p)])
                return None, None
            missing, surplus = missing_pods(settings, pods, counts, done)
            await all_of([self._delete(job, p) for p in surplus])
            wait_s = backoff_left_s(pods, self._shared.clock.now()) if missing else 0.0
            if wait_s > 0:
                return wait_s, None
            await self._pods.in_batches([lambda i=i: self._create(job, i) for i in missing])  # type: ignore[misc]
        except ApiError as error:
            return None, error
        return None, None

    async def _create(self, job: Obj, index: int | None) -> None:
        base = job["metadata"]["name"] + ("" if index is None else f"-{index}") + "-"
        try:
            made = await self._pods.create(job, job_pod(job, generated_name(base), index))
        except ApiError as error:
            self._shared.recorder.warning(job, "FailedCreate", f"Error creating: {error.message}", COMPONENT)
            raise
        text = f"Created pod: {made['metadata']['name']}"
        self._shared.recorder.normal(job, "SuccessfulCreate", text, COMPONENT)

    async def _delete(self, job: Obj, pod: Obj) -> None:
        """Stop a pod that is not wanted; it counts neither as succeeded nor as failed."""
        if holds_finalizer(pod):
            await self._release(job, pod)
        if await self._pods.delete(job, pod):
            text = f"Deleted pod: {pod['metadata']['name']}"
            self._shared.recorder.normal(job, "SuccessfulDelete", text, COMPONENT)

    async def _release(self, job: Obj, pod: Obj) -> None:
        """Take the tracking finalizer off a pod."""
        rest = [f for f in pod["metadata"].get("finalizers") or () if f != FINALIZER]
        try:
            await self._pods.patch(job, pod, _finalizers(pod, rest))
        except NotFound:
            pass

    async def _release_orphans(self, key: Key) -> None:
        """Take the finalizer off pods whose Job is gone, so that they can go too."""
        for pod in list(self._shared.informer(PODS).objects.values()):
            ref = controller_of(pod)
            if (
                holds_finalizer(pod)
                and pod["metadata"]["namespace"] == key.namespace
                and ref is not None
                and ref["kind"] == "Job"
                and ref["name"] == key.name
            ):
                await self._release({"metadata": {"uid": ref["uid"]}}, pod)

    def _tell(self, before: Obj, job: Obj, verdict: Verdict | None) -> None:
        if verdict is None:
            was, now = condition(before, "Suspended") or {}, condition(job, "Suspended")
            if now is not None and now["status"] != was.get("status"):
                reason = "Suspended" if now["status"] == "True" else "Resumed"
                self._shared.recorder.normal(job, reason, now["message"], COMPONENT)
        elif finished_at(job) and verdict.type == "Complete":
            self._shared.recorder.normal(job, "Completed", "Job completed", COMPONENT)
        elif finished_at(job):
            self._shared.recorder.warning(job, verdict.reason, verdict.message, COMPONENT)

    async def _expire(self, job: Obj, settings: Settings) -> float | None:
        """Delete a finished Job when its ttlSecondsAfterFinished is over; return the seconds left."""
        if settings.ttl_s is None:
            return None
        age_s = (self._shared.clock.now() - parse_timestamp(finished_at(job))).total_seconds()
        if age_s < settings.ttl_s:
            return settings.ttl_s - age_s
        meta = job["metadata"]
        await self._shared.client.delete(
            JOBS, meta["name"], meta["namespace"], propagation="Foreground", uid=meta["uid"]
        )
        return None


def _finalizers(pod: Obj, rest: list[str]) -> Obj:
    meta = pod["metadata"]
    return {
        "metadata": {
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "finalizers": rest or None,
        }
    }
