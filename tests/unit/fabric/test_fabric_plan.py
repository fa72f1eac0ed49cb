"""Nodes -> paths and problems."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Home, Path, Site
from podwire.fabric.plan import Ledger, parse_backend, read_site

NET = ip_network("10.244.0.0/16")
HOME = Home(4, NET, ip_network("10.244.0.0/24"), ip_address("192.168.71.10"), 2, 1500)
VXLAN = FabricConfig((NET,))
HOSTGW = FabricConfig((NET,), "host-gw")
NEAR = frozenset({ip_address("192.168.71.11")})


def node(name="node-1", subnet="10.244.1.0/24", ip="192.168.71.11", mac="02:00:00:00:00:01", **changes):
    prefix = "flannel.alpha.coreos.com/"
    notes = {
        "kube-subnet-manager": "true",
        "backend-type": "vxlan",
        "backend-data": f'{{"VNI":1,"VtepMAC":"{mac}"}}',
        "public-ip": ip,
    }
    notes.update({key.replace("_", "-"): value for key, value in changes.items()})
    return {
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {prefix + k: v for k, v in notes.items() if v is not None},
        },
        "spec": {"podCIDR": subnet, "podCIDRs": [subnet]} if subnet else {},
    }


def planned(config, *nodes, adjacent=frozenset()):
    ledger = Ledger(config, (HOME,), "node-0")
    for n in nodes:
        ledger.update(n["metadata"]["name"], n, adjacent)
    return ledger


def why(ledger, name="node-1"):
    return " ".join(str(p) for p in ledger.problems.get(name, ()))


def test_a_site_is_read_from_annotations():
    assert read_site(node(), 4) == Site(
        "node-1", 4, ip_network("10.244.1.0/24"), ip_address("192.168.71.11"), "vxlan", 1, "02:00:00:00:00:01"
    )


@pytest.mark.parametrize(
    "absent", [{"kube_subnet_manager": None}, {"public_ip": None}, {"subnet": None}, {"kube_subnet_manager": "false"}]
)
def test_a_node_without_annotations_takes_no_part(absent):
    assert read_site(node(**absent), 4) is None
    ledger = planned(VXLAN, node(**absent))
    assert (ledger.paths, ledger.problems) == ({}, {})


def test_a_node_of_another_family_takes_no_part():
    assert read_site(node(), 6) is None


def test_a_vxlan_peer():
    ledger = planned(VXLAN, node())
    assert ledger.paths == {
        "node-1": (Path(4, ip_network("10.244.1.0/24"), ip_address("192.168.71.11"), "02:00:00:00:00:01"),)
    }


def test_the_own_node_is_no_peer():
    assert planned(VXLAN, node("node-0")).paths == {}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"subnet": "172.16.0.0/24"}, "outside the cluster network"),
        ({"subnet": "0.0.0.0/0"}, "outside the cluster network"),
        ({"subnet": "10.244.0.128/25"}, "overlaps this node's own"),
        ({"subnet": "10.244.0.0/16"}, "overlaps this node's own"),
        ({"subnet": "rubbish"}, "spec.podCIDRs[0]"),
        ({"ip": "192.168.71.10"}, "this node's own address"),
        ({"ip": "rubbish"}, "public-ip]"),
        ({"ip": "fd00::1"}, "not an IPv4 address"),
        ({"ip": "0.0.0.0"}, "no address of a node"),
        ({"mac": "ff:ff:ff:ff:ff:ff"}, "no address of one device"),
        ({"mac": "rubbish"}, "backend-data]"),
        ({"backend_data": None}, "backend-data]"),
        ({"backend_data": '{"VNI":2,"VtepMAC":"02:00:00:00:00:01"}'}, "uses VNI 2, this node 1"),
        ({"backend_type": "host-gw"}, "uses backend 'host-gw', this node 'vxlan'"),
    ],
)
def test_a_bad_peer_is_told_and_takes_no_one_down(change, text):
    ledger = planned(VXLAN, node(**change), node("node-2", "10.244.2.0/24", "192.168.71.12", "02:00:00:00:00:02"))
    assert "node-1" not in ledger.paths
    assert "Node node-1" in why(ledger)
    assert text in why(ledger)
    assert "node-2" in ledger.paths
    assert "node-2" not in ledger.problems


def test_host_gw_wants_a_common_link():
    peer = node(backend_type="host-gw", backend_data="null")
    assert planned(HOSTGW, peer, adjacent=NEAR).paths["node-1"][0].mac == ""
    assert "not on a link of this node" in why(planned(HOSTGW, peer))


def test_direct_routing_takes_the_short_way_where_there_is_one():
    config = replace(VXLAN, direct_routing=True)
    assert planned(config, node(), adjacent=NEAR).paths["node-1"][0].mac == ""
    assert planned(config, node()).paths["node-1"][0].mac != ""


@pytest.mark.parametrize("order", [("node-1", "node-2"), ("node-2", "node-1")])
def test_the_first_by_name_holds_what_two_claim(order):
    ledger = Ledger(VXLAN, (HOME,), "node-0")
    for name in order:
        ledger.update(name, node(name, ip=f"192.168.71.2{name[-1]}", mac=f"02:00:00:00:00:0{name[-1]}"), NEAR)
    assert set(ledger.paths) == {"node-1"}
    assert "held by node node-1 already" in why(ledger, "node-2")
    assert ledger.update("node-1", None, NEAR) == {"node-1", "node-2"}
    assert set(ledger.paths) == {"node-2"}
    assert ledger.problems == {}


def test_two_nodes_with_one_mac():
    ledger = planned(VXLAN, node("node-2", "10.244.2.0/24", "192.168.71.12"), node())
    assert set(ledger.paths) == {"node-1"}
    assert "02:00:00:00:00:01 is held by node node-1" in why(ledger, "node-2")


def test_a_node_that_leaves_leaves_nothing():
    ledger = planned(VXLAN, node())
    assert ledger.update("node-1", None, NEAR) == {"node-1"}
    assert (ledger.paths, ledger.problems) == ({}, {})


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"VtepMAC":1}', '{"VtepMAC":"02:00:00:00:00:01","VNI":"x"}'])
def test_rubbish_backend_data(text):
    with pytest.raises(ValueError):
        parse_backend(text)


def test_backend_data_without_vni():
    assert parse_backend('{"VtepMAC":"02:AB:00:00:00:01"}') == (0, "02:ab:00:00:00:01")
