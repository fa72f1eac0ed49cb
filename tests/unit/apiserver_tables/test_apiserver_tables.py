"""What kubectl get prints: name, object, cells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from podwire.apiserver.kinds import Kind
from podwire.apiserver.printers import jsonpath
from podwire.apiserver.printers.column import duration
from podwire.apiserver.printers.pods import summary
from podwire.apiserver.tables import PRINTERS, printer_for, table
from podwire.model.objects import timestamp

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def ago(**kwargs: int) -> str:
    return timestamp(NOW - timedelta(**kwargs))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (130, "2m10s"), (600, "10m"),
     (10799, "179m"), (10800, "3h"), (11100, "3h5m"), (28800, "8h"), (172799, "47h"), (172800, "2d"),
     (180000, "2d2h"), (691200, "8d"), (63072000, "2y"), (63158400, "2y1d"), (3e8, "9y")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def waiting(name: str, reason: str, restarts: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "restartCount": restarts, "state": {"waiting": {"reason": reason}}, **more}


def running(name: str, ready: bool = True, **more: Any) -> dict[str, Any]:
    return {"name": name, "restartCount": 0, "ready": ready, "state": {"running": {}}, **more}


def ended(name: str, code: int = 0, reason: str = "", signal: int = 0) -> dict[str, Any]:
    state = {"exitCode": code, "reason": reason, "signal": signal}
    return {"name": name, "restartCount": 0, "state": {"terminated": state}}


CRASHED = {"lastState": {"terminated": {"finishedAt": ago(minutes=5)}}}
ONE, TWO = [{"name": "a"}], [{"name": "a"}, {"name": "b"}]
SIDECAR = {"name": "s", "restartPolicy": "Always"}
# name, spec, status, (ready, status, restarts)
PODS: list[tuple[str, dict[str, Any], dict[str, Any], tuple[str, str, str]]] = [
    ("pending", {"containers": ONE}, {"phase": "Pending"}, ("0/1", "Pending", "0")),
    ("creating", {"containers": ONE}, {"phase": "Pending", "containerStatuses": [waiting("a", "ContainerCreating")]},
     ("0/1", "ContainerCreating", "0")),
    ("running", {"containers": TWO}, {"phase": "Running", "containerStatuses": [running("a"), running("b", False)]},
     ("1/2", "Running", "0")),
    ("crash loop", {"containers": ONE},
     {"phase": "Running", "containerStatuses": [waiting("a", "CrashLoopBackOff", 3, **CRASHED)]},
     ("0/1", "CrashLoopBackOff", "3 (5m ago)")),
    ("completed", {"containers": ONE}, {"phase": "Succeeded", "containerStatuses": [ended("a", 0, "Completed")]},
     ("0/1", "Completed", "0")),
    ("error", {"containers": ONE}, {"phase": "Failed", "containerStatuses": [ended("a", 1, "Error")]},
     ("0/1", "Error", "0")),
    ("killed by a signal", {"containers": ONE}, {"phase": "Failed", "containerStatuses": [ended("a", 137, "", 9)]},
     ("0/1", "Signal:9", "0")),
    ("one done, one runs", {"containers": TWO},
     {"phase": "Running", "containerStatuses": [ended("a", 0, "Completed"), running("b")],
      "conditions": [{"type": "Ready", "status": "False"}]}, ("1/2", "NotReady", "0")),
    ("first init runs", {"containers": ONE, "initContainers": TWO},
     {"phase": "Pending", "initContainerStatuses": [running("a", False), waiting("b", "PodInitializing")]},
     ("0/1", "Init:0/2", "0")),
    ("second init waits", {"containers": ONE, "initContainers": TWO},
     {"phase": "Pending", "initContainerStatuses": [ended("a", 0, "Completed"), waiting("b", "PodInitializing")]},
     ("0/1", "Init:1/2", "0")),
    ("init crash loop", {"containers": ONE, "initContainers": ONE},
     {"phase": "Pending", "initContainerStatuses": [waiting("a", "CrashLoopBackOff", 2)]},
     ("0/1", "Init:CrashLoopBackOff", "2")),
    ("init failed", {"containers": ONE, "initContainers": ONE},
     {"phase": "Failed", "initContainerStatuses": [ended("a", 2)]}, ("0/1", "Init:ExitCode:2", "0")),
    ("init done", {"containers": ONE, "initContainers": ONE},
     {"phase": "Pending", "initContainerStatuses": [ended("a", 0, "Completed")],
      "containerStatuses": [waiting("a", "PodInitializing")]}, ("0/1", "PodInitializing", "0")),
    ("sidecar", {"containers": ONE, "initContainers": [SIDECAR]},
     {"phase": "Running", "initContainerStatuses": [running("s", started=True)],
      "containerStatuses": [running("a")]}, ("2/2", "Running", "0")),
    ("gated", {"containers": ONE},
     {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]},
     ("0/1", "SchedulingGated", "0")),
    ("evicted", {"containers": ONE}, {"phase": "Failed", "reason": "Evicted"}, ("0/1", "Evicted", "0")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spec", "status", "cells"), PODS, ids=[p[0] for p in PODS])
def test_pods(name: str, spec: Any, status: Any, cells: Any) -> None:
    assert summary({"metadata": {"name": name}, "spec": spec, "status": status}, NOW) == cells


def test_deleting_pods_terminate_unless_finished() -> None:
    meta = {"name": "p", "deletionTimestamp": ago(seconds=1)}
    for phase, shown in (("Running", "Terminating"), ("Succeeded", "Succeeded")):
        assert summary({"metadata": meta, "status": {"phase": phase}}, NOW)[1] == shown


def cells(group: str, kind: str, obj: dict[str, Any]) -> list[Any]:
    obj = {"metadata": {"name": "x", "creationTimestamp": ago(minutes=3), **obj.pop("metadata", {})}, **obj}
    made = table(Kind(group, "v1", kind, "", ""), [obj], include_object="None", list_meta={}, now=NOW)
    assert len(made["rows"][0]["cells"]) == len(made["columnDefinitions"])
    return list(made["rows"][0]["cells"])


PORT = {"port": 80, "protocol": "TCP", "nodePort": 30080}
ROWS: list[tuple[str, str, dict[str, Any], list[Any]]] = [
    (
        "",
        "Service",
        {"spec": {"type": "NodePort", "clusterIPs": ["10.96.0.9"], "ports": [PORT], "selector": {"a": "b"}}},
        ["x", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP", "3m", "a=b"],
    ),
    (
        "",
        "Service",
        {"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9"}},
        ["x", "LoadBalancer", "10.96.0.9", "<pending>", "<none>", "3m", "<none>"],
    ),
    (
        "",
        "Service",
        {"spec": {"type": "ExternalName", "externalName": "example.org"}},
        ["x", "ExternalName", "<none>", "example.org", "<none>", "3m", "<none>"],
    ),
    (
        "",
        "Endpoints",
        {"subsets": [{"addresses": [{"ip": f"10.0.0.{i}"} for i in range(1, 6)], "ports": [{"port": 80}]}]},
        ["x", "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...", "3m"],
    ),
    ("", "Endpoints", {}, ["x", "<none>", "3m"]),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        {"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]},
        ["x", "IPv4", "80", "10.0.0.1", "3m"],
    ),
    (
        "apps",
        "Deployment",
        {
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "w"}},
                "template": {"spec": {"containers": [{"name": "c", "image": "nginx"}]}},
            },
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2},
        },
        ["x", "2/3", 3, 2, "3m", "c", "nginx", "app=w"],
    ),
    (
        "apps",
        "DaemonSet",
        {
            "spec": {"selector": {"matchLabels": {"app": "w"}}, "template": {"spec": {"containers": []}}},
            "status": {"numberReady": 2},
        },
        ["x", 0, 0, 2, 0, 0, "<none>", "3m", "", "", "app=w"],
    ),
    (
        "batch",
        "Job",
        {"spec": {"completions": 2}, "status": {"succeeded": 1, "startTime": ago(seconds=30)}},
        ["x", "Running", "1/2", "30s", "3m", "", "", "<none>"],
    ),
    (
        "batch",
        "CronJob",
        {"spec": {"schedule": "* * * * *"}, "status": {"lastScheduleTime": ago(seconds=30)}},
        ["x", "* * * * *", "<none>", "False", 0, "30s", "3m", "", "", "<none>"],
    ),
    (
        "",
        "Node",
        {
            "metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": True},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0"},
                "addresses": [{"type": "InternalIP", "address": "192.168.71.10"}],
            },
        },
        [
            "x",
            "Ready,SchedulingDisabled",
            "control-plane",
            "3m",
            "v1.36.0",
            "192.168.71.10",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>",
        ],
    ),
    ("", "ConfigMap", {"data": {"a": "1", "b": "2"}}, ["x", 2, "3m"]),
    (
        "networking.k8s.io",
        "NetworkPolicy",
        {
            "spec": {
                "podSelector": {
                    "matchLabels": {"a": "b"},
                    "matchExpressions": [{"key": "k", "operator": "NotIn", "values": ["v"]}],
                }
            }
        },
        ["x", "a=b,k notin (v)", "3m"],
    ),
    (
        "networking.k8s.io",
        "Ingress",
        {"spec": {"rules": [{"host": "a.example"}, {}]}},
        ["x", "<none>", "a.example", "", "80", "3m"],
    ),
    (
        "rbac.authorization.k8s.io",
        "RoleBinding",
        {
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "namespace": "n", "name": "s"}],
        },
        ["x", "Role/r", "3m", "", "", "n/s"],
    ),
    (
        "",
        "Event",
        {
            "involvedObject": {"kind": "Pod", "name": "p"},
            "count": 4,
            "firstTimestamp": ago(minutes=2),
            "lastTimestamp": ago(seconds=20),
            "reason": "BackOff",
            "type": "Warning",
            "message": "m\n",
            "source": {"component": "kubelet", "host": "node-0"},
        },
        ["20s (x4 over 2m)", "Warning", "BackOff", "pod/p", "", "kubelet, node-0", "m", "2m", 4, "x"],
    ),
    ("policy", "PodDisruptionBudget", {"spec": {"minAvailable": 1}}, ["x", "1", "N/A", 0, "3m"]),
    ("example.org", "Whatever", {}, ["x", "3m"]),
]


@pytest.mark.parametrize(("group", "kind", "obj", "row"), ROWS, ids=[f"{r[1]}{i}" for i, r in enumerate(ROWS)])
def test_rows(group: str, kind: str, obj: Any, row: Any) -> None:
    assert cells(group, kind, dict(obj)) == row


def test_every_printer_fills_its_columns_even_for_an_empty_object() -> None:
    for (group, kind), printer in PRINTERS.items():
        bare: dict[str, Any] = {"metadata": {"name": "x"}}
        assert len(printer.cells(bare, NOW)) == len(printer.columns), (group, kind)
        bare = {"metadata": {"name": "x"}, "spec": {}, "status": {}}
        assert len(printer.cells(bare, NOW)) == len(printer.columns), (group, kind)


CRD_COLUMNS = [
    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
    {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
    {"name": "Hosts", "type": "string", "jsonPath": ".spec.hosts[*]", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


def test_custom_resources_print_their_own_columns() -> None:
    obj = {
        "metadata": {"name": "x", "creationTimestamp": ago(minutes=3)},
        "spec": {"replicas": 3, "hosts": ["a", "b"]},
        "status": {"conditions": [{"type": "Other", "status": "X"}, {"type": "Ready", "status": "True"}]},
    }
    printer = printer_for("example.org", "Thing", CRD_COLUMNS)
    assert printer.cells(obj, NOW) == ["x", 3, "True", "a,b", "3m"]
    assert [c.priority for c in printer.columns] == [0, 0, 0, 1, 0]
    assert printer.cells({"metadata": {"name": "y"}}, NOW) == ["y", None, None, None, "<unknown>"]


@pytest.mark.parametrize(
    ("path", "values"),
    [(".a.b", [1]), (".l[0]", [{"n": "x"}]), (".l[-1].n", ["y"]), (".l[*].n", ["x", "y"]), (".none.at.all", []),
     (r".m.a\.b/c", [2]), (".m['a.b/c']", [2]), ('.l[?(@.n=="y")].n', ["y"]), ("{.a.b}", [1]), ("a.b", [1])],
)  # fmt: skip
def test_jsonpath(path: str, values: list[Any]) -> None:
    document = {"a": {"b": 1}, "l": [{"n": "x"}, {"n": "y"}], "m": {"a.b/c": 2}}
    assert jsonpath.find(document, path) == values
