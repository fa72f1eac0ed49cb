"""Service and slices -> frontends, read as a table."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from podwire.model.objects import Obj
from podwire.proxy.desired import Frontend, Here, ServiceRules
from podwire.proxy.plan import plan_service

HERE = Here("n1", (ip_address("192.168.71.10"), ip_address("fd00:71::10")), zone="a")


def service(labels: dict[str, str] | None = None, status: Obj | None = None, **spec: Any) -> Obj:
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]
    base = {"type": "ClusterIP", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": ports}
    meta = {"namespace": "default", "name": "web", "labels": labels or {}, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"kind": "Service", "metadata": meta, "spec": base | spec, "status": status or {}}


def ep(last: int, node: str = "n1", flags: str = "ready", **hints: list[str]) -> Obj:
    """``flags``: ready, serving (and terminating), or dead."""
    conditions = {
        "ready": {"ready": True, "serving": True, "terminating": False},
        "serving": {"ready": False, "serving": True, "terminating": True},
        "dead": {"ready": False, "serving": False, "terminating": True},
    }[flags]
    e: Obj = {"addresses": [f"10.244.1.{last}"], "conditions": conditions, "nodeName": node}
    if hints:
        e["hints"] = {f"for{k.title()}": [{"name": n} for n in v] for k, v in hints.items()}
    return e


def piece(*endpoints: Obj, port: int = 8080, name: str = "http", protocol: str = "TCP") -> Obj:
    return {
        "kind": "EndpointSlice", "metadata": {"namespace": "default", "name": "web-1"}, "addressType": "IPv4",
        "ports": [{"name": name, "port": port, "protocol": protocol}], "endpoints": list(endpoints),
    }  # fmt: skip


def plan(s: Obj, *endpoints: Obj) -> ServiceRules:
    return plan_service(s, [piece(*endpoints)], HERE)


def only(rules: ServiceRules) -> Frontend:
    (frontend,) = rules.frontends
    return frontend


def lasts(frontend: Frontend, local: bool = False) -> list[int]:
    targets = frontend.local_targets if local else frontend.targets
    return [int(str(t.address).rsplit(".", 1)[1]) for t in targets]


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        ([ep(2), ep(1)], [1, 2], [1, 2]),
        ([ep(1), ep(2, "n2")], [1, 2], [1]),
        ([ep(1, flags="serving"), ep(2, "n2")], [2], [1]),  # decided separately for Cluster and Local
        ([ep(1, flags="serving"), ep(2, "n2", "serving")], [1, 2], [1]),
        ([ep(1, flags="dead")], [], []),
        ([ep(1, "n2", "dead"), ep(2, "n2", "serving")], [2], []),
        ([], [], []),
    ],
)
def test_which_endpoints_serve(endpoints: list[Obj], cluster: list[int], local: list[int]) -> None:
    s = service(type="NodePort", externalTrafficPolicy="Local")
    inside, outside = plan(s, *endpoints).frontends
    assert (inside.exposure, lasts(inside)) == ("cluster", cluster)
    assert (outside.exposure, lasts(outside), lasts(outside, local=True)) == ("external-local", cluster, local)


@pytest.mark.parametrize(
    ("endpoints", "expected", "refusal"),
    [([ep(1), ep(2, "n2")], [1], "drop"), ([ep(2, "n2")], [], "drop"), ([], [], "reject")],
)
def test_internal_policy_local(endpoints: list[Obj], expected: list[int], refusal: str) -> None:
    frontend = only(plan(service(internalTrafficPolicy="Local"), *endpoints))
    assert (lasts(frontend), frontend.refusal) == (expected, refusal)


@pytest.mark.parametrize(
    "s",
    [
        service(clusterIP="None"),
        service(clusterIP=""),
        service(type="ExternalName"),
        service(labels={"service.kubernetes.io/service-proxy-name": "other"}),
    ],
    ids=["headless", "no address yet", "external name", "another proxy"],
)
def test_what_is_not_ours(s: Obj) -> None:
    assert plan(s, ep(1)).frontends == ()


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([ep(1, zones=["a"]), ep(2, zones=["b"])], [1]),
        ([ep(1, zones=["b"]), ep(2, zones=["c"])], [1, 2]),
        ([ep(1, zones=["a"]), ep(2)], [1, 2]),
        ([ep(1, nodes=["n2"], zones=["a"]), ep(2, nodes=["n1"], zones=["a"])], [2]),
        ([ep(1, nodes=["n2"], zones=["a"]), ep(2, nodes=["n3"], zones=["b"])], [1]),
    ],
    ids=["own zone", "no zone fits", "half hinted", "own node", "node falls back to zone"],
)
def test_hints(endpoints: list[Obj], expected: list[int]) -> None:
    assert lasts(only(plan(service(), *endpoints))) == expected


def test_addresses_of_a_load_balancer() -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"},
                                           {"hostname": "lb.example"}]}}  # fmt: skip
    s = service(status=status, type="LoadBalancer", externalIPs=["198.51.100.9"],
                loadBalancerSourceRanges=["10.0.0.0/8", "fd00::/8"])  # fmt: skip
    rules = plan(s, ep(1))
    seen = {(str(f.key.address), f.key.port, f.sources is not None) for f in rules.frontends}
    assert seen == {
        ("10.96.0.5", 80, False),
        ("198.51.100.9", 80, False),
        ("203.0.113.1", 80, True),
        ("192.168.71.10", 30080, False),
    }
    (balanced,) = [f for f in rules.frontends if f.sources is not None]
    assert [str(n) for n in balanced.sources or ()] == ["10.0.0.0/8"]


def test_dual_stack_uses_each_familys_endpoints() -> None:
    s = service(clusterIPs=["10.96.0.5", "fd00:96::5"], type="NodePort")
    six = piece() | {"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"], "conditions": {"ready": True}}]}
    rules = plan_service(s, [piece(ep(1)), six], HERE)
    seen = {str(f.key.address): str(f.targets[0].address) for f in rules.frontends}
    assert seen == {"10.96.0.5": "10.244.1.1", "192.168.71.10": "10.244.1.1", "fd00:96::5": "fd00::1",
                    "fd00:71::10": "fd00::1"}  # fmt: skip


def test_named_ports_take_each_slices_own_number() -> None:
    rules = plan_service(service(), [piece(ep(1), port=8080), piece(ep(2), port=9090)], HERE)
    assert [(str(t.address), t.port) for t in only(rules).targets] == [("10.244.1.1", 8080), ("10.244.1.2", 9090)]


def test_an_endpoint_in_two_slices_counts_once_and_ready_wins() -> None:
    rules = plan_service(service(), [piece(ep(1, flags="dead")), piece(ep(1))], HERE)
    assert lasts(only(rules)) == [1]


@pytest.mark.parametrize(
    ("s", "endpoint", "field"),
    [
        (service(externalIPs=["172.30.0.041"]), ep(1), "spec.externalIPs"),
        (service(ports=[{"port": 0}]), ep(1), "spec.ports[0].port"),
        (service(ports=[{"name": "http", "port": 80, "protocol": "ICMP"}]), ep(1), "spec.ports[0].protocol"),
        (service(), {"addresses": ["127.0.0.1"]}, "endpoints"),
        (service(), {"addresses": ["10.0.0.256"]}, "endpoints"),
    ],
)
def test_bad_values_become_problems_and_nothing_else_suffers(s: Obj, endpoint: Obj, field: str) -> None:
    rules = plan(s, endpoint, ep(7))
    assert [p.field for p in rules.problems] == [field]
    assert rules.problems[0].object == "Service default/web"
    if not field.startswith("spec.ports"):
        assert 7 in lasts(only(rules))


def test_a_source_range_that_cannot_be_read_admits_nobody() -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}
    rules = plan(service(status=status, type="LoadBalancer", loadBalancerSourceRanges=["everyone"]), ep(1))
    assert [f.sources for f in rules.frontends if str(f.key.address) == "203.0.113.1"] == [()]


def test_equal_clusters_plan_equally() -> None:
    one = plan_service(service(), [piece(ep(1), ep(2)), piece(ep(3))], HERE)
    two = plan_service(service(), [piece(ep(3)), piece(ep(2), ep(1))], HERE)
    assert one == two


def test_affinity_seconds() -> None:
    assert only(plan(service(sessionAffinity="ClientIP"), ep(1))).affinity_s == 10800
    config = {"clientIP": {"timeoutSeconds": 60}}
    assert only(plan(service(sessionAffinity="ClientIP", sessionAffinityConfig=config), ep(1))).affinity_s == 60
