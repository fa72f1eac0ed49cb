"""A cluster's settings: what is accepted, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.lab import config
from podwire.lab.config import LabConfig, Publish, dump, load, parse
from podwire.model.errors import BadInput


def test_defaults() -> None:
    c = parse({})
    assert (c.name, c.nodes, c.backend) == ("podwire", 3, "vxlan")
    assert [str(n) for n in c.pod_cidrs] == ["10.244.0.0/16"]
    assert c.node_names == ("node-0", "node-1", "node-2")


def test_dual_stack_takes_one_network_a_family_and_fills_in_the_other() -> None:
    c = parse({"ipFamily": "dual", "podCIDR": "10.42.0.0/16"})
    assert [str(n) for n in c.pod_cidrs] == ["10.42.0.0/16", "fd00:10:244::/56"]
    assert c.families == (4, 6)


@pytest.mark.parametrize(
    ("raw", "field", "words"),
    [
        ({"nodes": 0}, "nodes", "from 1 to 200"),
        ({"nodes": True}, "nodes", "from 1 to 200"),
        ({"nodes": "3"}, "nodes", "from 1 to 200"),
        ({"name": "Big_Name"}, "name", "must be 1 to 40"),
        ({"backend": "ipip"}, "backend", "none of vxlan, host-gw"),
        ({"proxyMode": "userspace"}, "proxyMode", "left Kubernetes in version 1.26"),
        ({"proxyMode": "kernelspace"}, "proxyMode", "Windows"),
        ({"proxyMode": "ipvs"}, "proxyMode", "use nftables or iptables"),
        ({"ipFamily": "ipv5"}, "ipFamily", "none of ipv4, ipv6, dual"),
        ({"mtu": 200}, "mtu", "646 to 65535"),
        ({"podCIDR": "10.244.0.0/33"}, "podCIDR", "is no CIDR"),
        ({"podCIDR": "10.244.1.0/16"}, "podCIDR", "has host bits set"),
        ({"podCIDR": "10.244.0.0/23"}, "podCIDR", "too small: 3 nodes with a /24 each need a /22"),
        ({"podCIDR": "fd00::/56"}, "podCIDR", "which ipFamily leaves out"),
        ({"podCIDR": "10.1.0.0/16,10.2.0.0/16"}, "podCIDR", "second IPv4"),
        ({"podCIDR": "10.96.0.0/16"}, "podCIDR", "overlaps serviceCIDR 10.96.0.0/12"),
        ({"podCIDR": "192.168.0.0/16"}, "podCIDR", "overlaps the node network 192.168.71.0/24"),
        ({"serviceCIDR": "10.96.0.0/30"}, "serviceCIDR", "too small"),
        ({"publish": ["8080"]}, "publish", "must read"),
        ({"publish": ["0.0.0.0:80:svc/web:80"]}, "publish", "loopback addresses only"),
        ({"publish": ["0:svc/web:80"]}, "publish", "from 1 to 65535"),
        ({"images": {"x": "/no/such/place"}}, "images", "no such file"),
        ({"images": ["justaname"]}, "images", "NAME=PATH"),
        ({"node": 3}, "node", "unknown field"),
    ],
)
def test_refused(raw: dict[str, object], field: str, words: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse(raw)
    assert any(p.field == field and words in p.why for p in refused.value.problems), refused.value


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(BadInput) as refused:
        parse({"nodes": 0, "backend": "x", "mtu": 1})
    assert {p.field for p in refused.value.problems} == {"nodes", "backend", "mtu"}


def test_publish_reads_all_its_forms() -> None:
    c = parse({"publish": ["8080:svc/web:http", "127.0.0.2:81:svc/shop/cart:80", "[::1]:82:svc/a/b:1"]})
    assert c.publish == (
        Publish("127.0.0.1", 8080, "default", "web", "http"),
        Publish("127.0.0.2", 81, "shop", "cart", "80"),
        Publish("::1", 82, "a", "b", "1"),
    )


def test_what_is_written_down_is_read_back(tmp_path: Path) -> None:
    c = parse({"name": "x", "nodes": 7, "ipFamily": "dual", "images": {"app": str(tmp_path)}, "publish": ["1:svc/a:2"]})
    assert load(dump(c), "cluster.json") == c


@given(st.integers(1, 200), st.sampled_from(["ipv4", "ipv6", "dual"]), st.sampled_from(["vxlan", "host-gw"]))
def test_round_trip(nodes: int, family: str, backend: str) -> None:
    c = parse({"nodes": nodes, "ipFamily": family, "backend": backend})
    assert load(dump(c), "cluster.json") == c


def test_differences_are_told_in_words() -> None:
    assert config.differences(LabConfig(), LabConfig(nodes=5)) == ["nodes: 3, not 5"]
    assert config.differences(LabConfig(), LabConfig(api_port=6443)) == []
