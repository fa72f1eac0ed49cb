"""The states of a pod that workloads count. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from podwire.model.objects import Obj, annotations_of, condition, is_deleting, is_ready, parse_timestamp

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def phase(pod: Mapping[str, Any]) -> str:
    """Return status.phase; Pending when nobody wrote one yet."""
    return (pod.get("status") or {}).get("phase") or "Pending"


def is_finished(pod: Mapping[str, Any]) -> bool:
    """Return whether the pod Succeeded or Failed."""
    return phase(pod) in ("Succeeded", "Failed")


def is_active(pod: Mapping[str, Any]) -> bool:
    """Return whether the pod counts as a replica: neither finished nor being deleted."""
    return not is_finished(pod) and not is_deleting(pod)


def ready_since(pod: Mapping[str, Any]) -> datetime | None:
    """Return when the pod became ready; None while it is not."""
    c = condition(pod, "Ready")
    if c is None or c.get("status") != "True":
        return None
    text = c.get("lastTransitionTime")
    return parse_timestamp(text) if text else parse_timestamp("1970-01-01T00:00:00Z")


def is_available(pod: Mapping[str, Any], min_ready_s: float, now: datetime) -> bool:
    """Return whether the pod has been ready for ``min_ready_s``."""
    return is_ready(pod) and available_in_s(pod, min_ready_s, now) <= 0


def available_in_s(pod: Mapping[str, Any], min_ready_s: float, now: datetime) -> float:
    """Return the seconds until a ready pod becomes available; 0 when it is or is not ready."""
    since = ready_since(pod)
    if since is None or min_ready_s <= 0:
        return 0.0
    return max(0.0, min_ready_s - (now - since).total_seconds())


def soonest_available_s(pods: list[Obj], min_ready_s: float, now: datetime) -> float | None:
    """Return the seconds until the next ready pod becomes available; None when none is waited for."""
    waits = [w for p in pods if is_ready(p) and (w := available_in_s(p, min_ready_s, now)) > 0]
    return min(waits) if waits else None


def node_of(pod: Mapping[str, Any]) -> str:
    """Return spec.nodeName; "" while unscheduled."""
    return (pod.get("spec") or {}).get("nodeName") or ""


def restarts(pod: Mapping[str, Any]) -> int:
    """Return the restarts of the container that restarted most."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return max((s.get("restartCount", 0) for s in statuses), default=0)


def deletion_cost(pod: Mapping[str, Any]) -> int:
    """Return the pod-deletion-cost annotation; 0 when absent or malformed."""
    try:
        return int(annotations_of(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def created_at(obj: Mapping[str, Any]) -> str:
    """Return creationTimestamp, which sorts as text; "" for an object not yet stored."""
    return obj["metadata"].get("creationTimestamp") or ""
