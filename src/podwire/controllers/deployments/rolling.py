"""The next step of a rollout: which ReplicaSet is to have how many replicas. Pure.

Each function returns ``{name: replicas}`` for the sets to change; empty means nothing to do. A rollout is
many small steps, each decided afresh from what the sets report.
"""

from __future__ import annotations

from collections.abc import Sequence

from podwire.controllers.deployments.values import (
    DESIRED,
    MAXIMUM,
    Rollout,
    actual_of,
    available_of,
    oldest_first,
    replicas_of,
)
from podwire.model.objects import Obj, annotations_of

Sizes = dict[str, int]


def is_scaling(rollout: Rollout, sets: Sequence[Obj]) -> bool:
    """Return whether spec.replicas changed since the active sets were last sized."""
    return any(
        replicas_of(s) > 0 and annotations_of(s).get(DESIRED, str(rollout.replicas)) != str(rollout.replicas)
        for s in sets
    )


def initial_replicas(rollout: Rollout, old: Sequence[Obj]) -> int:
    """Return the replicas that a new ReplicaSet is born with."""
    return grown(rollout, 0, sum(map(replicas_of, old)))


def grown(rollout: Rollout, newest: int, others: int) -> int:
    """Return how far the newest set may grow from ``newest`` while the ``others`` exist."""
    if rollout.strategy == "Recreate":
        return rollout.replicas
    room = rollout.max_total - newest - others
    if room <= 0:
        return newest
    return newest + max(0, min(room, rollout.replicas - newest))


def roll(rollout: Rollout, newest: Obj, old: Sequence[Obj]) -> Sizes:
    """Return the next step of a rolling update: grow the new set, else shrink old ones."""
    name, size = newest["metadata"]["name"], replicas_of(newest)
    if size > rollout.replicas:
        return {name: rollout.replicas}
    target = grown(rollout, size, sum(map(replicas_of, old)))
    if target != size:
        return {name: target}
    return shrink_old(rollout, newest, old)


def shrink_old(rollout: Rollout, newest: Obj, old: Sequence[Obj]) -> Sizes:
    """Return how the old sets shrink without leaving fewer than min_available pods.

    Pods that are not available go first: they carry nothing, and may be why the update is stuck.
    """
    everything = [*old, newest]
    total = sum(map(replicas_of, everything))
    new_unavailable = max(0, replicas_of(newest) - available_of(newest))
    budget = total - rollout.min_available - new_unavailable
    if budget <= 0 or not any(map(replicas_of, old)):
        return {}
    sizes = {s["metadata"]["name"]: replicas_of(s) for s in old}
    removed_unhealthy = 0
    for s in oldest_first(old):
        name = s["metadata"]["name"]
        unhealthy = max(0, sizes[name] - available_of(s))
        taken = min(budget - removed_unhealthy, unhealthy)
        sizes[name] -= taken
        removed_unhealthy += taken
    spare = sum(map(available_of, everything)) - rollout.min_available
    for s in oldest_first(old):
        name = s["metadata"]["name"]
        taken = min(max(0, spare), sizes[name])
        sizes[name] -= taken
        spare -= taken
    return {s["metadata"]["name"]: n for s in old if (n := sizes[s["metadata"]["name"]]) != replicas_of(s)}


def scale(rollout: Rollout, newest: Obj | None, old: Sequence[Obj]) -> Sizes:
    """Return the sizes after spec.replicas changed.

    One active set, or a finished rollout: that set gets them all. Amid a rolling update the sets grow or
    shrink in proportion, so that the risk of the update stays what it was.
    """
    everything = [*old, *([newest] if newest is not None else [])]
    active = [s for s in everything if replicas_of(s) > 0]
    only = active[0] if len(active) == 1 else (newest if not active else None)
    if only is not None:
        return _change({only["metadata"]["name"]: rollout.replicas}, everything)
    if newest is not None and is_saturated(rollout, newest):
        sizes = {s["metadata"]["name"]: 0 for s in old if replicas_of(s)}
        return _change({**sizes, newest["metadata"]["name"]: rollout.replicas}, everything)
    if rollout.strategy == "Recreate" or not active:
        return {}
    return _change(_in_proportion(rollout, active), everything)


def is_saturated(rollout: Rollout, newest: Obj) -> bool:
    """Return whether the newest set has, and runs, all that the Deployment wants."""
    desired = annotations_of(newest).get(DESIRED, "")
    return (
        replicas_of(newest) == rollout.replicas
        and desired == str(rollout.replicas)
        and available_of(newest) == rollout.replicas
    )


def _in_proportion(rollout: Rollout, active: Sequence[Obj]) -> Sizes:
    allowed = rollout.max_total if rollout.replicas > 0 else 0
    to_add = allowed - sum(map(replicas_of, active))
    # The largest first (the youngest first when growing), so that rounding favours them.
    ranked = sorted(active, key=lambda s: s["metadata"].get("creationTimestamp") or "", reverse=to_add > 0)
    ranked.sort(key=lambda s: -replicas_of(s))
    sizes: Sizes = {}
    added = 0
    for s in ranked:
        share = _share(rollout, s, to_add, added) if to_add else 0
        sizes[s["metadata"]["name"]] = replicas_of(s) + share
        added += share
    left = to_add - added  # what rounding left over goes to the first, then to the next
    for name, size in sizes.items():
        sizes[name] = max(0, size + left)
        left -= sizes[name] - size
    return sizes


def _share(rollout: Rollout, replica_set: Obj, to_add: int, added: int) -> int:
    """Return what one set gains (or loses, negative), within what is left to add."""
    size = replicas_of(replica_set)
    if rollout.replicas == 0:
        fraction = -size
    else:
        noted = annotations_of(replica_set).get(MAXIMUM, "")
        base = int(noted) if noted.isdigit() and int(noted) > 0 else max(1, actual_of(replica_set))
        fraction = _round(size * rollout.max_total / base) - size
    left = to_add - added
    return min(fraction, left) if to_add > 0 else max(fraction, left)


def _round(value: float) -> int:
    return int(value + 0.5)


def _change(sizes: Sizes, sets: Sequence[Obj]) -> Sizes:
    present = {s["metadata"]["name"]: replicas_of(s) for s in sets}
    return {name: size for name, size in sizes.items() if present.get(name) != size}
