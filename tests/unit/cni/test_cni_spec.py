"""Requests, results, errors and configuration lists of the specification."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from podwire.cni.netconf import derive, parse_list, read_valid_attachments
from podwire.cni.spec import (
    CniError,
    Interface,
    IPConfig,
    Result,
    RouteConfig,
    parse_args,
    parse_error,
    parse_request,
    parse_result,
    render_args,
    render_result,
)

RESULT = Result(
    (Interface("cni0", "0a:58:0a:f4:01:01"), Interface("eth0", "0a:58:0a:f4:01:02", "/run/netns/a", 1450)),
    (IPConfig(ip_interface("10.244.1.2/24"), ip_address("10.244.1.1"), 1),),
    (RouteConfig(ip_network("10.244.0.0/16")), RouteConfig(ip_network("0.0.0.0/0"), ip_address("10.244.1.1"))),
    {"nameservers": ["10.96.0.10"]},
)
V11 = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {"name": "cni0", "mac": "0a:58:0a:f4:01:01"},
        {"name": "eth0", "mac": "0a:58:0a:f4:01:02", "sandbox": "/run/netns/a", "mtu": 1450},
    ],
    "ips": [{"address": "10.244.1.2/24", "gateway": "10.244.1.1", "interface": 1}],
    "routes": [{"dst": "10.244.0.0/16"}, {"dst": "0.0.0.0/0", "gw": "10.244.1.1"}],
    "dns": {"nameservers": ["10.96.0.10"]},
}


def test_a_result_of_1_1():
    assert render_result(RESULT, "1.1.0") == V11
    assert parse_result(V11) == RESULT


@pytest.mark.parametrize(("version", "has_mtu", "says_family"), [("1.0.0", False, False), ("0.4.0", False, True)])
def test_a_result_of_an_older_version(version, has_mtu, says_family):
    rendered = render_result(RESULT, version)
    assert rendered["cniVersion"] == version
    assert ("mtu" in rendered["interfaces"][1]) == has_mtu
    assert rendered["ips"][0].get("version") == ("4" if says_family else None)
    assert parse_result(rendered).ips == RESULT.ips


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ([], 6),
        ({"cniVersion": "9.0.0"}, 1),
        ({"cniVersion": "1.0.0", "ips": [{"address": "x"}]}, 6),
        ({"cniVersion": "1.0.0", "ips": [{}]}, 6),
        ({"cniVersion": "1.0.0", "interfaces": ["eth0"]}, 6),
        ({"cniVersion": "1.0.0", "routes": [{"dst": "10.0.0.0/99"}]}, 6),
    ],
)
def test_a_result_that_cannot_be_read(answer, code):
    with pytest.raises(CniError) as caught:
        parse_result(answer)
    assert caught.value.code == code


ENV = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0"}
CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "podwire-cni"}


def test_a_request():
    request = parse_request({**ENV, "CNI_ARGS": "A=1;B=x=y", "CNI_PATH": "/a:/b"}, CONFIG)
    assert (request.command, request.container_id, request.netns) == ("ADD", "c", "/n")
    assert request.args == {"A": "1", "B": "x=y"}
    assert request.version == "1.1.0"


@pytest.mark.parametrize(
    ("env", "config", "code", "says"),
    [
        ({"CNI_COMMAND": ""}, {}, 4, "CNI_COMMAND"),
        ({"CNI_NETNS": ""}, {}, 4, "ADD needs CNI_NETNS"),
        ({"CNI_CONTAINERID": "", "CNI_IFNAME": ""}, {}, 4, "CNI_CONTAINERID, CNI_IFNAME"),
        ({"CNI_CONTAINERID": "../x"}, {}, 4, "not a container id"),
        ({"CNI_IFNAME": "sixteen-letters-"}, {}, 4, "not an interface name"),
        ({"CNI_IFNAME": ".."}, {}, 4, "not an interface name"),
        ({"CNI_IFNAME": "a b"}, {}, 4, "not an interface name"),
        ({}, {"cniVersion": "0.2.0"}, 1, "'0.2.0' is not supported"),
        ({}, {"cniVersion": None}, 1, "'0.1.0' is not supported"),
        ({}, {"name": "../x"}, 7, "not a network name"),
        ({}, {"name": 7}, 7, "not a network name"),
        ({"CNI_COMMAND": "CHECK"}, {"cniVersion": "0.3.1"}, 1, "CHECK does not exist"),
        ({"CNI_COMMAND": "STATUS"}, {"cniVersion": "1.0.0"}, 1, "STATUS does not exist"),
    ],
)
def test_a_bad_request(env, config, code, says):
    with pytest.raises(CniError, match=says) as caught:
        parse_request({**ENV, **env}, {**CONFIG, **config})
    assert caught.value.code == code


def test_what_needs_what():
    parse_request({"CNI_COMMAND": "VERSION"}, {})
    parse_request({"CNI_COMMAND": "STATUS"}, CONFIG)
    parse_request({"CNI_COMMAND": "GC"}, CONFIG)
    parse_request({**ENV, "CNI_COMMAND": "DEL", "CNI_NETNS": ""}, CONFIG)


def test_args_go_both_ways():
    assert render_args(parse_args("IgnoreUnknown=1;K8S_POD_NAME=web")) == "IgnoreUnknown=1;K8S_POD_NAME=web"
    assert parse_args("") == {}


def test_errors_go_both_ways():
    error = CniError(11, "later", "because")
    assert error.render("1.0.0") == {"cniVersion": "1.0.0", "code": 11, "msg": "later", "details": "because"}
    again = parse_error(error.render())
    assert (again.code, str(again)) == (11, "later: because")
    assert parse_error({"code": "x"}).code == 100


LIST = {
    "cniVersion": "1.0.0",
    "cniVersions": ["0.4.0", "1.1.0", "7.0.0"],
    "name": "cbr0",
    "plugins": [
        {"type": "bridge", "capabilities": {"ips": True, "mac": False}, "mtu": 1450},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def test_a_list_chooses_the_highest_version_known():
    network = parse_list(LIST)
    assert (network.name, network.version) == ("cbr0", "1.1.0")
    assert [(p.type, p.capabilities) for p in network.plugins] == [
        ("bridge", {"ips"}),
        ("portmap", {"portMappings"}),
    ]


def test_a_single_plugin_is_a_list_of_one():
    network = parse_list({"cniVersion": "0.3.1", "name": "n", "type": "bridge", "mtu": 9})
    assert (network.version, [p.type for p in network.plugins]) == ("0.3.1", ["bridge"])
    assert network.plugins[0].raw["mtu"] == 9


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "name"),
        ({"plugins": []}, "plugins: is not a list of at least one"),
        ({"plugins": {}}, "plugins: is not a list"),
        ({"plugins": [1]}, r"plugins\[0\]"),
        ({"plugins": [{"type": "a/b"}]}, r"plugins\[0\].type"),
        ({"plugins": [{"type": "a", "capabilities": []}, {"type": "b", "capabilities": 3}]}, r"plugins\[1\].cap"),
        ({"cniVersion": "9", "cniVersions": []}, "9 is not supported"),
        ({"cniVersions": "1.0.0"}, "cniVersions"),
        ({"disableCheck": "maybe"}, "disableCheck"),
    ],
)
def test_a_bad_list_names_its_field(change, says):
    with pytest.raises(CniError, match=says):
        parse_list({**LIST, **change})


def test_a_flag_may_be_a_word():
    assert parse_list({**LIST, "disableCheck": "true", "disableGC": "false"}).disable_check


def test_derived_configuration():
    network = parse_list(LIST)
    bridge, portmap = network.plugins
    arguments = {"ips": ["10.0.0.9"], "mac": "x", "portMappings": [1]}
    assert derive(network, bridge, capability_args=arguments) == {
        "type": "bridge",
        "mtu": 1450,
        "cniVersion": "1.1.0",
        "name": "cbr0",
        "runtimeConfig": {"ips": ["10.0.0.9"]},
    }
    assert derive(network, portmap, prev_result={"a": 1})["prevResult"] == {"a": 1}
    collected = derive(network, portmap, valid_attachments=[("c", "eth0")])
    assert collected["cni.dev/valid-attachments"] == [{"containerID": "c", "ifname": "eth0"}]
    assert read_valid_attachments(collected) == {("c", "eth0")}


@pytest.mark.parametrize("config", [{}, {"cni.dev/valid-attachments": None}, {"cni.dev/valid-attachments": [{}]}])
def test_gc_without_a_list_is_refused(config):
    with pytest.raises(CniError) as caught:
        read_valid_attachments(config)
    assert caught.value.code == 7
