"""podwire-cni on the fakes: what it asks of the kernel and what it leaves when something fails."""

from __future__ import annotations

import asyncio
import os
from ipaddress import ip_interface, ip_network

import pytest

from podwire.cni.bridge import host_end, mac_of
from podwire.cni.hostports import Published, desired_elements, parse_record, render_table
from podwire.cni.plugin import Kernel, PodwireCni
from podwire.cni.spec import CniError, IPAddress, parse_request
from podwire.cni.store import Owner
from podwire.kernel.conntrack.fake import FakeConntrack
from podwire.kernel.conntrack.values import Flow, FlowTuple
from podwire.kernel.fake import FakeMachine
from podwire.kernel.netns.fake import FakeNetns
from podwire.kernel.nft.fake import FakeNft
from podwire.model.errors import MachineError

CONFIG = {
    "cniVersion": "1.1.0",
    "name": "cbr0",
    "type": "podwire-cni",
    "ipam": {"ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "10.244.0.0/16"}]},
}


class Bench:
    """A plugin on a machine in memory."""

    def __init__(self, directory):
        self.machine = FakeMachine()
        self.netns = FakeNetns(self.machine)
        self.links = self.machine.links()
        self.sysctl = self.machine.sysctl()
        self.nft = FakeNft()
        self.conntrack = FakeConntrack()
        self.directory = directory
        self.plugin = self.restart()

    def restart(self):
        machine = self.machine
        kernel = Kernel(
            self.links,
            self.netns,
            self.sysctl,
            machine.links,
            lambda: (machine.links(), machine.routes()),
            lambda: self.nft,
            lambda: self.conntrack,
            lambda path: path in machine.pinned,
            lambda fd: None,
        )
        self.plugin = PodwireCni(kernel, self.directory)
        return self.plugin

    def pod(self, name):
        path = f"/run/podwire/netns/{name}"
        if path not in self.machine.pinned:
            self.machine.pinned[path] = self.machine.make()
        return path

    async def ask(self, command, name, **more):
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": name,
            "CNI_NETNS": self.pod(name) if command != "GC" else "",
            "CNI_IFNAME": "eth0",
        }
        return await self.plugin.run(parse_request(env, {**CONFIG, **more}))

    def names(self):
        return [link.name for link in self.links.links()]

    def held(self):
        return sorted(n for n in os.listdir(self.directory / "cbr0") if n[0] in "1f")


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def ports(*pairs):
    return {"runtimeConfig": {"portMappings": [{"hostPort": h, "containerPort": c} for h, c in pairs]}}


async def test_add_check_delete(bench):
    result = await bench.ask("ADD", "a")
    pod = bench.machine.pinned[bench.pod("a")]
    eth0 = pod.named("eth0")
    assert (eth0.mac, eth0.up) == ("0a:58:0a:f4:01:02", True)
    assert bench.links.find("cni0").mac == "0a:58:0a:f4:01:01"
    host = bench.links.find(host_end("a", "eth0"))
    assert (host.up, host.hairpin, host.master) == (True, True, bench.links.find("cni0").index)
    assert {str(r.destination): str(r.via) for r in pod.routes.values()} == {
        "10.244.1.0/24": "None",
        "10.244.0.0/16": "10.244.1.1",
        "0.0.0.0/0": "10.244.1.1",
    }
    assert bench.sysctl.get("net/ipv4/ip_forward") == "1"
    await bench.ask("CHECK", "a", prevResult=result)
    await bench.ask("DEL", "a", prevResult=result)
    assert bench.names() == ["lo", "cni0"]
    assert bench.held() == []
    await bench.ask("DEL", "a")


async def test_nothing_of_nft_is_touched_without_host_ports(bench):
    await bench.ask("ADD", "a")
    await bench.ask("DEL", "a")
    assert bench.nft.scripts == []


async def test_a_failing_kernel_leaves_nothing(bench):
    await bench.ask("ADD", "first")
    bench.nft.fail_next = MachineError("kernel/nft", "apply", "script", "no")
    with pytest.raises(CniError, match="cannot publish host ports") as caught:
        await bench.ask("ADD", "a", **ports((80, 80)))
    assert "kernel/nft: apply script: no" in caught.value.details
    assert bench.names() == ["lo", "cni0", host_end("first", "eth0")]
    assert bench.held() == ["10.244.1.2"]
    assert [n for n in os.listdir(bench.directory / "cbr0/ports") if ":" in n] == []


