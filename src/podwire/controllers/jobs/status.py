"""What a Job reports. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from podwire.controllers.jobs.plan import Settings, Verdict, render_indexes
from podwire.controllers.jobs.tracking import Tally
from podwire.controllers.pods.state import is_active, is_finished
from podwire.model.objects import Obj, condition, is_deleting, is_ready, with_condition

_INTERIM = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}


def plan_status(
    job: Obj,
    settings: Settings,
    pods: Sequence[Obj],
    counts: Tally,
    done: frozenset[int] | None,
    verdict: Verdict | None,
    moment: str,
) -> Obj:
    """Return the status.

    A decided Job first says that it is decided (SuccessCriteriaMet, FailureTarget); Complete or Failed
    follows when no pod runs and every finished pod is counted.
    """
    old = job.get("status") or {}
    active = [p for p in pods if is_active(p)]
    terminating = [p for p in pods if is_deleting(p) and not is_finished(p)]
    status: Obj = {
        "active": len(active),
        "ready": sum(is_ready(p) for p in active),
        "terminating": len(terminating),
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "uncountedTerminatedPods": _uncounted(counts),
        "startTime": old.get("startTime"),
        "completionTime": old.get("completionTime"),
        "completedIndexes": render_indexes(done) if done else None,
    }
    conditions: list[Obj] = list(old.get("conditions") or ())
    if settings.suspended and verdict is None:
        conditions = _set(conditions, "Suspended", "True", "JobSuspended", "Job suspended", moment)
        status["startTime"] = None
    elif condition(job, "Suspended") is not None and verdict is None:
        conditions = _set(conditions, "Suspended", "False", "JobResumed", "Job resumed", moment)
    if not settings.suspended and not status["startTime"]:
        status["startTime"] = moment
    if verdict is not None:
        conditions = _set(conditions, _INTERIM[verdict.type], "True", verdict.reason, verdict.message, moment)
        settled = not (counts.uncounted_succeeded or counts.uncounted_failed or counts.release)
        if settled and not active and not terminating:
            conditions = _set(conditions, verdict.type, "True", verdict.reason, verdict.message, moment)
            if verdict.type == "Complete":
                status["completionTime"] = status["completionTime"] or moment
    if conditions:
        status["conditions"] = conditions
    kept = {k: v for k, v in status.items() if v not in (None, 0, "")}
    return {**kept, "ready": status["ready"], "terminating": status["terminating"]}


def _uncounted(counts: Tally) -> Obj:
    pairs = {"succeeded": list(counts.uncounted_succeeded), "failed": list(counts.uncounted_failed)}
    return {k: v for k, v in pairs.items() if v}


def _set(conditions: list[Obj], type: str, status: str, reason: str, message: str, moment: str) -> list[Obj]:
    known = next((c for c in conditions if c["type"] == type), None)
    if known is not None and known["status"] == status:
        return conditions
    new = {"type": type, "status": status, "reason": reason, "message": message, "lastProbeTime": moment}
    return with_condition(conditions, new, moment)
