"""The next step of a StatefulSet, and what its status says. Pure.

A step deletes and creates a few pods; OrderedReady takes one pod at a time, Parallel all at once.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from podwire.controllers.pods.state import is_available, is_finished, phase
from podwire.controllers.pods.template import pod_of
from podwire.controllers.replicasets.plan import wanted_replicas
from podwire.controllers.revisions.plan import HASH_LABEL
from podwire.model.objects import Obj, is_deleting, is_ready, labels_of

POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"
_NAME = re.compile(r"(.*)-([0-9]+)")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a StatefulSet asks for."""

    replicas: int
    start: int
    ordered: bool
    partition: int
    on_delete: bool
    min_ready_s: int

    @property
    def ordinals(self) -> range:
        """The ordinals that are to exist."""
        return range(self.start, self.start + self.replicas)


@dataclass(frozen=True, slots=True)
class Step:
    """Pods to delete, and (ordinal, revision hash) to create."""

    create: tuple[tuple[int, str], ...] = ()
    delete: tuple[Obj, ...] = ()


def parse_settings(owner: Obj) -> Settings:
    """Return the settings, defaults filled in."""
    spec = owner["spec"]
    strategy = spec.get("updateStrategy") or {}
    return Settings(
        replicas=wanted_replicas(owner),
        start=(spec.get("ordinals") or {}).get("start") or 0,
        ordered=spec.get("podManagementPolicy", "OrderedReady") != "Parallel",
        partition=(strategy.get("rollingUpdate") or {}).get("partition") or 0,
        on_delete=strategy.get("type") == "OnDelete",
        min_ready_s=spec.get("minReadySeconds") or 0,
    )


def ordinal_of(owner: Obj, pod: Obj) -> int:
    """Return the pod's ordinal; -1 when its name is not one of the set's."""
    m = _NAME.fullmatch(pod["metadata"]["name"])
    return int(m[2]) if m and m[1] == owner["metadata"]["name"] else -1


def revision_of(pod: Obj) -> str:
    """Return the revision hash that a pod was made of."""
    return labels_of(pod).get(HASH_LABEL, "")


def stateful_pod(owner: Obj, template: Obj, ordinal: int, revision: str) -> Obj:
    """Return the pod of one ordinal: its name is its identity and host name.

    volumeClaimTemplates become emptyDir volumes of the same names, so that their mounts are there.
    """
    name = f"{owner['metadata']['name']}-{ordinal}"
    pod = pod_of(owner, template, name)
    pod["metadata"]["generateName"] = owner["metadata"]["name"] + "-"
    pod["metadata"]["labels"] |= {POD_NAME_LABEL: name, POD_INDEX_LABEL: str(ordinal), HASH_LABEL: revision}
    spec = pod["spec"]
    spec["hostname"] = name
    if owner["spec"].get("serviceName"):
        spec["subdomain"] = owner["spec"]["serviceName"]
    claims = [c["metadata"]["name"] for c in owner["spec"].get("volumeClaimTemplates") or ()]
    if claims:
        volumes = [v for v in copy.deepcopy(spec.get("volumes") or []) if v["name"] not in claims]
        spec["volumes"] = [*volumes, *({"name": c, "emptyDir": {}} for c in claims)]
    return pod


def plan_step(owner: Obj, settings: Settings, pods: Sequence[Obj], current: str, update: str, now: datetime) -> Step:
    """Return the next step; empty when there is nothing to do or something to wait for."""
    by_ordinal = {n: p for p in pods if (n := ordinal_of(owner, p)) >= 0}
    step = _fill(settings, by_ordinal, current, update, now)
    if step is not None:
        return step
    surplus = [by_ordinal[n] for n in sorted(by_ordinal, reverse=True) if n not in settings.ordinals]
    step = _shrink(settings, surplus, by_ordinal, now)
    if step is not None:
        return step
    return _roll(settings, by_ordinal, update, now)


def _fill(settings: Settings, pods: Mapping[int, Obj], current: str, update: str, now: datetime) -> Step | None:
    """Return the step that makes missing pods; an empty one to wait; None when all are there (and ready)."""
    create: list[tuple[int, str]] = []
    delete: list[Obj] = []
    for n in settings.ordinals:
        pod = pods.get(n)
        if pod is None:
            create.append((n, current if n < settings.start + settings.partition else update))
        elif is_finished(pod) and not is_deleting(pod):
            delete.append(pod)  # it is made anew once it is gone
        elif not settings.ordered or _is_healthy(pod, settings, now):
            continue
        if settings.ordered:
            return Step(tuple(create), tuple(delete))
    return Step(tuple(create), tuple(delete)) if create or delete else None


def _is_healthy(pod: Obj, settings: Settings, now: datetime) -> bool:
    return not is_deleting(pod) and phase(pod) == "Running" and is_available(pod, settings.min_ready_s, now)


def _shrink(settings: Settings, surplus: Sequence[Obj], pods: Mapping[int, Obj], now: datetime) -> Step | None:
    """Return the step that removes pods beyond the wanted ones, the highest ordinal first."""
    if not surplus:
        return None
    if not settings.ordered:
        return Step(delete=tuple(p for p in surplus if not is_deleting(p)))
    highest = surplus[0]
    if is_deleting(highest):
        return Step()
    others = [p for p in pods.values() if p is not highest]
    # An unhealthy neighbour stops the removal, unless the pod to go is itself the unhealthy one.
    if any(not _is_healthy(p, settings, now) for p in others) and _is_healthy(highest, settings, now):
        return Step()
    return Step(delete=(highest,))


def _roll(settings: Settings, pods: Mapping[int, Obj], update: str, now: datetime) -> Step:
    """Return the step of a rolling update: from the highest ordinal down to the partition, one at a time."""
    if settings.on_delete:
        return Step()
    for n in reversed(settings.ordinals):
        if n < settings.start + settings.partition or n not in pods:
            break
        pod = pods[n]
        if revision_of(pod) != update and not is_deleting(pod):
            return Step(delete=(pod,))
        if not _is_healthy(pod, settings, now):
            return Step()
    return Step()


def plan_status(
    owner: Obj,
    settings: Settings,
    pods: Sequence[Obj],
    current: tuple[str, str],
    update: tuple[str, str],
    collisions: int,
    now: datetime,
) -> Obj:
    """Return the status. ``current`` and ``update`` are (revision name, hash).

    When every pod is of the update revision and ready, it becomes the current one.
    """
    mine = [p for p in pods if ordinal_of(owner, p) >= 0]
    made = [p for p in mine if not is_finished(p)]
    ready = sum(is_ready(p) and phase(p) == "Running" for p in made)
    updated = sum(revision_of(p) == update[1] and not is_deleting(p) for p in made)
    if current[0] != update[0] and updated == len(made) == ready == settings.replicas and not settings.on_delete:
        current = update
    available = sum(is_available(p, settings.min_ready_s, now) and phase(p) == "Running" for p in made)
    status: Obj = {
        "observedGeneration": owner["metadata"].get("generation", 0),
        "replicas": len(made),
        "readyReplicas": ready,
        "availableReplicas": available,
        "currentReplicas": sum(revision_of(p) == current[1] and not is_deleting(p) for p in made),
        "updatedReplicas": updated,
        "currentRevision": current[0],
        "updateRevision": update[0],
        "collisionCount": collisions,
    }
    return {
        k: v
        for k, v in status.items()
        if v or k in ("replicas", "observedGeneration", "availableReplicas", "collisionCount")
    }
