"""What the fabric writes, against text that a person can read (tests/golden/fabric)."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Entries, Home
from podwire.fabric.desired import Path as Way
from podwire.fabric.render import annotations, hostgw, masquerade, subnetenv, vxlan
from podwire.kernel.link.values import FdbEntry, Neighbour
from podwire.kernel.route.values import Route

GOLDEN = Path(__file__).parents[2] / "golden" / "fabric"
NET4, NET6 = ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56")
HOME4 = Home(4, NET4, ip_network("10.244.0.0/24"), ip_address("192.168.71.10"), 2, 1500)
HOME6 = Home(6, NET6, ip_network("fd00:10:244::/64"), ip_address("fd00:71::10"), 2, 1500)
V4 = FabricConfig((NET4,))
DUAL = FabricConfig((NET4, NET6))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("subnet-ipv4.env", subnetenv.render(V4, (HOME4,))),
        ("subnet-dual.env", subnetenv.render(DUAL, (HOME4, HOME6))),
        ("subnet-hostgw.env", subnetenv.render(replace(V4, backend="host-gw"), (HOME4,))),
        ("masquerade-hostgw.nft", masquerade.render(replace(V4, backend="host-gw"), (HOME4,))),
        ("masquerade-dual.nft", masquerade.render(DUAL, (HOME4, HOME6))),
    ],
)
def test_golden(name, text):
    assert text == (GOLDEN / name).read_text()


def test_a_set_mtu_stands_for_the_underlay_s():
    config = replace(V4, mtu_bytes=9000)
    assert "FLANNEL_MTU=8950\n" in subnetenv.render(config, (HOME4,))


def test_the_device():
    spec = vxlan.render_device(V4, HOME4, "02:00:00:00:00:01")
    assert (spec.name, spec.vni, spec.port, spec.mtu_bytes, spec.learning) == ("flannel.1", 1, 8472, 1450, False)
    six = vxlan.render_device(DUAL, HOME6, "02:00:00:00:00:01")
    assert (six.name, six.mtu_bytes) == ("flannel-v6.1", 1430)


def test_a_mac_is_stable_local_and_unicast():
    macs = [vxlan.derive_mac(f"node-{n}", 1, v) for n in range(50) for v in (4, 6)]
    assert len(set(macs)) == 100
    assert all(int(m[:2], 16) & 3 == 2 for m in macs)
    assert vxlan.derive_mac("node-0", 1, 4) == vxlan.derive_mac("node-0", 1, 4)


def test_a_path_by_vxlan():
    way = Way(4, ip_network("10.244.1.0/24"), ip_address("192.168.71.11"), "02:00:00:00:00:01")
    gateway = ip_address("10.244.1.0")
    assert vxlan.render_path(way, 7) == Entries(
        frozenset({Route(way.subnet, 7, gateway, onlink=True)}),
        frozenset({Neighbour(7, gateway, way.mac)}),
        frozenset({FdbEntry(7, way.mac, way.public_ip)}),
    )


def test_a_path_by_host_gw():
    way = Way(4, ip_network("10.244.1.0/24"), ip_address("192.168.71.11"))
    assert hostgw.render_path(way, 2) == Entries(
        frozenset({Route(way.subnet, 2, way.public_ip, protocol=hostgw.PROTOCOL)})
    )


PREFIX = "flannel.alpha.coreos.com/"


def own(**notes):
    return {"metadata": {"name": "node-0", "annotations": {PREFIX + k: v for k, v in notes.items()}}}


def test_annotations_of_a_dual_stack_node():
    notes = annotations.render(DUAL, (HOME4, HOME6), {4: "02:00:00:00:00:04", 6: "02:00:00:00:00:06"}, own())
    assert notes == {
        PREFIX + "kube-subnet-manager": "true",
        PREFIX + "backend-type": "vxlan",
        PREFIX + "backend-data": '{"VNI":1,"VtepMAC":"02:00:00:00:00:04"}',
        PREFIX + "backend-v6-data": '{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}',
        PREFIX + "public-ip": "192.168.71.10",
        PREFIX + "public-ipv6": "fd00:71::10",
    }


def test_annotations_that_stand_are_not_written_again():
    node = own()
    macs = {4: "02:00:00:00:00:04"}
    node["metadata"]["annotations"] = annotations.render(V4, (HOME4,), macs, node)
    assert annotations.render(V4, (HOME4,), macs, node) == {}


def test_annotations_of_a_family_that_went_are_taken_back():
    node = own(**{"public-ipv6": "fd00::1"})
    assert annotations.render(V4, (HOME4,), {4: "x"}, node)[PREFIX + "public-ipv6"] is None


def test_an_administrator_s_public_ip_is_announced():
    node = own(**{"public-ip-overwrite": "203.0.113.7"})
    assert annotations.render(V4, (HOME4,), {4: "x"}, node)[PREFIX + "public-ip"] == "203.0.113.7"


@pytest.mark.kernel
@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_nft_takes_the_masquerade_script_twice():
    """In a network namespace of its own, which ends with the shell."""
    script = masquerade.render(DUAL, (HOME4, HOME6))
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", "nft -f /dev/stdin <<E && nft -f /dev/stdin <<F && nft list ruleset\n"
         f"{script}E\n{script}F\n"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("masquerade fully-random") == 2
