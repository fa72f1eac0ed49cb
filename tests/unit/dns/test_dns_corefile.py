"""The guides' Corefile as it stands, and what is said about mistakes."""

from __future__ import annotations

import pytest

from podwire.dns.corefile import parse_corefile
from podwire.dns.manifests import corefile, objects
from podwire.model.errors import BadInput

GUIDE = """
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    # Kubernetes zone - handles cluster.local
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    # Prometheus metrics
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
"""


def test_the_guides_corefile() -> None:
    s = parse_corefile(GUIDE)
    assert s.kubernetes is not None
    assert s.forward is not None
    assert s.caching is not None
    assert (s.port, s.lameduck_s, s.caching.success_s, s.reload_s) == (53, 5.0, 30, 30.0)
    assert (s.health, s.ready, s.prometheus) == (("", 8080), ("", 8181), ("", 9153))
    assert s.kubernetes.zones == ("cluster.local", "in-addr.arpa", "ip6.arpa")
    assert (s.kubernetes.pods, s.kubernetes.ttl_s) == ("insecure", 30)
    assert s.kubernetes.fallthrough == ("in-addr.arpa", "ip6.arpa")
    assert (s.forward.to, s.forward.max_concurrent) == (("/etc/resolv.conf",), 1000)
    assert s.errors
    assert s.loop
    assert s.loadbalance


def test_ours_says_the_same_as_the_guides() -> None:
    assert parse_corefile(corefile("cluster.local")) == parse_corefile(GUIDE)


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        (".:53 {\n    kubernets cluster.local\n}", "line 2, column 5", "'kubernets' is not a directive"),
        (".:53 {\n    dnssec\n}", "line 2, column 5", "'dnssec' is not supported here"),
        (".:53 {\n  kubernetes cluster.local {\n    pods maybe\n  }\n}", "line 3, column 10", "insecure or verified"),
        (".:53 {\n  kubernetes a {\n    multicluster\n  }\n}", "line 3, column 5", "'multicluster' is not supported"),
        (".:53 {\n  kubernetes a {\n    labels in in\n  }\n}", "line 3, column 12", "not a label selector"),
        (".:53 {\n  forward . tls://9.9.9.9\n}", "line 2, column 13", "TLS is not supported"),
        (".:53 {\n  cache many\n}", "line 2, column 9", "a number"),
        (".:53 {\n  health {\n    lameduck soon\n  }\n}", "line 3, column 14", "duration"),
        (".:53 {\n  errors\n", "line 1, column 6", "no closing }"),
        (".:99999 {\n}", "line 1, column 1", "not a port"),
        ("tls://example.org {\n}", "line 1, column 1", "only plain DNS"),
        (".:53 {\n}\n.:53 {\n}", "line 3, column 1", "another block"),
        (".:53 {\n}\na.b:54 {\n}", "line 3, column 1", "one port"),
        (".:53 {\nkubernetes\n}\na.b {\n  kubernetes x\n}", "line 5, column 3", "one server block only"),
        (".:53 {\n  errors\n  errors\n}", "line 3, column 3", "twice"),
        (".:53 {\n  ready now\n}", "line 2, column 9", "PORT"),
        ('.:53 {\n  cache "30\n}', "line 2, column 9", "no end"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, where: str, why: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_corefile(text)
    assert where in str(caught.value)
    assert why in str(caught.value)


def test_hosts_entries() -> None:
    s = parse_corefile(".:53 {\n hosts {\n  10.0.0.1 a.example b.example.\n  fallthrough\n }\n}")
    assert s.hosts is not None
    assert s.hosts.entries == (("a.example", "10.0.0.1"), ("b.example", "10.0.0.1"))
    assert s.hosts.fallthrough == (b"\0",)


def test_the_objects_of_a_cluster() -> None:
    made = objects(["10.96.0.10", "fd00:10:96::a"], replicas=2)
    kinds = [o["kind"] for o in made]
    assert kinds == ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "Deployment", "Service"]
    assert made[4]["spec"]["replicas"] == 2
    assert made[5]["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
