"""Whether a CronJob is due, and what its Job looks like. Pure."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from podwire.controllers.cronjobs.cron import Schedule, next_after
from podwire.controllers.jobs.plan import finished_at
from podwire.model.objects import Obj, condition, owner_reference, parse_timestamp, timestamp

SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
TOO_MANY = 100


@dataclass(frozen=True, slots=True)
class Due:
    """The latest moment that is due and not served, how many were missed, and when the next comes."""

    moment: datetime | None
    missed: int
    next: datetime | None


def find_due(owner: Obj, schedule: Schedule, zone: tzinfo, now: datetime) -> Due:
    """Return what is due. Moments before the starting deadline are past; of several the latest counts."""
    status = owner.get("status") or {}
    earliest = parse_timestamp(status.get("lastScheduleTime") or owner["metadata"]["creationTimestamp"])
    deadline_s = owner["spec"].get("startingDeadlineSeconds")
    if deadline_s is not None:
        earliest = max(earliest, now - timedelta(seconds=deadline_s))
    found, missed, at = None, 0, next_after(schedule, earliest, zone)
    while at is not None and at <= now:
        found, missed = at, missed + 1
        if missed > TOO_MANY:  # a long sleep: jump near the present instead of counting every minute
            at = next_after(schedule, max(at, now - timedelta(hours=25)), zone)
            while at is not None and at <= now:
                found, at = at, next_after(schedule, at, zone)
            break
        at = next_after(schedule, at, zone)
    return Due(found, missed, at)


def job_for(owner: Obj, due: datetime) -> Obj:
    """Return the Job of one due moment; its name says which, so that it is made once only."""
    meta, template = owner["metadata"], owner["spec"]["jobTemplate"]
    own = template.get("metadata") or {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{meta['name'][:52]}-{int(due.timestamp()) // 60}",
            "namespace": meta["namespace"],
            "labels": dict(own.get("labels") or {}),
            "annotations": {**(own.get("annotations") or {}), SCHEDULED_AT: timestamp(due)},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": copy.deepcopy(template.get("spec") or {}),
    }


def is_finished(job: Obj) -> bool:
    """Return whether a Job is Complete or Failed."""
    return bool(finished_at(job))


def succeeded(job: Obj) -> bool:
    """Return whether a Job is Complete."""
    c = condition(job, "Complete")
    return c is not None and c.get("status") == "True"


def superfluous(owner: Obj, jobs: Sequence[Obj]) -> list[Obj]:
    """Return finished Jobs beyond the history limits (3 successful, 1 failed by default), oldest first."""
    spec = owner["spec"]
    keep_good = 3 if spec.get("successfulJobsHistoryLimit") is None else spec["successfulJobsHistoryLimit"]
    keep_bad = 1 if spec.get("failedJobsHistoryLimit") is None else spec["failedJobsHistoryLimit"]
    finished = sorted(
        (j for j in jobs if is_finished(j)),
        key=lambda j: ((j.get("status") or {}).get("startTime") or "", j["metadata"]["name"]),
    )
    good, bad = [j for j in finished if succeeded(j)], [j for j in finished if not succeeded(j)]
    return good[: max(0, len(good) - keep_good)] + bad[: max(0, len(bad) - keep_bad)]


def plan_status(owner: Obj, jobs: Sequence[Obj], scheduled: datetime | None) -> Obj:
    """Return the status: Jobs that run, the last scheduled moment, the last success."""
    old = owner.get("status") or {}
    status: Obj = {}
    active = sorted((j for j in jobs if not is_finished(j)), key=lambda j: str(j["metadata"]["name"]))
    if active:
        status["active"] = [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": j["metadata"]["name"],
                "namespace": j["metadata"]["namespace"],
                "uid": j["metadata"]["uid"],
                "resourceVersion": j["metadata"].get("resourceVersion", ""),
            }
            for j in active
        ]
    last = max(filter(None, [old.get("lastScheduleTime"), timestamp(scheduled) if scheduled else None]), default=None)
    if last:
        status["lastScheduleTime"] = last
    ends = [(j.get("status") or {}).get("completionTime") for j in jobs if succeeded(j)]
    success = max(filter(None, [*ends, old.get("lastSuccessfulTime")]), default=None)
    if success:
        status["lastSuccessfulTime"] = success
    return status


def same_status(a: Obj, b: Obj) -> bool:
    """Return whether two statuses agree; the resourceVersions of running Jobs do not matter."""

    def plain(status: Obj) -> Obj:
        active = [{**r, "resourceVersion": ""} for r in status.get("active") or ()]
        return {k: v for k, v in {**status, "active": active}.items() if v}

    return plain(a) == plain(b)
