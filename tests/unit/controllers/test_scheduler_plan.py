"""Where pods go, and in which words it is said when they go nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.controllers.scheduler.cluster import Cluster
from podwire.controllers.scheduler.quantity import parse_milli, parse_whole
from podwire.controllers.scheduler.values import parse_node, parse_pod, pod_requests
from podwire.model.objects import Obj

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def node(name: str, cpu: str = "4", pods: str = "110", taints: Any = None, **labels: str) -> Obj:
    spec: Obj = {"taints": taints} if taints else {}
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        "spec": spec,
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": pods}},
    }


def pod(name: str, cpu: str = "100m", labels: dict[str, str] | None = None, **spec: Any) -> Obj:
    containers = spec.pop("containers", [{"name": "c", "resources": {"requests": {"cpu": cpu}}}])
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels or {}},
        "spec": {"containers": containers, **spec},
    }


def cluster(*nodes: Obj, **running: Obj) -> Cluster:
    made = Cluster()
    for n in nodes:
        made.set_node(parse_node(n))
    return made


def put(made: Cluster, obj: Obj, where: str) -> None:
    made.place(parse_pod(obj), where)


def message(made: Cluster, obj: Obj) -> str:
    return made.choose(parse_pod(obj)).message


@pytest.mark.parametrize(
    ("quantity", "milli", "whole"),
    [
        ("250m", 250, 1), ("1", 1000, 1), ("1.5", 1500, 2), (2, 2000, 2), ("1Gi", 2**30 * 1000, 2**30),
        ("1e3", 1000000, 1000), ("100M", 10**11, 10**8), ("0.5Ki", 512000, 512), ("nonsense", 0, 0), ("1E", 10**21, 10**18),
    ],
)  # fmt: skip
def test_quantities(quantity: Any, milli: int, whole: int) -> None:
    assert (parse_milli(quantity), parse_whole(quantity)) == (milli, whole)


def test_requests_take_the_larger_of_init_steps_and_running_containers_with_sidecars() -> None:
    def c(cpu: str, **more: Any) -> Obj:
        return {"name": "x", "resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "initContainers": [c("50m", restartPolicy="Always"), c("500m")],
        "containers": [c("100m"), c("200m")],
        "overhead": {"cpu": "10m"},
    }
    assert pod_requests(spec)["cpu"] == 560  # sidecar 50 + init 500, more than 50 + 300; overhead on top


def test_pods_spread_over_equal_nodes() -> None:
    made = cluster(node("a"), node("b"), node("c"))
    homes = []
    for i in range(6):
        facts = parse_pod(pod(f"p{i}", labels={"app": "web"}))
        homes.append(made.choose(facts).node)
        made.place(facts, homes[-1])
    assert sorted(homes) == ["a", "a", "b", "b", "c", "c"]


REFUSALS: list[tuple[str, list[Obj], Obj, str]] = [
    ("cpu", [node("a"), node("b")], pod("p", cpu="5"), "0/2 nodes are available: 2 Insufficient cpu."),
    ("full", [node("a", pods="0")], pod("p"), "0/1 nodes are available: 1 Too many pods."),
    (
        "selector", [node("a")], pod("p", nodeSelector={"disk": "ssd"}),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
    ),
    (
        "taint", [node("a", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]), node("b", cpu="0")], pod("p"),
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}.",
    ),
    (
        "empty affinity term", [node("a")],
        pod("p", affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{}]}}}),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
    ),
    (
        "no node like that to be near to", [node("a")],
        pod("p", affinity={"podAffinity": {REQUIRED: [
            {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"}]}}),
        "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
    ),
    (
        "missing topology label", [node("a")],
        pod("p", labels={"a": "b"}, topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}}}]),
        "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label).",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("why", "nodes", "wanted", "text"), REFUSALS, ids=[r[0] for r in REFUSALS])
def test_refusals_read_like_kubes(why: str, nodes: list[Obj], wanted: Obj, text: str) -> None:
    assert message(cluster(*nodes), wanted) == text + " preemption: not done by this scheduler."


def test_no_nodes_at_all() -> None:
    assert message(cluster(), pod("p")) == "no nodes available to schedule pods"


def test_a_cordoned_node_takes_only_those_that_tolerate_it() -> None:
    cordoned = node("a")
    cordoned["spec"]["unschedulable"] = True
    made = cluster(cordoned)
    assert message(made, pod("p")).startswith("0/1 nodes are available: 1 node(s) were unschedulable.")
    tolerant = pod("p", tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
    assert made.choose(parse_pod(tolerant)).node == "a"


def test_host_ports_exclude_each_other_per_address_and_protocol() -> None:
    def with_port(name: str, **port: Any) -> Obj:
        return pod(name, containers=[{"name": "c", "ports": [{"containerPort": 80, **port}]}])

    made = cluster(node("a"))
    put(made, with_port("one", hostPort=80, hostIP="127.0.0.1"), "a")
    assert "free ports" in message(made, with_port("two", hostPort=80))
    assert "free ports" in message(made, with_port("two", hostPort=80, hostIP="127.0.0.1"))
    assert made.choose(parse_pod(with_port("two", hostPort=80, hostIP="127.0.0.2"))).node == "a"
    assert made.choose(parse_pod(with_port("two", hostPort=80, protocol="UDP"))).node == "a"


def apart(labels: dict[str, str], key: str = "kubernetes.io/hostname") -> Obj:
    return {"podAntiAffinity": {REQUIRED: [{"labelSelector": {"matchLabels": labels}, "topologyKey": key}]}}


def test_anti_affinity_holds_both_ways() -> None:
    made = cluster(node("a"), node("b"))
    put(made, pod("guard", labels={"app": "x"}, affinity=apart({"app": "x"})), "a")
    assert made.choose(parse_pod(pod("plain", labels={"app": "x"}))).node == "b"
    put(made, pod("plain", labels={"app": "x"}), "b")
    said = message(made, pod("third", labels={"app": "x"}, affinity=apart({"app": "x"})))
    assert "2 node(s) didn't match pod anti-affinity rules" in said
    said = message(made, pod("fourth", labels={"app": "x"}))
    assert said == ""  # it minds nobody, and on b nobody minds it


def test_the_first_of_a_group_that_wants_to_be_together_goes_anywhere() -> None:
    near = {
        "podAffinity": {
            REQUIRED: [{"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}]
        }
    }
    made = cluster(node("a"), node("b"))
    first = parse_pod(pod("one", labels={"app": "x"}, affinity=near))
    home = made.choose(first).node
    made.place(first, home)
    assert made.choose(parse_pod(pod("two", labels={"app": "x"}, affinity=near))).node == home


def test_spread_keeps_the_skew() -> None:
    made = cluster(*(node(f"n{i}", zone="abc"[i % 3]) for i in range(6)))
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                  "labelSelector": {"matchLabels": {"app": "w"}}}  # fmt: skip
    zones = []
    for i in range(9):
        facts = parse_pod(pod(f"p{i}", labels={"app": "w"}, topologySpreadConstraints=[constraint]))
        home = made.choose(facts).node
        made.place(facts, home)
        zones.append(made.nodes[home].labels["zone"])
    assert sorted(zones) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


def test_preferences_decide_between_nodes_that_both_do() -> None:
    made = cluster(node("a"), node("b", disk="ssd"))
    wish = {"weight": 100, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}
    assert made.choose(parse_pod(pod("p", affinity={"nodeAffinity": {PREFERRED: [wish]}}))).node == "b"


def test_match_fields_pins_to_a_node() -> None:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}
    made = cluster(node("a"), node("b"))
    pinned = pod("p", affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}})
    assert made.choose(parse_pod(pinned)).node == "b"


def test_pods_of_a_node_that_returns_still_count() -> None:
    made = cluster(node("a", cpu="1"))
    put(made, pod("p", cpu="800m"), "a")
    made.remove_node("a")
    made.set_node(parse_node(node("a", cpu="1")))
    assert "Insufficient cpu" in message(made, pod("q", cpu="500m"))
    made.remove("p")
    assert made.choose(parse_pod(pod("q", cpu="500m"))).node == "a"
