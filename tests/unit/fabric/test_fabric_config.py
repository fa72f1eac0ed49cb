"""net-conf.json -> FabricConfig, or the field that is wrong."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from podwire.fabric.config import FabricConfig, parse_config
from podwire.model.errors import Problem


def configmap(text):
    return {
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-flannel", "name": "kube-flannel-cfg"},
        "data": {"net-conf.json": text if isinstance(text, str) else json.dumps(text)},
    }


V4 = {"Network": "10.244.0.0/16"}


def test_the_configuration_of_the_guide():
    conf = {"Network": "10.244.0.0/16", "EnableNFTables": False, "Backend": {"Type": "vxlan"}}
    assert parse_config(configmap(conf)) == FabricConfig((ip_network("10.244.0.0/16"),))


def test_every_setting():
    conf = {
        "Network": "10.244.0.0/16",
        "IPv6Network": "fd00:10:244::/56",
        "EnableIPv6": True,
        "Backend": {"Type": "vxlan", "VNI": 7, "Port": 4789, "MTU": 9000, "DirectRouting": True, "Learning": True},
    }
    networks = (ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56"))
    assert parse_config(configmap(conf)) == FabricConfig(networks, "vxlan", 7, 4789, 9000, True, True)


def test_ipv6_alone():
    conf = {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00:10:244::/56", "Backend": {"Type": "host-gw"}}
    parsed = parse_config(configmap(conf))
    assert isinstance(parsed, FabricConfig)
    assert (parsed.backend, parsed.network(4)) == ("host-gw", None)


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        ("{", "", "is not JSON"),
        ("[]", "", "not a JSON object"),
        ({}, ".Network", "must name"),
        ({"Network": "10.244.0.0/99"}, ".Network", "not an IPv4 network"),
        ({"Network": "10.244.1.0/16"}, ".Network", "host bits"),
        ({"Network": "fd00::/64"}, ".Network", "not an IPv4 network"),
        ({"Network": "10.244.0.0/30"}, ".Network", "too small"),
        ({**V4, "EnableIPv6": True}, ".IPv6Network", "must name"),
        ({**V4, "EnableIPv6": "yes"}, ".EnableIPv6", "true or false"),
        ({"EnableIPv4": False}, "", "neither"),
        ({**V4, "Backend": "vxlan"}, ".Backend", "not a JSON object"),
        ({**V4, "Backend": {"Type": "wireguard"}}, ".Backend.Type", "'wireguard' is a flannel backend"),
        ({**V4, "Backend": {"Type": "carrier-pigeon"}}, ".Backend.Type", "'carrier-pigeon' is unknown"),
        ({**V4, "Backend": {"VNI": 1 << 24}}, ".Backend.VNI", "from 1 to"),
        ({**V4, "Backend": {"Port": "8472"}}, ".Backend.Port", "must be a number"),
        ({**V4, "Backend": {"GBP": True}}, ".Backend.GBP", "not supported"),
    ],
)
def test_what_is_wrong_is_named(text, field, why):
    problem = parse_config(configmap(text))
    assert isinstance(problem, Problem)
    assert problem.object == "ConfigMap kube-flannel/kube-flannel-cfg"
    assert problem.field == f"data[net-conf.json]{field}"
    assert why in problem.why


def test_a_missing_key_is_named():
    problem = parse_config({**configmap(V4), "data": {}})
    assert isinstance(problem, Problem)
    assert problem.why == "is missing"
