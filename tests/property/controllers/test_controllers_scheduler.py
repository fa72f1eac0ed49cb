"""Whatever the scheduler decides keeps the rules, checked by a second, naive reading of the objects."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.controllers.scheduler.cluster import Cluster
from podwire.controllers.scheduler.values import parse_node, parse_pod
from podwire.model.objects import Obj

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
APPS = ["a", "b"]


@st.composite
def nodes(draw: st.DrawFn) -> list[Obj]:
    made = []
    for i in range(draw(st.integers(1, 5))):
        taints = [{"key": "gpu", "value": "", "effect": "NoSchedule"}] if draw(st.booleans()) else []
        made.append({
            "metadata": {"name": f"n{i}", "labels": {
                "kubernetes.io/hostname": f"n{i}", "zone": draw(st.sampled_from(["x", "y"])), "disk": draw(st.sampled_from(["ssd", "hdd"])),
            }},
            "spec": {"taints": taints, "unschedulable": draw(st.integers(0, 9)) == 0},
            "status": {"allocatable": {"cpu": str(draw(st.integers(1, 3))), "memory": "4Gi", "pods": str(draw(st.integers(0, 6)))}},
        })  # fmt: skip
    return made


@st.composite
def pods(draw: st.DrawFn) -> list[Obj]:
    made = []
    for i in range(draw(st.integers(1, 14))):
        app = draw(st.sampled_from(APPS))
        spec: Obj = {"containers": [{
            "name": "c", "resources": {"requests": {"cpu": f"{draw(st.integers(1, 12)) * 100}m"}},
            "ports": [{"containerPort": 80, "hostPort": draw(st.sampled_from([80, 81]))}] if draw(st.integers(0, 4)) == 0 else [],
        }]}  # fmt: skip
        if draw(st.booleans()):
            spec["tolerations"] = [{"key": "gpu", "operator": "Exists"}]
        if draw(st.integers(0, 3)) == 0:
            spec["nodeSelector"] = {"disk": "ssd"}
        kind = draw(st.integers(0, 4))
        term = {
            "labelSelector": {"matchLabels": {"app": app}},
            "topologyKey": draw(st.sampled_from(["zone", "kubernetes.io/hostname"])),
        }
        if kind == 0:
            spec["affinity"] = {"podAntiAffinity": {REQUIRED: [term]}}
        elif kind == 1:
            spec["topologySpreadConstraints"] = [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": app}}}]  # fmt: skip
        made.append(
            {"metadata": {"name": f"p{i}", "namespace": "d", "uid": f"u{i}", "labels": {"app": app}}, "spec": spec}
        )
    return made


def milli(pod: Obj) -> int:
    return int(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"][:-1])


def host_ports(pod: Obj) -> set[int]:
    return {p["hostPort"] for p in pod["spec"]["containers"][0]["ports"]}


def terms(pod: Obj) -> list[Any]:
    return ((pod["spec"].get("affinity") or {}).get("podAntiAffinity") or {}).get(REQUIRED) or []


def allowed(pod: Obj, node: Obj, placed: list[tuple[Obj, Obj]]) -> bool:
    """Return whether the rules let ``pod`` run on ``node`` beside what is ``placed``."""
    here = [p for p, n in placed if n is node]
    labels, spec = node["metadata"]["labels"], pod["spec"]
    if node["spec"]["unschedulable"] or (node["spec"]["taints"] and not spec.get("tolerations")):
        return False
    if any(labels.get(k) != v for k, v in (spec.get("nodeSelector") or {}).items()):
        return False
    if len(here) + 1 > int(node["status"]["allocatable"]["pods"]):
        return False
    if sum(map(milli, here)) + milli(pod) > 1000 * int(node["status"]["allocatable"]["cpu"]):
        return False
    if any(host_ports(pod) & host_ports(p) for p in here):
        return False
    app = pod["metadata"]["labels"]["app"]
    for other, where in placed:
        same = other["metadata"]["labels"]["app"] == app
        for term in [*terms(pod), *terms(other)]:
            if same and where["metadata"]["labels"][term["topologyKey"]] == labels[term["topologyKey"]]:
                return False
    return True


def skew_kept(pod: Obj, node: Obj, placed: list[tuple[Obj, Obj]], every: list[Obj]) -> bool:
    if not pod["spec"].get("topologySpreadConstraints"):
        return True
    selector = pod["spec"].get("nodeSelector") or {}
    zones = {
        n["metadata"]["labels"]["zone"] for n in every
        if all(n["metadata"]["labels"].get(k) == v for k, v in selector.items())
    }  # fmt: skip
    app = pod["metadata"]["labels"]["app"]
    eligible = [n for n in every if all(n["metadata"]["labels"].get(k) == v for k, v in selector.items())]
    counts = Counter(
        n["metadata"]["labels"]["zone"] for p, n in placed if p["metadata"]["labels"]["app"] == app and any(n is e for e in eligible)
    )  # fmt: skip
    counts[node["metadata"]["labels"]["zone"]] += 1
    return counts[node["metadata"]["labels"]["zone"]] - min(counts[z] for z in zones) <= 1


@settings(max_examples=300, deadline=None)
@given(nodes(), pods())
def test_no_placement_breaks_a_rule_and_none_is_refused_without_one(every: list[Obj], wanted: list[Obj]) -> None:
    cluster = Cluster()
    for node in every:
        cluster.set_node(parse_node(node))
    by_name = {n["metadata"]["name"]: n for n in every}
    placed: list[tuple[Obj, Obj]] = []
    for pod in wanted:
        facts = parse_pod(pod)
        placement = cluster.choose(facts)
        fitting = [n for n in every if allowed(pod, n, placed) and skew_kept(pod, n, placed, every)]
        if not placement.node:
            assert not fitting, placement.message
            continue
        assert any(by_name[placement.node] is n for n in fitting)
        cluster.place(facts, placement.node)
        placed.append((pod, by_name[placement.node]))
