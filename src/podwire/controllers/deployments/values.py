"""A Deployment's settings, parsed at the door, and the small facts that its ReplicaSets carry. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from podwire.controllers.pods.state import created_at
from podwire.controllers.replicasets.plan import wanted_replicas
from podwire.model.objects import Obj, annotations_of

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
OWN_ANNOTATIONS = frozenset(
    {REVISION, REVISION_HISTORY, DESIRED, MAXIMUM, LAST_APPLIED, "deprecated.deployment.rollback.to"}
)


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a Deployment asks for."""

    replicas: int
    strategy: Literal["RollingUpdate", "Recreate"]
    max_surge: int
    max_unavailable: int
    min_ready_s: int
    deadline_s: int | None  # None: progress has no deadline
    history: int
    paused: bool

    @property
    def min_available(self) -> int:
        """The pods that stay available through a rolling update."""
        return max(0, self.replicas - self.max_unavailable)

    @property
    def max_total(self) -> int:
        """The pods that may exist at once."""
        return self.replicas + self.max_surge


def parse_rollout(deployment: Obj) -> Rollout:
    """Return the settings of a Deployment, defaults filled in."""
    spec = deployment["spec"]
    replicas = wanted_replicas(deployment)
    strategy = spec.get("strategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    recreate = strategy.get("type") == "Recreate"
    surge = scaled(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = scaled(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1  # both rounded to nothing: the update could never move
    deadline = spec.get("progressDeadlineSeconds", 600)
    return Rollout(
        replicas=replicas,
        strategy="Recreate" if recreate else "RollingUpdate",
        max_surge=0 if recreate else surge,
        max_unavailable=0 if recreate else min(unavailable, replicas),
        min_ready_s=spec.get("minReadySeconds") or 0,
        deadline_s=None if deadline is None or deadline >= 2**31 - 1 else int(deadline),
        history=10 if spec.get("revisionHistoryLimit") is None else int(spec["revisionHistoryLimit"]),
        paused=bool(spec.get("paused")),
    )


def scaled(value: Any, total: int, *, up: bool) -> int:
    """Return an IntOrString as a number: a percentage is of ``total``, rounded up or down."""
    if isinstance(value, str) and value.endswith("%"):
        share = total * int(value[:-1]) / 100
        return math.ceil(share) if up else math.floor(share)
    return int(value)


def revision_of(obj: Obj) -> int:
    """Return the revision annotation; 0 when absent or malformed."""
    text = annotations_of(obj).get(REVISION, "")
    return int(text) if text.isdigit() else 0


def available_of(replica_set: Obj) -> int:
    """Return status.availableReplicas."""
    return (replica_set.get("status") or {}).get("availableReplicas") or 0


def replicas_of(replica_set: Obj) -> int:
    """Return the replicas that a ReplicaSet is told to have."""
    return wanted_replicas(replica_set)


def actual_of(replica_set: Obj) -> int:
    """Return status.replicas."""
    return (replica_set.get("status") or {}).get("replicas") or 0


def oldest_first(sets: Sequence[Obj]) -> list[Obj]:
    """Return ReplicaSets by age, then by name."""
    return sorted(sets, key=lambda s: (created_at(s), s["metadata"]["name"]))