async def test_a_pair_left_by_a_killed_add_is_replaced(bench):
    await bench.ask("ADD", "a")
    before = bench.links.find(host_end("a", "eth0")).index
    bench.restart()
    await bench.ask("ADD", "a")
    after = bench.links.find(host_end("a", "eth0")).index
    assert after != before
    assert bench.held() == ["10.244.1.2"]


async def test_gc_removes_links_ports_and_addresses_of_the_dead(bench):
    await bench.ask("ADD", "a", **ports((80, 80)))
    await bench.ask("ADD", "b", **ports((81, 80)))
    bench.restart()
    alive = {"cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}]}
    await bench.ask("GC", "", **alive)
    assert bench.names() == ["lo", "cni0", host_end("b", "eth0")]
    assert bench.held() == ["10.244.1.3"]
    assert [n for n in os.listdir(bench.directory / "cbr0/ports") if ":" in n] == ["tcp:81"]


async def test_host_ports_go_in_and_out_as_elements(bench):
    await bench.ask("ADD", "a", **ports((80, 8080)))
    assert len(bench.nft.scripts) == 1
    await bench.ask("ADD", "b", **ports((81, 8080)))
    assert len(bench.nft.scripts) == 1
    (change,) = bench.nft.changes[-1]
    assert (change.set, change.delete) == ("ports", ())
    assert bytes([6, 0, 0, 0, 0, 81, 0, 0]) in {e.key for e in change.add}
    await bench.ask("DEL", "b")
    assert bytes([6, 0, 0, 0, 0, 81, 0, 0]) in {e.key for e in bench.nft.changes[-1][0].delete}
    await bench.ask("DEL", "a")
    assert bench.nft.tables == {}


def flow(destination, port, source, source_port, protocol=17):
    """A flow of a client to destination:port that source:source_port answers."""
    client = ip_interface("192.0.2.9").ip
    return Flow(
        FlowTuple(client, ip_interface(destination).ip, protocol, 4000, port),
        FlowTuple(ip_interface(source).ip, client, protocol, source_port, 4000),
    )


async def test_udp_flows_follow_the_port(bench):
    await bench.ask("ADD", "other")  # the bridge is there, 10.244.1.1 is ours
    keep = [
        flow("10.96.0.10", 53, "10.244.1.9", 53),  # a Service
        flow("10.244.1.1", 54, "10.244.1.1", 54),
        flow("10.244.1.1", 53, "10.244.1.1", 53, protocol=6),
    ]
    bench.conntrack.table = [*keep, flow("10.244.1.1", 53, "10.244.1.1", 53)]
    udp = {"runtimeConfig": {"portMappings": [{"hostPort": 53, "containerPort": 5353, "protocol": "udp"}]}}
    await bench.ask("ADD", "dns", **udp)
    assert bench.conntrack.table == keep  # what began before the port was published begins anew
    mine = flow("10.244.1.1", 53, "10.244.1.3", 5353)
    bench.conntrack.table.append(mine)
    await bench.ask("ADD", "third")
    assert mine in bench.conntrack.table
    await bench.ask("DEL", "dns")
    assert bench.conntrack.table == keep


async def test_removals_asked_for_together_go_together(bench):
    acts = []
    plain = bench.links.delete_all

    class Counting:
        def __getattr__(self, name):
            return getattr(bench.links, name)

        def delete_all(self, indexes):
            acts.append(len(indexes))
            plain(indexes)

    bench.plugin._removal._open_links = Counting
    for i in range(10):
        await bench.ask("ADD", f"p{i}")
    await asyncio.gather(*(bench.ask("DEL", f"p{i}") for i in range(10)))
    assert sum(acts) == 10
    assert len(acts) < 4
    assert bench.names() == ["lo", "cni0"]


async def test_a_removal_that_fails_is_told_and_can_be_repeated(bench):
    class Refusing:
        def delete_all(self, indexes):
            raise MachineError("kernel/link", "delete", "links", "no")

    bench.plugin._removal._open_links = Refusing
    await bench.ask("ADD", "a")
    with pytest.raises(CniError, match="DEL failed"):
        await bench.ask("DEL", "a")
    assert bench.held() == ["10.244.1.2"]  # as long as the link is there, so is its record
    bench.restart()
    await bench.ask("DEL", "a")
    assert (bench.names(), bench.held()) == (["lo", "cni0"], [])


async def test_host_ports_of_an_earlier_epoch_are_taken_out_of_force(bench):
    await bench.ask("ADD", "a", **ports((80, 8080)))
    await bench.ask("ADD", "b", **ports((81, 8080)))
    for directory in (bench.directory / "cbr0", bench.directory / "cbr0/ports"):
        (directory / "epoch").unlink()
    del bench.machine.pinned["/run/podwire/netns/a"]
    bench.restart()
    await bench.ask("ADD", "c")
    assert "81 : 10.244.1.3" in bench.nft.scripts[-1]
    assert "10.244.1.2" not in bench.nft.scripts[-1]
    assert bench.held() == ["10.244.1.3", "10.244.1.4"]


async def test_the_bridge_follows_the_mtu(bench):
    await bench.ask("ADD", "a", mtu=1450)
    await bench.ask("ADD", "b", mtu=1380)
    assert bench.links.find("cni0").mtu_bytes == 1380


async def test_requested_address_and_hardware_address(bench):
    wanted = {"runtimeConfig": {"ips": ["10.244.1.77"], "mac": "02:00:00:00:00:07"}}
    result = await bench.ask("ADD", "a", **wanted)
    assert result["ips"][0]["address"] == "10.244.1.77/24"
    assert bench.machine.pinned[bench.pod("a")].named("eth0").mac == "02:00:00:00:00:07"


async def test_version(bench):
    answer = await bench.plugin.run(parse_request({"CNI_COMMAND": "VERSION"}, {"cniVersion": "0.4.0"}))
    assert answer["cniVersion"] == "0.4.0"
    assert "1.1.0" in answer["supportedVersions"]


@pytest.mark.parametrize(
    ("address", "mac"),
    [("10.244.1.4", "0a:58:0a:f4:01:04"), ("fd00::1:2", "0a:58:00:01:00:02")],
)
def test_hardware_addresses(address: str, mac: str) -> None:
    chosen: IPAddress = ip_interface(address).ip
    assert mac_of(chosen) == mac


def test_host_ends_are_short_and_differ():
    assert host_end("a", "eth0") == host_end("a", "eth0")
    assert len({host_end(f"c{i}", "eth0") for i in range(500)} | {host_end("a", "net1")}) == 501
    assert len(host_end("x" * 64, "eth0")) == 12


WEB = Owner("c", "eth0", "/n", "80/10.244.1.5/24,fd00::5/64")


def test_records_are_read_back():
    assert parse_record("tcp:8080", WEB) == (
        Published("tcp", 8080, 80, ip_interface("10.244.1.5/24")),
        Published("tcp", 8080, 80, ip_interface("fd00::5/64")),
    )
    (only,) = parse_record("udp:53@fd00::9", WEB)
    assert (only.family, str(only.host_ip)) == ("ip6", "fd00::9")
    for nonsense in ("tcp", "icmp:1", "tcp:x", "tcp:1@y"):
        assert parse_record(nonsense, WEB) == ()
    assert parse_record("tcp:1", Owner("c", "eth0", "", "")) == ()


def test_the_table():
    entries = [
        Published("tcp", 8080, 80, ip_interface("10.244.1.5/24")),
        Published("udp", 53, 5353, ip_interface("10.244.1.6/24"), ip_interface("192.0.2.1").ip),
    ]
    assert render_table("ip", entries) == TABLE
    assert render_table("ip6", []) == "table ip6 podwire-hostport\ndelete table ip6 podwire-hostport\n"
    assert [len(e) for e in desired_elements(entries).values()] == [1, 1]
    assert ip_network("10.244.1.0/24") in {e.pod.network for e in entries}


TABLE = """table ip podwire-hostport
delete table ip podwire-hostport
table ip podwire-hostport {
  map ports {
    type inet_proto . inet_service : ipv4_addr . inet_service
    elements = {
      tcp . 8080 : 10.244.1.5 . 80,
    }
  }
  map ports-at {
    type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
    elements = {
      192.0.2.1 . udp . 53 : 10.244.1.6 . 5353,
    }
  }
  set near {
    type ipv4_addr
    flags interval
    elements = {
      10.244.1.0/24,
      127.0.0.0/8,
    }
  }
  chain publish {
    ip saddr @near ip daddr . meta l4proto . th dport @ports-at meta mark set meta mark or 0x2000
    ip saddr @near meta l4proto . th dport @ports meta mark set meta mark or 0x2000
    dnat ip to ip daddr . meta l4proto . th dport map @ports-at
    dnat ip to meta l4proto . th dport map @ports
  }
  chain prerouting {
    type nat hook prerouting priority -90
    fib daddr type local goto publish
  }
  chain output {
    type nat hook output priority -90
    fib daddr type local goto publish
  }
  chain postrouting {
    type nat hook postrouting priority 95
    meta mark and 0x2000 == 0x2000 ct status dnat masquerade
  }
}
"""
