"""Which ReplicaSet is a Deployment's newest, what it looks like, which old ones may go. Pure."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from podwire.controllers.deployments.values import (
    DESIRED,
    MAXIMUM,
    OWN_ANNOTATIONS,
    REVISION,
    REVISION_HISTORY,
    Rollout,
    actual_of,
    available_of,
    oldest_first,
    replicas_of,
    revision_of,
)
from podwire.controllers.pods.template import TEMPLATE_HASH, same_template, template_hash
from podwire.model.objects import Obj, annotations_of, is_deleting, owner_reference


def find_newest(deployment: Obj, sets: Sequence[Obj]) -> Obj | None:
    """Return the ReplicaSet of the Deployment's present template; the oldest when there are several."""
    template = deployment["spec"]["template"]
    return next((s for s in oldest_first(sets) if same_template(s["spec"]["template"], template)), None)


def next_revision(old: Sequence[Obj]) -> int:
    """Return one more than the newest revision among the old ReplicaSets."""
    return max((revision_of(s) for s in old), default=0) + 1


def new_replica_set(deployment: Obj, rollout: Rollout, old: Sequence[Obj], replicas: int) -> Obj:
    """Return the ReplicaSet to create for the present template."""
    template = copy.deepcopy(deployment["spec"]["template"])
    suffix = template_hash(template, (deployment.get("status") or {}).get("collisionCount") or 0)
    labels = {**((template.get("metadata") or {}).get("labels") or {}), TEMPLATE_HASH: suffix}
    template["metadata"] = {**(template.get("metadata") or {}), "labels": labels}
    selector = copy.deepcopy(deployment["spec"]["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), TEMPLATE_HASH: suffix}
    meta = deployment["metadata"]
    spec: Obj = {"replicas": replicas, "selector": selector, "template": template}
    if rollout.min_ready_s:
        spec["minReadySeconds"] = rollout.min_ready_s
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{meta['name']}-{suffix}",
            "namespace": meta["namespace"],
            "labels": labels,
            "annotations": {
                **inherited_annotations(deployment),
                **size_annotations(rollout),
                REVISION: str(next_revision(old)),
            },
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": spec,
    }


def inherited_annotations(deployment: Obj) -> dict[str, str]:
    """Return the Deployment's annotations that its ReplicaSets carry too (kubernetes.io/change-cause ...)."""
    return {k: v for k, v in annotations_of(deployment).items() if k not in OWN_ANNOTATIONS}


def size_annotations(rollout: Rollout) -> dict[str, str]:
    """Return the annotations from which a later scaling sees the sizes that this one was made for."""
    return {DESIRED: str(rollout.replicas), MAXIMUM: str(rollout.max_total)}


def freshened(deployment: Obj, rollout: Rollout, newest: Obj, old: Sequence[Obj]) -> Obj | None:
    """Return the newest ReplicaSet with revision, annotations and minReadySeconds set; None when they are.

    A set that is rolled back to gets a new revision and remembers the one that it had.
    """
    annotations = dict(annotations_of(newest))
    annotations.update(inherited_annotations(deployment))
    wanted = next_revision(old)
    had = revision_of(newest)
    if had < wanted:
        if had:
            history = [r for r in annotations.get(REVISION_HISTORY, "").split(",") if r]
            annotations[REVISION_HISTORY] = ",".join([*history, str(had)])
        annotations[REVISION] = str(wanted)
    annotations.setdefault(DESIRED, str(rollout.replicas))
    annotations.setdefault(MAXIMUM, str(rollout.max_total))
    same_wait = (newest["spec"].get("minReadySeconds") or 0) == rollout.min_ready_s
    if annotations == annotations_of(newest) and same_wait:
        return None
    return {
        **newest,
        "metadata": {**newest["metadata"], "annotations": annotations},
        "spec": {**newest["spec"], "minReadySeconds": rollout.min_ready_s},
    }


def superfluous(rollout: Rollout, old: Sequence[Obj]) -> list[Obj]:
    """Return the old, empty ReplicaSets beyond revisionHistoryLimit, oldest revision first."""
    excess = len(old) - rollout.history
    if excess <= 0:
        return []
    ranked = sorted(old, key=lambda s: (revision_of(s), s["metadata"].get("creationTimestamp") or ""))
    return [
        s
        for s in ranked[:excess]
        if not (actual_of(s) or replicas_of(s) or available_of(s) or is_deleting(s))
        and (s.get("status") or {}).get("observedGeneration", 0) >= s["metadata"].get("generation", 0)
    ]
