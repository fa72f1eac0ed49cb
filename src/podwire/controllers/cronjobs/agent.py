"""The loop of CronJobs: sleeps until the next due moment of each."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from podwire.client.errors import AlreadyExists, ApiError
from podwire.controllers.children import Children
from podwire.controllers.cronjobs.cron import Schedule, parse_schedule
from podwire.controllers.cronjobs.plan import (
    TOO_MANY,
    find_due,
    is_finished,
    job_for,
    plan_status,
    same_status,
    succeeded,
    superfluous,
)
from podwire.controllers.shared import Shared, all_of
from podwire.controllers.workload import keyed_loop, wake_on_change, wake_on_children
from podwire.model.objects import Key, Obj, is_deleting
from podwire.model.resources import CRONJOBS, JOBS
from podwire.model.selectors import Requirement, Selector

COMPONENT = "cronjob-controller"
NOTHING = Selector((Requirement("", "In", ("",)),))


class CronJobs:
    """Makes Jobs when they are due."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._crons = shared.informer(CRONJOBS)
        self._jobs = Children(shared, JOBS)
        self._loop = keyed_loop(shared, self._reconcile, workers=2)
        wake_on_change(shared, CRONJOBS, self._loop)
        wake_on_children(shared, CRONJOBS, self._jobs, self._loop, lambda owner: NOTHING)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(CRONJOBS, JOBS)
        await self._loop.run()

    async def _reconcile(self, key: Key) -> float | None:
        owner = self._crons.objects.get(key)
        if owner is None or is_deleting(owner):
            return None
        jobs = self._jobs.of(owner)
        await self._tidy(owner, jobs)
        scheduled, again_s = await self._start_due(owner, [j for j in jobs if not is_finished(j)])
        status = plan_status(owner, [j for j in self._jobs.of(owner) if not is_deleting(j)], scheduled)
        if not same_status(status, owner.get("status") or {}):
            await self._shared.client.update(CRONJOBS, {**owner, "status": status}, "status")
        return again_s

    async def _tidy(self, owner: Obj, jobs: list[Obj]) -> None:
        known = {r["uid"] for r in (owner.get("status") or {}).get("active") or ()}
        for job in jobs:
            if is_finished(job) and job["metadata"]["uid"] in known:
                state = "Complete" if succeeded(job) else "Failed"
                text = f"Saw completed job: {job['metadata']['name']}, condition: {state}"
                self._shared.recorder.normal(owner, "SawCompletedJob", text, COMPONENT)
        await all_of([self._delete(owner, j) for j in superfluous(owner, jobs) if not is_deleting(j)])

    async def _delete(self, owner: Obj, job: Obj) -> None:
        meta = job["metadata"]
        await self._shared.client.delete(
            JOBS, meta["name"], meta["namespace"], propagation="Background", uid=meta["uid"]
        )
        self._shared.recorder.normal(owner, "SuccessfulDelete", f"Deleted job {meta['name']}", COMPONENT)

    def _timing(self, owner: Obj) -> tuple[Schedule, tzinfo] | None:
        """Return schedule and zone; None, told in an event, when they cannot be read."""
        spec = owner["spec"]
        try:
            zone: tzinfo = ZoneInfo(spec["timeZone"]) if spec.get("timeZone") else UTC
            return parse_schedule(spec["schedule"]), zone
        except (ValueError, KeyError, OSError) as error:
            text = f"unparseable schedule or unknown time zone: {spec.get('schedule')!r}: {error}"
            self._shared.recorder.warning(owner, "UnparseableSchedule", text, COMPONENT)
            return None

    async def _start_due(self, owner: Obj, active: list[Obj]) -> tuple[datetime | None, float | None]:
        """Start what is due; return the moment served and the seconds until the next one."""
        timing = self._timing(owner)
        if timing is None or owner["spec"].get("suspend"):
            return None, None
        now = self._shared.clock.now()
        due = find_due(owner, *timing, now)
        again_s = None if due.next is None else max(0.0, (due.next - now).total_seconds()) + 0.1
        if due.moment is None:
            return None, again_s
        if due.missed > TOO_MANY:
            text = f"too many missed start times. Set or decrease .spec.startingDeadlineSeconds (more than {TOO_MANY})"
            self._shared.recorder.warning(owner, "TooManyMissedTimes", text, COMPONENT)
        policy = owner["spec"].get("concurrencyPolicy", "Allow")
        if active and policy == "Forbid":
            text = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self._shared.recorder.normal(owner, "JobAlreadyActive", text, COMPONENT)
            return None, again_s
        if policy == "Replace":
            await all_of([self._delete(owner, j) for j in active])
        await self._start(owner, due.moment)
        return due.moment, again_s

    async def _start(self, owner: Obj, moment: datetime) -> None:
        job = job_for(owner, moment)
        try:
            made = await self._jobs.create(owner, job)
        except AlreadyExists:
            return  # made before a restart, or not seen here yet
        except ApiError as error:
            self._shared.recorder.warning(owner, "FailedCreate", f"Error creating job: {error.message}", COMPONENT)
            raise
        text = f"Created job {made['metadata']['name']}"
        self._shared.recorder.normal(owner, "SuccessfulCreate", text, COMPONENT)
