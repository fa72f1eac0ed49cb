"""How many pods to make, which ones to delete, and what the status says. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from podwire.controllers.pods.state import (
    created_at,
    deletion_cost,
    is_active,
    is_available,
    node_of,
    phase,
    ready_since,
    restarts,
)
from podwire.model.objects import Obj, condition, is_deleting, is_ready, labels_of
from podwire.model.selectors import from_map

BURST_REPLICAS = 500


@dataclass(frozen=True, slots=True)
class Scaling:
    """What brings the pods to the wanted number: so many more, or these away."""

    create: int
    delete: tuple[Obj, ...]


def wanted_replicas(owner: Obj) -> int:
    """Return spec.replicas; 1 when absent."""
    replicas = owner["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def plan_scaling(owner: Obj, pods: Sequence[Obj], related: Sequence[Obj] = ()) -> Scaling:
    """Return the creations and deletions that make ``pods`` exactly spec.replicas active ones.

    ``related`` are pods of sibling sets; they make a node count as crowded. An owner that is being
    deleted is left to garbage collection. At most 500 at a time.
    """
    if is_deleting(owner):
        return Scaling(0, ())
    active = [p for p in pods if is_active(p)]
    surplus = len(active) - wanted_replicas(owner)
    if surplus < 0:
        return Scaling(min(-surplus, BURST_REPLICAS), ())
    if surplus == 0:
        return Scaling(0, ())
    return Scaling(0, tuple(deletion_order(active, related)[: min(surplus, BURST_REPLICAS)]))


_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


def deletion_order(active: Sequence[Obj], related: Sequence[Obj] = ()) -> list[Obj]:
    """Return pods, the first to be deleted first.

    Unassigned, then pending, then not ready, then cheap by pod-deletion-cost, then those on crowded
    nodes, then those ready for a shorter time, then those that restarted more, then the younger.
    """
    crowd = Counter(node_of(p) for p in (related or active) if is_active(p))

    def rank(pod: Obj) -> tuple[object, ...]:
        since = ready_since(pod)
        return (
            bool(node_of(pod)),
            _PHASES.get(phase(pod), 1),
            since is not None,
            deletion_cost(pod),
            -crowd[node_of(pod)],
            -since.timestamp() if since else 0.0,
            -restarts(pod),
            _Reversed(created_at(pod)),
            pod["metadata"]["name"],
        )

    return sorted(active, key=rank)


class _Reversed(str):
    """Text that sorts the other way round."""

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)


def plan_status(owner: Obj, pods: Sequence[Obj], failure: str, now: datetime, moment: str) -> Obj:
    """Return the status that ``pods`` make. ``failure`` "" means that pods could be made and deleted."""
    template_labels = from_map(((owner["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {})
    min_ready_s = owner["spec"].get("minReadySeconds") or 0
    active = [p for p in pods if is_active(p)]
    old = owner.get("status") or {}
    status: Obj = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(template_labels.matches(labels_of(p)) for p in active),
        "readyReplicas": sum(is_ready(p) for p in active),
        "availableReplicas": sum(is_available(p, min_ready_s, now) for p in active),
        "observedGeneration": owner["metadata"].get("generation", 0),
    }
    for name in ("fullyLabeledReplicas", "readyReplicas", "availableReplicas"):
        if not status[name]:
            del status[name]
    terminating = sum(is_deleting(p) and phase(p) not in ("Succeeded", "Failed") for p in pods)
    if terminating:
        status["terminatingReplicas"] = terminating
    conditions = [c for c in old.get("conditions") or () if c.get("type") != "ReplicaFailure"]
    if failure:
        conditions.append(_failure(owner, failure, moment, wanted_replicas(owner) > len(active)))
    if conditions:
        status["conditions"] = conditions
    return status


def _failure(owner: Obj, why: str, moment: str, creating: bool) -> Obj:
    known = condition(owner, "ReplicaFailure")
    return {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate" if creating else "FailedDelete",
        "message": why,
        "lastTransitionTime": (known or {}).get("lastTransitionTime") or moment,
    }
