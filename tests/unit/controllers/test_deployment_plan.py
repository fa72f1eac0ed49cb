"""The steps of a rollout, as a table of sizes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from podwire.controllers.deployments import history, rolling, status
from podwire.controllers.deployments.values import parse_rollout, scaled
from podwire.controllers.pods.template import same_template, spell, template_hash
from podwire.model.objects import Obj, condition, timestamp

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def deployment(replicas: int = 10, surge: Any = "25%", unavailable: Any = "25%", **spec: Any) -> Obj:
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            **spec,
        },
    }  # fmt: skip


def rs(name: str, size: int, available: int | None = None, age: int = 0, image: str = "old", **annotations: str) -> Obj:
    return {
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "generation": 1,
            "creationTimestamp": timestamp(NOW - timedelta(hours=age)),
            "annotations": {k.replace("__", "/").replace("_", "-"): v for k, v in annotations.items()},
        },
        "spec": {"replicas": size, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}},
        "status": {"replicas": size, "availableReplicas": size if available is None else available, "observedGeneration": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "total", "available"),
    [("25%", "25%", 10, 13, 8), (1, 0, 3, 4, 3), (0, 0, 3, 3, 2), ("100%", "100%", 4, 8, 0), ("25%", "25%", 1, 2, 1)],
)
def test_limits(surge: Any, unavailable: Any, replicas: int, total: int, available: int) -> None:
    rollout = parse_rollout(deployment(replicas, surge, unavailable))
    assert (rollout.max_total, rollout.min_available) == (total, available)


def test_percentages_round_up_for_surge_and_down_for_unavailable() -> None:
    assert (scaled("25%", 10, up=True), scaled("25%", 10, up=False), scaled(3, 10, up=True)) == (3, 2, 3)


ROLLS = [
    ("the new set grows to the surge first", rs("new", 0, image="new"), [rs("old", 10)], {"new": 3}),
    ("then old ones shrink to what must stay available", rs("new", 3, 0, image="new"), [rs("old", 10)], {"old": 8}),
    ("new ones that are not available free nothing", rs("new", 5, 0, image="new"), [rs("old", 8)], {}),
    ("as new ones become available old ones go", rs("new", 5, 5, image="new"), [rs("old", 8)], {"old": 3}),
    ("broken old ones go first", rs("new", 3, 0, image="new"), [rs("old", 10, 6)], {"old": 8}),
    ("a new set that is too large shrinks", rs("new", 12, image="new"), [rs("old", 0)], {"new": 10}),
    ("done", rs("new", 10, image="new"), [rs("old", 0)], {}),
]


@pytest.mark.parametrize(("what", "newest", "old", "sizes"), ROLLS, ids=[r[0] for r in ROLLS])
def test_rolling_steps(what: str, newest: Obj, old: list[Obj], sizes: dict[str, int]) -> None:
    assert rolling.roll(parse_rollout(deployment()), newest, old) == sizes


def test_scaling_amid_a_rollout_is_proportional() -> None:
    marks = {"deployment.kubernetes.io__desired_replicas": "10", "deployment.kubernetes.io__max_replicas": "13"}
    newest, old = rs("new", 5, 2, image="new", **marks), rs("old", 8, age=1, **marks)
    rollout = parse_rollout(deployment(20))
    assert rolling.is_scaling(rollout, [newest, old])
    assert rolling.scale(rollout, newest, [old]) == {"new": 10, "old": 15}  # 25 in all = 20 and its surge


def test_scaling_a_finished_deployment_sizes_the_newest_set() -> None:
    assert rolling.scale(parse_rollout(deployment(4)), rs("new", 10, image="new"), [rs("old", 0)]) == {"new": 4}
    assert rolling.scale(parse_rollout(deployment(0)), rs("new", 10, image="new"), []) == {"new": 0}


def test_the_hash_is_ten_safe_letters_and_ignores_itself() -> None:
    template = deployment()["spec"]["template"]
    name = template_hash(template)
    assert len(name) == 10
    assert set(name) <= set("bcdfghjklmnpqrstvwxz2456789")
    labelled = {**template, "metadata": {"labels": {"app": "web", "pod-template-hash": name}}}
    assert template_hash(labelled) == name
    assert template_hash(template, 1) != name
    assert spell(0) == spell(0) != spell(1)


def test_templates_are_equal_when_they_say_the_same() -> None:
    a = {
        "metadata": {"labels": {"a": "b"}, "creationTimestamp": None},
        "spec": {"containers": [], "volumes": [{"emptyDir": {}}]},
    }
    b = {"metadata": {"labels": {"a": "b"}}, "spec": {"volumes": [{"emptyDir": {}}]}}
    assert same_template(a, b)
    assert not same_template(a, {"metadata": {"labels": {"a": "b"}}, "spec": {"volumes": [{}]}})


def test_a_set_that_is_rolled_back_to_gets_a_new_revision() -> None:
    first = rs("one", 0, image="new", deployment_kubernetes_io__revision="")
    first["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    second = rs("two", 3)
    second["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "2"}
    fresh = history.freshened(deployment(), parse_rollout(deployment()), first, [second])
    assert fresh is not None
    assert fresh["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    assert fresh["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1"


def test_history_keeps_the_newest_revisions() -> None:
    old = []
    for n in range(1, 5):
        one = rs(f"r{n}", 0)
        one["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": str(n)}
        old.append(one)
    gone = history.superfluous(parse_rollout(deployment(revisionHistoryLimit=2)), old)
    assert [s["metadata"]["name"] for s in gone] == ["r1", "r2"]


def told(obj: Obj, newest: Obj, old: list[Obj], now: datetime) -> Obj:
    rollout = parse_rollout(obj)
    counts = status.plan_counts(obj, rollout, newest, old)
    counts["conditions"] = status.plan_conditions(obj, rollout, newest, old, counts, now)
    return {**obj, "status": counts}


def test_conditions_from_creation_over_progress_to_completion_and_time_out() -> None:
    obj = deployment(2, progressDeadlineSeconds=60)
    obj["status"] = {"conditions": status.put([], "Progressing", "True", status.CREATED, "", NOW)}
    obj = told(obj, rs("new", 2, 0, image="new"), [], NOW)
    assert (condition(obj, "Progressing") or {})["reason"] == status.UPDATED
    assert (condition(obj, "Available") or {})["reason"] == "MinimumReplicasUnavailable"
    obj = told(obj, rs("new", 2, 0, image="new"), [], NOW + timedelta(seconds=61))
    assert (condition(obj, "Progressing") or {})["reason"] == status.TIMED_OUT
    obj = told(obj, rs("new", 2, 2, image="new"), [], NOW + timedelta(seconds=70))
    assert (condition(obj, "Progressing") or {})["reason"] == status.COMPLETE
    assert (condition(obj, "Available") or {})["status"] == "True"
    # What is complete stays complete, even when a pod dies later.
    later = told(obj, rs("new", 2, 0, image="new"), [], NOW + timedelta(seconds=200))
    assert (condition(later, "Progressing") or {})["reason"] == status.COMPLETE
