"""Plans that fit a few rows: deletion order, CIDRs, cron, ownership, garbage, Jobs, taints, StatefulSets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from podwire.controllers.cronjobs.cron import next_after, parse_schedule
from podwire.controllers.cronjobs.plan import find_due
from podwire.controllers.daemonsets import plan as daemonsets
from podwire.controllers.garbage.graph import Graph, OwnerRef, Verdict, Vertex, judge
from podwire.controllers.jobs.plan import backoff_left_s, missing_pods, parse_indexes, parse_settings, render_indexes
from podwire.controllers.jobs.tracking import tally
from podwire.controllers.nodes.cidrs import CidrPool
from podwire.controllers.nodes.eviction_agent import evict_in_s
from podwire.controllers.nodes.plan import wanted_taints
from podwire.controllers.ownership import plan_claim
from podwire.controllers.replicasets.plan import deletion_order, plan_scaling
from podwire.controllers.statefulsets import plan as stateful
from podwire.model.objects import Key, Obj, timestamp
from podwire.model.resources import PODS
from podwire.model.selectors import from_map
from podwire.runtime.clock import FakeClock

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def pod(name: str, node: str = "", phase: str = "Pending", ready_s: int | None = None, **meta: Any) -> Obj:
    conditions = []
    if ready_s is not None:
        since = timestamp(NOW - timedelta(seconds=ready_s))
        conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": since}]
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name, **meta},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "conditions": conditions},
    }


def test_the_least_useful_pod_goes_first() -> None:
    cheap = {"controller.kubernetes.io/pod-deletion-cost": "-5"}
    ordered = [
        pod("unassigned"),
        pod("pending", "a"),
        pod("running", "a", "Running"),
        pod("cheap", "a", "Running", 900, annotations=cheap),
        pod("crowded-young", "a", "Running", 10),
        pod("crowded-old", "a", "Running", 500),
        pod("alone", "b", "Running", 5),
    ]
    assert [p["metadata"]["name"] for p in deletion_order(ordered[::-1])] == [p["metadata"]["name"] for p in ordered]


def test_scaling_counts_active_pods_only() -> None:
    owner: Obj = {"metadata": {"uid": "o"}, "spec": {"replicas": 3}}
    leaving = pod("leaving", "a", "Running", 5, deletionTimestamp=timestamp(NOW))
    assert plan_scaling(owner, [pod("one"), leaving, pod("done", "a", "Failed")]).create == 2
    owner["metadata"]["deletionTimestamp"] = timestamp(NOW)
    assert plan_scaling(owner, []).create == 0


def test_claims() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "o", "uid": "o"}}
    ref = [{"uid": "o", "controller": True}]
    mine = pod("mine", labels={"a": "b"}, ownerReferences=ref)
    lost = pod("lost", labels={"a": "c"}, ownerReferences=ref)
    orphan = pod("orphan", labels={"a": "b"})
    other = pod("other", labels={"a": "b"}, ownerReferences=[{"uid": "x", "controller": True}])
    claim = plan_claim(owner, from_map({"a": "b"}), [mine, lost, orphan, other])
    assert (claim.keep, claim.adopt, claim.release) == ((mine,), (orphan,), (lost,))


def test_cidrs_go_round_and_run_out() -> None:
    pool = CidrPool(ip_network("10.0.0.0/22"), 24, [ip_network("10.0.1.0/24")])
    first = pool.allocate()
    assert str(first) == "10.0.0.0/24"
    assert str(pool.allocate()) == "10.0.2.0/24"  # .1 is the Services'
    assert first is not None
    pool.release(first)
    assert str(pool.allocate()) == "10.0.3.0/24"  # what was freed is used last
    assert str(pool.allocate()) == "10.0.0.0/24"
    assert pool.allocate() is None
    assert not pool.occupy(ip_network("10.0.3.0/24"))
    assert not pool.occupy(ip_network("10.9.0.0/24"))


def test_a_huge_ipv6_pool_costs_nothing() -> None:
    pool = CidrPool(ip_network("fd00::/16"), 64)
    assert str(pool.allocate()) == "fd00::/64"
    assert str(pool.allocate()) == "fd00:0:0:1::/64"


@pytest.mark.parametrize("mask", [8, 33])
def test_a_mask_that_does_not_fit_is_refused(mask: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        CidrPool(ip_network("10.0.0.0/16"), mask)


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("*/15 * * * *", "2026-01-01T12:00:00", "2026-01-01T12:15:00"),
        ("0 9 * * mon-fri", "2026-01-02T09:00:00", "2026-01-05T09:00:00"),  # Friday to Monday
        ("30 2 29 2 *", "2026-01-01T00:00:00", "2028-02-29T02:30:00"),
        ("0 0 1,15 * 0", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),  # either day of month or Sunday
        ("@hourly", "2026-01-01T12:59:59", "2026-01-01T13:00:00"),
        ("5-10/5 1 * jan *", "2026-01-31T01:10:00", "2027-01-01T01:05:00"),
        ("0 0 * * 7", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),
        ("@every 90s", "2026-01-01T00:00:00", "2026-01-01T00:01:30"),
    ],
)
def test_cron(schedule: str, after: str, expected: str) -> None:
    moment = datetime.fromisoformat(after + "+00:00")
    assert next_after(parse_schedule(schedule), moment, UTC) == datetime.fromisoformat(expected + "+00:00")


def test_cron_keeps_to_the_clock_on_the_wall_and_skips_times_that_are_not() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    before = datetime(2026, 3, 28, 12, tzinfo=UTC)
    due = next_after(parse_schedule("30 2 * * *"), before, berlin)
    assert due == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)  # on the 29th there is no 02:30


@pytest.mark.parametrize("bad", ["", "* * * *", "61 * * * *", "* * * foo *", "*/0 * * * *", "5-1 * * * *", "@every x"])
def test_cron_refuses(bad: str) -> None:
    with pytest.raises(ValueError):
        parse_schedule(bad)


def test_of_many_missed_moments_the_latest_counts_and_the_deadline_cuts() -> None:
    cron = {"metadata": {"creationTimestamp": "2025-12-31T12:00:00Z"}, "spec": {}}
    due = find_due(cron, parse_schedule("0 * * * *"), UTC, NOW + timedelta(minutes=5))
    assert (due.moment, due.missed, due.next) == (NOW, 24, NOW + timedelta(hours=1))
    cron["spec"] = {"startingDeadlineSeconds": 60}
    assert find_due(cron, parse_schedule("0 * * * *"), UTC, NOW + timedelta(minutes=5)).moment is None
    cron["spec"], cron["metadata"]["creationTimestamp"] = {}, "2024-01-01T00:00:00Z"
    assert find_due(cron, parse_schedule("* * * * *"), UTC, NOW).moment == NOW


def vertex(uid: str, *owners: tuple[str, bool], deleting: bool = False, finalizers: tuple[str, ...] = ()) -> Vertex:
    refs = tuple(OwnerRef("v1", "Pod", o, o, blocks) for o, blocks in owners)
    return Vertex(uid, PODS, Key("default", uid), refs, deleting, frozenset(finalizers))


VERDICTS = [
    ("an owner that lives keeps it", {}, [], False, Verdict()),
    ("all owners absent", {"a", "b"}, [], False, Verdict(delete="Background")),
    ("one absent, one alive", {"a"}, [], False, Verdict(drop_owners=frozenset({"a"}))),
    ("an owner waits, no dependents", {"a"}, {"b"}, False, Verdict(delete="Background")),
    ("an owner waits, dependents of its own", {"a"}, {"b"}, True, Verdict(delete="Foreground")),
]


@pytest.mark.parametrize(("what", "absent", "waiting", "dependents", "verdict"), VERDICTS, ids=[v[0] for v in VERDICTS])
def test_garbage(what: str, absent: Any, waiting: Any, dependents: bool, verdict: Verdict) -> None:
    assert judge(vertex("x", ("a", True), ("b", True)), absent, waiting, dependents) == verdict


def test_the_graph_knows_whom_a_foreground_deletion_waits_for() -> None:
    graph = Graph()
    graph.put(vertex("owner", deleting=True, finalizers=("foregroundDeletion",)))
    graph.put(vertex("blocks", ("owner", True)))
    graph.put(vertex("free", ("owner", False)))
    assert [v.uid for v in graph.blocking_dependents("owner")] == ["blocks"]
    assert {v.uid for v in graph.dependents("owner")} == {"blocks", "free"}
    graph.remove("blocks")
    assert not graph.blocking_dependents("owner")


@pytest.mark.parametrize(("text", "indexes"), [("", set()), ("1,3-5,7", {1, 3, 4, 5, 7}), ("0,1", {0, 1})])
def test_indexes(text: str, indexes: set[int]) -> None:
    assert parse_indexes(text) == indexes
    assert render_indexes(indexes) == text


def job_pod(name: str, phase: str, held: bool = True, **meta: Any) -> Obj:
    finalizers = ["batch.kubernetes.io/job-tracking"] if held else []
    return pod(name, "a", phase, finalizers=finalizers, **meta)


def test_a_finished_pod_is_counted_once_whenever_we_are_interrupted() -> None:
    job: Obj = {"metadata": {"uid": "j"}, "spec": {}, "status": {}}
    one = tally(job, [job_pod("p", "Succeeded")], None)
    assert (one.succeeded, one.uncounted_succeeded, len(one.release)) == (0, ("p",), 1)
    # Stored, but killed before the finalizer went: the same again.
    job["status"] = {"uncountedTerminatedPods": {"succeeded": ["p"]}}
    assert tally(job, [job_pod("p", "Succeeded")], None).total_succeeded == 1
    # The finalizer is gone, or the whole pod: counted.
    assert tally(job, [job_pod("p", "Succeeded", held=False)], None).succeeded == 1
    assert tally(job, [], None).succeeded == 1
    job["status"] = {"succeeded": 1}
    assert tally(job, [job_pod("p", "Succeeded", held=False)], None).total_succeeded == 1


def test_an_indexed_job_fills_the_gaps() -> None:
    settings = parse_settings({"spec": {"completions": 5, "parallelism": 2, "completionMode": "Indexed"}})
    running = pod("r", "a", "Running", annotations={"batch.kubernetes.io/job-completion-index": "1"})
    empty = tally({"metadata": {}, "spec": {}}, [], frozenset({0}))
    assert missing_pods(settings, [running], empty, frozenset({0})) == ([2], [])


def test_failures_are_replaced_later_each_time() -> None:
    def failed(name: str, seconds_ago: int) -> Obj:
        return pod(name, "a", "Failed", creationTimestamp=timestamp(NOW - timedelta(seconds=seconds_ago)))

    assert backoff_left_s([failed("a", 4)], NOW) == 6
    assert backoff_left_s([failed("a", 60), failed("b", 5)], NOW) == 15
    assert backoff_left_s([failed("a", 60)], NOW) == 0


def test_evictions_heed_the_shortest_toleration() -> None:
    taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": timestamp(NOW)}

    def tolerating(*seconds: int | None) -> Obj:
        entries = [{"key": taint["key"], "operator": "Exists"} for _ in seconds]
        for entry, s in zip(entries, seconds, strict=True):
            if s is not None:
                entry["tolerationSeconds"] = s  # type: ignore[assignment]
        return {"spec": {"tolerations": entries}}

    later = NOW + timedelta(seconds=100)
    assert evict_in_s(tolerating(), [taint], later) == 0
    assert evict_in_s(tolerating(300), [taint], later) == 200
    assert evict_in_s(tolerating(300, 30), [taint], later) == 0
    assert evict_in_s(tolerating(None), [taint], later) is None
    assert evict_in_s(tolerating(), [], later) is None


def tainted(
    ready: str | None, *present: tuple[str, str], evict: bool = True, **spec: Any
) -> list[tuple[str, str]] | None:
    conditions = [{"type": "Ready", "status": ready}] if ready else []
    node = {
        "metadata": {"name": "n"},
        "spec": {"taints": [{"key": k, "effect": e} for k, e in present], **spec},
        "status": {"conditions": conditions},
    }
    found = wanted_taints(node, evict, FakeClock())
    return None if found is None else [(t["key"].removeprefix("node.kubernetes.io/"), t["effect"]) for t in found]


def test_taints_follow_conditions() -> None:
    not_ready = ("node.kubernetes.io/not-ready", "NoSchedule")
    assert tainted("True") is None
    assert tainted("True", not_ready, ("own", "NoSchedule")) == [("own", "NoSchedule")]
    assert tainted("Unknown") == [("unreachable", "NoSchedule"), ("unreachable", "NoExecute")]
    assert tainted("False", evict=False) == [("not-ready", "NoSchedule")]
    assert tainted(None, not_ready) is None  # it registered so, and did not report yet
    assert tainted("True", unschedulable=True) == [("unschedulable", "NoSchedule")]


def daemons(*states: tuple[str, str, str]) -> list[Obj]:
    """(node, revision, state): r ready, p pending, d deleting."""
    made = []
    for node, revision, state in states:
        ready_s = 10 if state == "r" else None
        one = pod(f"{node}-{revision}-{state}", node, "Running", ready_s, labels={"controller-revision-hash": revision})
        if state == "d":
            one["metadata"]["deletionTimestamp"] = timestamp(NOW)
        made.append(one)
    return made


UPDATES: list[tuple[str, list[tuple[str, str, str]], Obj, list[str], list[str]]] = [
    ("one at a time", [("a", "old", "r"), ("b", "old", "r")], {}, [], ["a-old-r"]),
    ("waits for the new one", [("a", "new", "p"), ("b", "old", "r")], {}, [], []),
    ("goes on", [("a", "new", "r"), ("b", "old", "r")], {}, [], ["b-old-r"]),
    ("what serves nobody goes at once", [("a", "old", "p"), ("b", "old", "p")], {}, [], ["a-old-p", "b-old-p"]),
    ("half of them", [("a", "old", "r"), ("b", "old", "r")], {"maxUnavailable": "50%"}, [], ["a-old-r"]),
    ("a second pod first", [("a", "old", "r"), ("b", "old", "r")], {"maxSurge": 1, "maxUnavailable": 0}, ["a"], []),
    ("until it serves", [("a", "old", "r"), ("a", "new", "p"), ("b", "old", "r")], {"maxSurge": 1}, [], []),
    (
        "then the old one goes",
        [("a", "old", "r"), ("a", "new", "r"), ("b", "old", "r")],
        {"maxSurge": 1},
        ["b"],
        ["a-old-r"],
    ),
]


@pytest.mark.parametrize(("what", "states", "rolling", "create", "delete"), UPDATES, ids=[u[0] for u in UPDATES])
def test_daemonset_updates(
    what: str, states: list[tuple[str, str, str]], rolling: Obj, create: list[str], delete: list[str]
) -> None:
    owner: Obj = {"metadata": {"name": "ds"}, "spec": {"updateStrategy": {"rollingUpdate": rolling}}}
    verdicts = {"a": (True, True), "b": (True, True)}
    plan = daemonsets.plan_update(owner, daemons(*states), verdicts, "new", NOW)
    assert list(plan.create) == create
    assert [p["metadata"]["name"] for p in plan.delete] == delete


def test_daemon_pods_come_where_they_may_and_go_where_they_may_not() -> None:
    verdicts = {"fresh": (True, True), "cordoned": (False, True), "hostile": (False, False), "fine": (True, True)}
    pods = daemons(
        ("cordoned", "new", "r"),
        ("hostile", "new", "r"),
        ("fine", "new", "r"),
        ("fine", "new", "p"),
        ("gone", "new", "r"),
    )
    plan = daemonsets.plan_presence(pods, verdicts, "new", surging=False)
    assert plan.create == ("fresh",)
    deleted = {p["metadata"]["name"] for p in plan.delete}
    assert {"hostile-new-r", "gone-new-r"} < deleted
    assert len(deleted) == 3  # and one of the two on node "fine"


def stateful_pods(*states: tuple[int, str, str]) -> list[Obj]:
    """(ordinal, revision, state): r ready, p pending, d deleting, f failed."""
    made = []
    for ordinal, revision, state in states:
        phase = {"r": "Running", "p": "Pending", "d": "Running", "f": "Failed"}[state]
        one = pod(
            f"db-{ordinal}", "a", phase, 10 if state in "rd" else None, labels={"controller-revision-hash": revision}
        )
        if state == "d":
            one["metadata"]["deletionTimestamp"] = timestamp(NOW)
        made.append(one)
    return made


STEPS: list[tuple[str, list[tuple[int, str, str]], Obj, list[int], list[int]]] = [
    ("the first", [], {}, [0], []),
    ("waits for ready", [(0, "new", "p")], {}, [], []),
    ("the second", [(0, "new", "r")], {}, [1], []),
    ("waits for one that goes", [(0, "new", "d")], {}, [], []),
    ("all at once", [], {"podManagementPolicy": "Parallel"}, [0, 1, 2], []),
    ("a failed one is removed first", [(0, "new", "f")], {}, [], [0]),
    ("the highest surplus goes", [(0, "new", "r"), (1, "new", "r"), (2, "new", "r"), (3, "new", "r"), (4, "new", "r")], {}, [], [4]),
    ("updates from the top", [(0, "old", "r"), (1, "old", "r"), (2, "old", "r")], {}, [], [2]),
    ("one at a time", [(0, "old", "r"), (1, "old", "r"), (2, "new", "p")], {}, [], []),
    ("down to the partition", [(0, "old", "r"), (1, "old", "r"), (2, "new", "r")],
     {"updateStrategy": {"rollingUpdate": {"partition": 2}}}, [], []),
    ("a stuck one of an old revision is a person's to delete, as in Kubernetes", [(0, "old", "p")], {}, [], []),
    ("on delete leaves them", [(0, "old", "r"), (1, "old", "r"), (2, "old", "r")], {"updateStrategy": {"type": "OnDelete"}}, [], []),
]  # fmt: skip


@pytest.mark.parametrize(("what", "pods", "spec", "create", "delete"), STEPS, ids=[s[0] for s in STEPS])
def test_statefulset_steps(
    what: str, pods: list[tuple[int, str, str]], spec: Obj, create: list[int], delete: list[int]
) -> None:
    owner: Obj = {"metadata": {"name": "db"}, "spec": {"replicas": 3, **spec}}
    step = stateful.plan_step(owner, stateful.parse_settings(owner), stateful_pods(*pods), "old", "new", NOW)
    assert [n for n, _ in step.create] == create
    assert [stateful.ordinal_of(owner, p) for p in step.delete] == delete


def test_below_the_partition_pods_come_back_as_they_were() -> None:
    owner: Obj = {
        "metadata": {"name": "db"},
        "spec": {"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}},
    }
    step = stateful.plan_step(owner, stateful.parse_settings(owner), [], "old", "new", NOW)
    assert step.create == ((0, "old"),)
