"""Rolling updates, played out step by step with pods that become available when they please."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.controllers.deployments.rolling import initial_replicas, is_scaling, roll, scale
from podwire.controllers.deployments.values import DESIRED, MAXIMUM, parse_rollout
from podwire.model.objects import Obj


def replica_set(name: str, size: int, available: int) -> Obj:
    return {
        "metadata": {"name": name, "annotations": {}, "creationTimestamp": name},
        "spec": {"replicas": size},
        "status": {"replicas": size, "availableReplicas": available},
    }


def deployment(replicas: int, surge: int, unavailable: int) -> Obj:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {"metadata": {"name": "web"}, "spec": {"replicas": replicas, "strategy": {"rollingUpdate": rolling}}}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 12), st.integers(0, 5), st.integers(0, 5), st.data())
def test_a_rollout_ends_and_never_breaks_its_limits(
    replicas: int, surge: int, unavailable: int, data: st.DataObject
) -> None:
    rollout = parse_rollout(deployment(replicas, surge, unavailable))
    old = [replica_set("1", replicas, replicas)]
    newest = replica_set("2", initial_replicas(rollout, old), 0)
    for _ in range(200):
        everything = [*old, newest]
        assert sum(s["spec"]["replicas"] for s in everything) <= max(rollout.max_total, replicas)
        for name, size in roll(rollout, newest, old).items():
            s = next(x for x in everything if x["metadata"]["name"] == name)
            s["spec"]["replicas"] = size
            s["status"]["availableReplicas"] = min(size, s["status"]["availableReplicas"])
        assert sum(s["status"]["availableReplicas"] for s in everything) >= rollout.min_available
        newest["status"]["availableReplicas"] = data.draw(
            st.integers(newest["status"]["availableReplicas"], newest["spec"]["replicas"])
        )
        if newest["status"]["availableReplicas"] == replicas and not old[0]["spec"]["replicas"]:
            return
        if not data.draw(st.booleans()):
            newest["status"]["availableReplicas"] = newest["spec"]["replicas"]
    raise AssertionError("the rollout did not end")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 20), st.integers(1, 5))
def test_scaling_amid_a_rollout_gives_exactly_what_is_asked(sizes: list[int], replicas: int, surge: int) -> None:
    before = sum(sizes)
    rollout = parse_rollout(deployment(replicas, surge, 1))
    sets = [replica_set(str(i), size, 0) for i, size in enumerate(sizes)]
    for s in sets:
        s["metadata"]["annotations"] = {DESIRED: str(before - surge), MAXIMUM: str(before)}
    if not is_scaling(rollout, sets):
        return
    changed = scale(rollout, sets[-1], sets[:-1])
    total = sum(changed.get(s["metadata"]["name"], s["spec"]["replicas"]) for s in sets)
    assert total == (rollout.max_total if replicas else 0)
    assert all(size >= 0 for size in changed.values())
