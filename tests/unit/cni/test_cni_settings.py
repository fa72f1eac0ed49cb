"""What podwire-cni is told, and what it says of nonsense."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from podwire.cni import conflist
from podwire.cni.settings import PortMapping, parse_settings, parse_subnet_env
from podwire.cni.spec import CniError, parse_request

ENV = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0"}


def settings(config=None, args=""):
    base = {"cniVersion": "1.1.0", "name": "cbr0", "type": "podwire-cni"}
    return parse_settings(parse_request({**ENV, "CNI_ARGS": args}, {**base, **(config or {})}))


def test_defaults():
    plain = settings()
    assert (plain.bridge, plain.hairpin, plain.is_gateway, plain.default_route) == ("cni0", True, True, True)
    assert (plain.mtu_bytes, plain.range_sets, plain.ports, plain.requested) == (0, (), (), ())
    assert str(plain.subnet_file) == "/run/flannel/subnet.env"


def test_the_list_that_podwire_writes_is_understood():
    written = conflist.render_default(
        subnets=[ip_network("10.244.1.0/24"), ip_network("fd00::/64")],
        networks=[ip_network("10.244.0.0/16"), ip_network("fd00::/48")],
        mtu_bytes=1430,
    )
    read = settings(written["plugins"][0])
    assert [str(r) for group in read.range_sets for r in group] == ["10.244.1.0/24", "fd00::/64"]
    assert [(str(r.destination), str(r.gateway)) for r in read.routes] == [
        ("10.244.0.0/16", "10.244.1.1"),
        ("fd00::/48", "fd00::1"),
    ]
    assert read.mtu_bytes == 1430


def test_what_a_runtime_adds():
    read = settings(
        {
            "runtimeConfig": {
                "portMappings": [
                    {"hostPort": 8080, "containerPort": 80},
                    {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "10.0.0.1"},
                    {"hostPort": 9, "containerPort": 9, "hostIP": "0.0.0.0"},
                    {"hostPort": 0, "containerPort": 7},
                ],
                "mac": "0A:58:00:00:00:01",
                "ips": ["10.244.1.9/24", "fd00::9"],
                "ipRanges": [[{"subnet": "10.9.0.0/24"}]],
                "dns": {"servers": ["10.96.0.10"]},
            },
            "args": {"cni": {"ips": ["10.244.1.9"]}},
        },
        "IP=10.244.1.8;IgnoreUnknown=1",
    )
    assert read.ports == (
        PortMapping("tcp", 8080, 80),
        PortMapping("udp", 53, 5353, ip_address("10.0.0.1")),
        PortMapping("tcp", 9, 9),
    )
    assert read.mac == "0a:58:00:00:00:01"
    assert [str(a) for a in read.requested] == ["10.244.1.8", "10.244.1.9", "fd00::9"]
    assert [str(r) for group in read.range_sets for r in group] == ["10.9.0.0/24"]
    assert read.dns == {"servers": ["10.96.0.10"]}


@pytest.mark.parametrize(
    ("config", "code", "says"),
    [
        ({"vlan": 5}, 2, "vlan"),
        ({"promiscMode": True}, 2, "promiscMode"),
        ({"ipam": {"type": "dhcp"}}, 2, "ipam.type: 'dhcp'"),
        ({"ipam": "x"}, 7, "ipam"),
        ({"bridge": "a/b"}, 7, "bridge"),
        ({"bridge": ""}, 7, "bridge"),
        ({"mtu": 3}, 7, "mtu: 3"),
        ({"mtu": "1500"}, 7, "mtu: '1500'"),
        ({"mtu": True}, 7, "mtu"),
        ({"hairpinMode": "yes"}, 7, "hairpinMode"),
        ({"ipam": {"routes": [{}]}}, 7, r"ipam.routes\[0\]"),
        ({"ipam": {"routes": [{"dst": "10.0.0.0/8", "gw": "x"}]}}, 7, r"ipam.routes\[0\]"),
        ({"runtimeConfig": []}, 0, ""),
        ({"runtimeConfig": {"mac": "zz"}}, 7, "runtimeConfig.mac"),
        ({"runtimeConfig": {"ips": ["10.0.0.300"]}}, 7, "runtimeConfig.ips"),
        ({"runtimeConfig": {"ips": "10.0.0.3"}}, 7, "runtimeConfig.ips"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 99999, "containerPort": 1}]}}, 7, r"\[0\].hostPort"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 9}]}}, 7, r"\[0\].containerPort"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 9, "protocol": "icmp"}]}}, 7, r"\[0\].protocol"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 9, "containerPort": 9, "hostIP": "x"}]}}, 7, "hostIP"),
        ({"runtimeConfig": {"portMappings": [7]}}, 7, r"\[0\]"),
    ],
)
def test_nonsense_names_its_field(config, code, says):
    if not code:
        settings(config)
        return
    with pytest.raises(CniError, match=says) as caught:
        settings(config)
    assert caught.value.code == code


def test_subnet_env():
    env = parse_subnet_env(
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00::/48\n"
        "FLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
    assert [str(n) for n in env.subnets] == ["10.244.1.0/24", "fd00:0:0:1::/64"]
    assert [str(n) for n in env.networks] == ["10.244.0.0/16", "fd00::/48"]
    assert env.mtu_bytes == 1450
    several = parse_subnet_env("FLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n")
    assert [str(n) for n in several.networks] == ["10.244.0.0/16", "10.245.0.0/16"]
    assert several.mtu_bytes == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "neither FLANNEL_SUBNET"),
        ("FLANNEL_SUBNET=nonsense", "FLANNEL_SUBNET: 'nonsense'"),
        ("FLANNEL_SUBNET=10.0.0.1/24\nFLANNEL_MTU=big", "FLANNEL_MTU"),
    ],
)
def test_a_subnet_env_that_cannot_be_used(text, says):
    with pytest.raises(CniError, match=says):
        parse_subnet_env(text)
