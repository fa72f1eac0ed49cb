"""The pure floors of a pod: its environment, files, names, classes and quantities."""

from __future__ import annotations

from fractions import Fraction
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.node import quantity
from podwire.node.pod import files, spec
from podwire.node.pod.backoff import CrashBackoff
from podwire.node.pod.environment import ConfigError, PodFacts, environment, expand, service_variables

FACTS = PodFacts(
    "node-0", (ip_address("192.168.71.10"),), (ip_address("10.244.0.2"), ip_address("fd00::2")), {"cpu": "2"}
)


def pod(**more: Any) -> dict[str, Any]:
    meta = {"name": "web-0", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}, "annotations": {"n": 'a "b"'}}
    return {"metadata": meta, "spec": {"containers": [{"name": "c"}], **more}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100m", Fraction(1, 10)), ("2", 2), ("1.5", Fraction(3, 2)), ("64Mi", 64 << 20), ("1e3", 1000),
        ("1E", 10**18), ("1Ei", 1 << 60), (".5", Fraction(1, 2)), (3, 3), ("12E-1", Fraction(12, 10)),
    ],
)  # fmt: skip
def test_quantity(text: str, value: Fraction):
    assert quantity.parse(text) == value


@pytest.mark.parametrize("text", ["", "x", "1KiB", "1 2", "--1"])
def test_quantity_refuses(text: str):
    with pytest.raises(ValueError, match="no quantity"):
        quantity.parse(text)


def test_divide_rounds_up():
    assert quantity.divide("1500m", "1") == "2"
    assert quantity.divide("1500m", "1m") == "1500"
    assert quantity.divide("100Mi", "1Mi") == "100"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("$$$(A)", "$1"), ("$A", "$A"), ("$(A", "$(A"), ("", ""),
        ("100$", "100$"),
    ],
)  # fmt: skip
def test_expand(text: str, wanted: str):
    assert expand(text, {"A": "1"}) == wanted


@given(st.text())
def test_text_without_dollars_is_left_alone(text: str):
    text = text.replace("$", "")
    assert expand(text, {"A": "1"}) == text


OBJECTS = {
    ("ConfigMap", "cm"): {"kind": "ConfigMap", "data": {"k": "v", "1bad name": "x"}},
    ("Secret", "s"): {"kind": "Secret", "data": {"p": "aHVudGVyMg=="}},
}


def env_of(entries: list[dict[str, Any]], **container: Any) -> dict[str, str]:
    c = {"name": "c", "env": entries, "resources": {"limits": {"memory": "64Mi"}}, **container}
    return environment(pod(), c, {"SVC_SERVICE_HOST": "10.96.0.7"}, lambda k, n: OBJECTS.get((k, n)), FACTS)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ({"fieldRef": {"fieldPath": "metadata.name"}}, "web-0"),
        ({"fieldRef": {"fieldPath": "metadata.labels['app']"}}, "web"),
        ({"fieldRef": {"fieldPath": "metadata.annotations['none']"}}, ""),
        ({"fieldRef": {"fieldPath": "status.podIPs"}}, "10.244.0.2,fd00::2"),
        ({"fieldRef": {"fieldPath": "status.hostIP"}}, "192.168.71.10"),
        ({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}, "64"),
        ({"resourceFieldRef": {"resource": "limits.cpu"}}, "2"),
        ({"resourceFieldRef": {"resource": "requests.cpu"}}, "0"),
        ({"configMapKeyRef": {"name": "cm", "key": "k"}}, "v"),
        ({"secretKeyRef": {"name": "s", "key": "p"}}, "hunter2"),
        ({"secretKeyRef": {"name": "s", "key": "none", "optional": True}}, None),
        ({"configMapKeyRef": {"name": "none", "key": "k", "optional": True}}, None),
    ],
)
def test_value_from(source: dict[str, Any], wanted: str | None):
    assert env_of([{"name": "X", "valueFrom": source}]).get("X") == wanted


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"configMapKeyRef": {"name": "none", "key": "k"}}, 'configmap "none" not found'),
        ({"secretKeyRef": {"name": "s", "key": "q"}}, "couldn't find key q in Secret shop/s"),
        ({"fieldRef": {"fieldPath": "spec.banana"}}, "unsupported fieldPath: spec.banana"),
    ],
)
def test_value_from_refuses(source: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        env_of([{"name": "X", "valueFrom": source}])


def test_env_order_and_references():
    env = env_of(
        [{"name": "A", "value": "$(SVC_SERVICE_HOST)"}, {"name": "B", "value": "$(A)/$(k)/$(C)"}, {"name": "C"}],
        envFrom=[{"configMapRef": {"name": "cm"}}, {"prefix": "S_", "secretRef": {"name": "s"}}],
    )
    assert env["B"] == "10.96.0.7/v/$(C)"
    assert env["S_p"] == "hunter2"
    assert env["C"] == ""
    assert "1bad name" not in env


def service(name: str, namespace: str, ip: str = "10.96.0.7", *ports: dict[str, Any]) -> dict[str, Any]:
    spec = {"clusterIP": ip, "ports": list(ports) or [{"port": 80}]}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def test_service_variables():
    values = service_variables(
        [
            service("my-db", "shop", "10.96.0.7", {"name": "sql", "port": 5432}, {"name": "dns", "port": 53, "protocol": "UDP"}),
            service("kubernetes", "default", "10.96.0.1", {"name": "https", "port": 443}),
            service("headless", "shop", "None"),
            service("elsewhere", "other"),
        ],
        "shop",
        links=True,
    )  # fmt: skip
    assert values["MY_DB_SERVICE_HOST"] == "10.96.0.7"
    assert values["MY_DB_SERVICE_PORT"] == values["MY_DB_SERVICE_PORT_SQL"] == "5432"
    assert values["MY_DB_PORT"] == values["MY_DB_PORT_5432_TCP"] == "tcp://10.96.0.7:5432"
    assert values["MY_DB_PORT_53_UDP_PROTO"] == "udp"
    assert values["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert not [k for k in values if k.startswith(("HEADLESS", "ELSEWHERE"))]


def test_service_variables_without_links_are_only_the_api():
    services = [service("web", "shop"), service("kubernetes", "default", "10.96.0.1")]
    assert set(service_variables(services, "shop", links=False)) == {
        "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_PORT", "KUBERNETES_PORT_80_TCP",
        "KUBERNETES_PORT_80_TCP_PROTO", "KUBERNETES_PORT_80_TCP_PORT", "KUBERNETES_PORT_80_TCP_ADDR",
    }  # fmt: skip


HOST_RESOLV = "# mine\nsearch lan\nnameserver 9.9.9.9\noptions edns0 ndots:1\n"
DNS = (ip_address("10.96.0.10"),)
CLUSTER = "search shop.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.96.0.10\noptions ndots:5\n"
DEFAULT = "search lan\nnameserver 9.9.9.9\noptions edns0 ndots:1\n"


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, CLUSTER),
        ({"dnsPolicy": "Default"}, DEFAULT),
        ({"hostNetwork": True}, DEFAULT),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}, CLUSTER),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"]}}, "search a.b\nnameserver 1.1.1.1\n"),
        (
            {"dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}], "nameservers": ["1.1.1.1"]}},
            CLUSTER.replace("options ndots:5\n", "nameserver 1.1.1.1\noptions ndots:2 rotate\n"),
        ),
    ],
)  # fmt: skip
def test_resolv_conf(more: dict[str, Any], wanted: str):
    assert files.resolv_conf(pod(**more), DNS, "cluster.local", HOST_RESOLV) == wanted


