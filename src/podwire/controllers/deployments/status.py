"""What a Deployment reports: counts, and the conditions that ``kubectl rollout status`` reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from podwire.controllers.deployments.values import Rollout, actual_of, available_of, replicas_of
from podwire.model.objects import Obj, condition, parse_timestamp, timestamp

CREATED, FOUND, UPDATED = "NewReplicaSetCreated", "FoundNewReplicaSet", "ReplicaSetUpdated"
COMPLETE, TIMED_OUT = "NewReplicaSetAvailable", "ProgressDeadlineExceeded"
PAUSED, RESUMED = "DeploymentPaused", "DeploymentResumed"


def plan_counts(deployment: Obj, rollout: Rollout, newest: Obj | None, old: Sequence[Obj]) -> Obj:
    """Return the numbers of the status."""
    everything = [*old, *([newest] if newest is not None else [])]
    available = sum(map(available_of, everything))
    counts: Obj = {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": sum(map(actual_of, everything)),
        "updatedReplicas": actual_of(newest) if newest is not None else 0,
        "readyReplicas": sum((s.get("status") or {}).get("readyReplicas") or 0 for s in everything),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(map(replicas_of, everything)) - available),
        "terminatingReplicas": sum((s.get("status") or {}).get("terminatingReplicas") or 0 for s in everything),
        "collisionCount": (deployment.get("status") or {}).get("collisionCount"),
    }
    return {k: v for k, v in counts.items() if v or k == "observedGeneration"}


def plan_conditions(
    deployment: Obj, rollout: Rollout, newest: Obj | None, old: Sequence[Obj], counts: Obj, now: datetime
) -> list[Obj]:
    """Return the conditions Available, Progressing and ReplicaFailure, the last two where they apply."""
    conditions: list[Obj] = list((deployment.get("status") or {}).get("conditions") or ())
    enough = counts.get("availableReplicas", 0) >= rollout.min_available
    conditions = put(
        conditions,
        "Available",
        "True" if enough else "False",
        "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
        f"Deployment {'has' if enough else 'does not have'} minimum availability.",
        now,
    )
    if rollout.deadline_s is not None:
        conditions = _progress(deployment, rollout, newest, counts, conditions, now)
    else:
        conditions = [c for c in conditions if c["type"] != "Progressing"]
    return _failures(conditions, newest, old, now)


def _progress(
    deployment: Obj, rollout: Rollout, newest: Obj | None, counts: Obj, conditions: list[Obj], now: datetime
) -> list[Obj]:
    known = condition(deployment, "Progressing") or {}
    subject = (
        f'ReplicaSet "{newest["metadata"]["name"]}"'
        if newest is not None
        else (f'Deployment "{deployment["metadata"]["name"]}"')
    )
    finished = counts.get("replicas", 0) == counts.get("updatedReplicas", 0) and known.get("reason") == COMPLETE
    if finished or rollout.paused:
        return conditions
    if is_complete(rollout, counts, deployment):
        return put(conditions, "Progressing", "True", COMPLETE, f"{subject} has successfully progressed.", now)
    if _progressed(deployment, counts):
        keep_since = known.get("lastTransitionTime") if known.get("status") == "True" else None
        fresh = put(
            [c for c in conditions if c["type"] != "Progressing"],
            "Progressing", "True", UPDATED, f"{subject} is progressing.", now,
        )  # fmt: skip
        if keep_since:
            fresh[-1]["lastTransitionTime"] = keep_since
        return fresh
    if has_timed_out(deployment, rollout, now):
        return put(conditions, "Progressing", "False", TIMED_OUT, f"{subject} has timed out progressing.", now)
    return conditions


def is_complete(rollout: Rollout, counts: Obj, deployment: Obj) -> bool:
    """Return whether every replica is updated and available, and no old one is left."""
    return bool(
        counts.get("updatedReplicas", 0) == rollout.replicas
        and counts.get("replicas", 0) == rollout.replicas
        and counts.get("availableReplicas", 0) == rollout.replicas
        and counts["observedGeneration"] >= deployment["metadata"].get("generation", 0)
    )


def _progressed(deployment: Obj, counts: Obj) -> bool:
    """Return whether pods were updated, retired, became ready or available since the last status."""
    old = deployment.get("status") or {}
    old_retired = (old.get("replicas") or 0) - (old.get("updatedReplicas") or 0)
    retired = counts.get("replicas", 0) - counts.get("updatedReplicas", 0)
    return bool(
        counts.get("updatedReplicas", 0) > (old.get("updatedReplicas") or 0)
        or retired < old_retired
        or counts.get("readyReplicas", 0) > (old.get("readyReplicas") or 0)
        or counts.get("availableReplicas", 0) > (old.get("availableReplicas") or 0)
    )


def has_timed_out(deployment: Obj, rollout: Rollout, now: datetime) -> bool:
    """Return whether nothing progressed for progressDeadlineSeconds."""
    known = condition(deployment, "Progressing")
    if known is None or rollout.deadline_s is None:
        return False
    if known.get("reason") == TIMED_OUT:
        return True
    if known.get("reason") == COMPLETE:
        return False
    return seconds_since_progress(known, now) >= rollout.deadline_s


def seconds_since_progress(known: Mapping[str, Any], now: datetime) -> float:
    """Return the age of a Progressing condition."""
    text = known.get("lastUpdateTime") or known.get("lastTransitionTime")
    return (now - parse_timestamp(text)).total_seconds() if text else 0.0


def deadline_in_s(deployment: Obj, rollout: Rollout, now: datetime) -> float | None:
    """Return the seconds until progress times out; None when nothing is being waited for."""
    known = condition(deployment, "Progressing")
    if known is None or rollout.deadline_s is None or rollout.paused:
        return None
    if known.get("reason") in (COMPLETE, TIMED_OUT, PAUSED):
        return None
    return max(0.0, rollout.deadline_s - seconds_since_progress(known, now)) + 1.0


def _failures(conditions: list[Obj], newest: Obj | None, old: Sequence[Obj], now: datetime) -> list[Obj]:
    """Return the conditions with a ReplicaSet's ReplicaFailure handed up, the newest set's first."""
    rest = [c for c in conditions if c["type"] != "ReplicaFailure"]
    for s in [*([newest] if newest is not None else []), *old]:
        failure = condition(s, "ReplicaFailure")
        if failure is not None:
            known = [c for c in conditions if c["type"] == "ReplicaFailure"]
            return put(
                [*rest, *known], "ReplicaFailure", failure["status"],
                failure.get("reason", ""), failure.get("message", ""), now,
            )  # fmt: skip
    return rest


def put(conditions: Sequence[Obj], type: str, status: str, reason: str, message: str, now: datetime) -> list[Obj]:
    """Return ``conditions`` with one set; its times move only when status or reason do."""
    moment = timestamp(now)
    old = next((c for c in conditions if c["type"] == type), None)
    if old is not None and old["status"] == status and old.get("reason") == reason:
        return [{**c, "message": message} if c is old else c for c in conditions]
    since = old.get("lastTransitionTime") if old is not None and old["status"] == status else None
    new = {
        "type": type,
        "status": status,
        "lastUpdateTime": moment,
        "lastTransitionTime": since or moment,
        "reason": reason,
        "message": message,
    }
    return [*[c for c in conditions if c["type"] != type], new]