def test_hosts():
    aliases = [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]
    text = files.hosts(pod(hostAliases=aliases), FACTS.pod_ips, "web-0", "web-0.sub.shop.svc.cluster.local")
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert "10.244.0.2\tweb-0.sub.shop.svc.cluster.local\tweb-0\n" in text
    assert text.endswith("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n")
    assert "10.244.0.2\tweb-0\n" in files.hosts(pod(), FACTS.pod_ips, "web-0", "")


@pytest.mark.parametrize(
    ("name", "more", "wanted"),
    [
        ("web-0", {}, ("web-0", "")),
        ("web-0", {"hostname": "h"}, ("h", "")),
        ("web-0", {"subdomain": "s"}, ("web-0", "web-0.s.shop.svc.cluster.local")),
        ("web-0", {"subdomain": "s", "setHostnameAsFQDN": True}, ("web-0.s.shop.svc.cluster.local",) * 2),
        ("web-0", {"hostNetwork": True}, ("node-0", "")),
        ("a" * 62 + "-b", {}, ("a" * 62, "")),
    ],
)
def test_hostname(name: str, more: dict[str, Any], wanted: tuple[str, str]):
    p = pod(**more)
    p["metadata"]["name"] = name
    assert spec.hostname_of(p, "node-0", "cluster.local") == wanted


def resources(**sides: dict[str, str]) -> dict[str, Any]:
    return {"name": "c", "resources": sides}


@pytest.mark.parametrize(
    ("containers", "wanted"),
    [
        ([resources()], "BestEffort"),
        ([resources(requests={"cpu": "1"})], "Burstable"),
        ([resources(limits={"cpu": "1", "memory": "1Gi"})], "Guaranteed"),
        ([resources(limits={"cpu": "1", "memory": "1Gi"}, requests={"cpu": "1000m", "memory": "1024Mi"})], "Guaranteed"),
        ([resources(limits={"cpu": "1", "memory": "1Gi"}, requests={"cpu": "500m"})], "Burstable"),
        ([resources(limits={"cpu": "1", "memory": "1Gi"}), resources()], "Burstable"),
        ([resources(limits={"nvidia.com/gpu": "1"})], "BestEffort"),
    ],
)  # fmt: skip
def test_qos(containers: list[dict[str, Any]], wanted: str):
    assert spec.qos_class(pod(containers=containers)) == wanted


def test_crash_backoff_doubles_is_capped_and_forgets():
    b = CrashBackoff(10, 40)
    now, delays = 1000.0, []
    for _ in range(5):
        wait = b.wait_s(now, now)
        delays.append(wait)
        now += wait
        b.restarted(now, now)
    assert delays == [0, 10, 20, 40, 40]
    assert b.wait_s(now, now + 15) == 25
    assert b.wait_s(now + 81, now + 81) == 0
