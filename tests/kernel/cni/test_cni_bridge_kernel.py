"""podwire-cni on the kernel: what a pod sees, what CHECK notices, what DEL and GC leave."""

from __future__ import annotations

import json
import os
import signal
from ipaddress import ip_address

import pytest

from podwire.cni import conflist
from podwire.cni.bridge import host_end
from podwire.model.errors import MachineError

pytestmark = pytest.mark.kernel

V4 = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\n"
DUAL = V4 + "FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n"


def lines(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def host_links(node):
    return sorted(link.name for link in node.plugin._kernel.links.links())


def test_a_pod_sees_what_flannel_pods_see(run_node):
    async def body(node):
        assert await node.network.status() == ""
        first, second, third = (node.pod(n) for n in ("a", "b", "c"))
        for pod in (first, second, third):
            await node.network.add(pod)
        assert lines(node.inside(third, "ip", "route")) == [
            "default via 10.244.1.1 dev eth0",
            "10.244.0.0/16 via 10.244.1.1 dev eth0",
            "10.244.1.0/24 dev eth0 proto kernel scope link src 10.244.1.4",
        ]
        (eth0,) = json.loads(node.inside(third, "ip", "-j", "-d", "address", "show", "eth0"))
        assert (eth0["mtu"], eth0["operstate"], eth0["address"]) == (1450, "UP", "0a:58:0a:f4:01:04")
        v4, v6 = eth0["addr_info"]
        assert (v4["local"], v4["prefixlen"], v4["broadcast"]) == ("10.244.1.4", 24, "10.244.1.255")
        assert (v6["scope"], v6.get("tentative")) == ("link", None)
        (port,) = json.loads(node.inside(third, "ip", "-j", "link", "show", "lo"))
        assert "UP" in port["flags"]
        for target in ("10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.4"):
            node.inside(third, "ping", "-c1", "-W10", target)

    run_node(body)


def test_dual_stack_is_usable_at_once(run_node):
    async def body(node):
        node.subnet_env(DUAL)
        a, b = node.pod("a"), node.pod("b")
        assert await node.network.add(a) == (ip_address("10.244.1.2"), ip_address("fd00:10:244:1::2"))
        await node.network.add(b)
        node.inside(b, "ping", "-c1", "-W10", "fd00:10:244:1::2")
        node.inside(b, "ping", "-c1", "-W10", "fd00:10:244:1::1")
        routes = lines(node.inside(b, "ip", "-6", "route"))
        assert "default via fd00:10:244:1::1 dev eth0 metric 1024 pref medium" in routes
        assert "fd00:10:244::/48 via fd00:10:244:1::1 dev eth0 metric 1024 pref medium" in routes
        await node.network.check(a)

    run_node(body)


def test_ipv6_only(run_node):
    async def body(node):
        node.subnet_env("\n".join(DUAL.splitlines()[3:]))
        a, b = node.pod("a"), node.pod("b")
        assert await node.network.add(a) == (ip_address("fd00:10:244:1::2"),)
        await node.network.add(b)
        node.inside(b, "ping", "-c1", "-W10", "fd00:10:244:1::2")

    run_node(body)


def test_delete_leaves_nothing_and_may_be_repeated(run_node):
    async def body(node):
        pod, gone = node.pod("a"), node.pod("b")
        await node.network.add(pod)
        await node.network.add(gone)
        node.netns.remove(gone.netns)
        for _ in range(2):
            await node.network.delete(pod)
            await node.network.delete(gone)
        await node.network.delete(node.pod("never-added"))
        assert host_links(node) == ["cni0", "lo"]
        assert "eth0" not in node.inside(pod, "ip", "link")
        assert os.listdir(node.scratch / "cache" / "results") == []
        left = os.listdir(node.scratch / "data" / "cbr0")
        assert sorted(left) == ["epoch", "last_reserved_ip.0", "lock", "ports"]
        await node.network.add(pod)  # the same sandbox may come again

    run_node(body)


FAULTS = [
    ("ip link set {host} nomaster", "is no port of cni0"),
    ("ip link set {host} down", "is down"),
    ("bridge link set dev {host} hairpin off", "hairpin off"),
    ("ip link delete {host}", "is missing"),
    ("ip address delete 10.244.1.1/24 dev cni0", "lost its address 10.244.1.1/24"),
    ("ip link set cni0 down", "cni0 is missing or down"),
    ("nsenter --net={netns} ip address delete 10.244.1.2/24 dev eth0", "lost its address 10.244.1.2/24"),
    ("nsenter --net={netns} ip route delete default", "route to 0.0.0.0/0"),
    ("nsenter --net={netns} ip route delete 10.244.0.0/16", "route to 10.244.0.0/16"),
    ("nsenter --net={netns} ip link set eth0 address 02:00:00:00:00:01", "eth0 has 02:00:00:00:00:01"),
    ("rm {data}/cbr0/10.244.1.2", "10.244.1.2 is not reserved"),
]


def test_check_notices(run_node):
    async def body(node):
        for command, says in FAULTS:
            pod = node.pod("a")
            await node.network.add(pod)
            await node.network.check(pod)
            filled = command.format(host=host_end("a", "eth0"), netns=pod.netns, data=node.scratch / "data")
            assert os.system(filled) == 0, filled
            with pytest.raises(MachineError, match=r"cni: CHECK pod default/a") as caught:
                await node.network.check(pod)
            assert says in str(caught.value), filled
            await node.network.delete(pod)
            node.netns.remove(pod.netns)
            (node.scratch / "data/cbr0/last_reserved_ip.0").unlink()
            os.system("ip link delete cni0")

    run_node(body)


def test_an_agent_killed_in_the_middle_of_add_or_delete(run_node):
    """SIGKILL at random instants: a new agent's GC finds all that is left, and only that."""

    async def body(node):
        keep = node.pod("keep")
        await node.network.add(keep)
        pods = [node.pod(f"p{i}") for i in range(6)]
        for round in range(25):
            child = os.fork()
            if child == 0:
                await_forever(node.restart(), pods)
            await sleep_ms(3 + 7 * round % 31)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        fresh = node.restart()
        for pod in pods[:3]:
            await fresh.network.delete(pod)
        await fresh.network.collect_garbage((keep,))
        assert host_links(node) == sorted(["cni0", "lo", host_end("keep", "eth0")])
        held = [n for n in os.listdir(node.scratch / "data/cbr0") if n.startswith("10.")]
        assert held == ["10.244.1.2"]
        assert os.listdir(node.scratch / "cache/results") == ["cbr0-keep-eth0"]
        await fresh.network.check(keep)
        for pod in pods:
            await fresh.network.add(pod)
            await fresh.network.check(pod)

    run_node(body)


def await_forever(node, pods):
    """ADD and DEL all pods, over and over, without an event loop's help (this is a forked child)."""
    import asyncio

    async def churn():
        while True:
            for pod in pods:
                await node.network.delete(pod)
                await node.network.add(pod)

    try:
        asyncio._set_running_loop(None)
        asyncio.new_event_loop().run_until_complete(churn())
    finally:
        os._exit(1)


async def sleep_ms(milliseconds):
    import asyncio

    await asyncio.sleep(milliseconds / 1000)


def test_garbage_collection_keeps_the_living_and_strangers(run_node):
    async def body(node):
        pods = [node.pod(f"p{i}") for i in range(12)]
        for pod in pods:
            await node.network.add(pod)
        # a veth of another plugin on the same bridge, with a name like ours
        assert os.system("ip link add veth0badcafe master cni0 type veth peer name elsewhere") == 0
        fresh = node.restart()
        await fresh.network.collect_garbage(tuple(pods[:2]))
        assert host_links(node) == sorted(
            ["cni0", "lo", "veth0badcafe", "elsewhere", *(host_end(p.sandbox_id, "eth0") for p in pods[:2])]
        )
        for pod in pods[:2]:
            await fresh.network.check(pod)

    run_node(body)


def test_after_a_reboot_the_addresses_are_free(run_node):
    async def body(node):
        pods = [node.pod(f"p{i}") for i in range(3)]
        for pod in pods:
            await node.network.add(pod)
        for pod in pods[1:]:
            node.netns.remove(pod.netns)
        store = node.scratch / "data/cbr0"
        (store / "epoch").unlink()
        (store / "epoch").symlink_to("an-earlier-boot")
        fresh = node.restart()
        await fresh.network.add(node.pod("new"))
        held = sorted(n for n in os.listdir(store) if n.startswith("10."))
        assert held == ["10.244.1.2", "10.244.1.5"]  # p0 is alive; the new one goes on round robin

    run_node(body)


def test_somebody_deletes_the_bridge(run_node):
    async def body(node):
        a, b = node.pod("a"), node.pod("b")
        await node.network.add(a)
        assert os.system("ip link delete cni0") == 0
        await node.network.add(b)
        node.inside(b, "ping", "-c1", "-W10", "10.244.1.1")
        await node.network.check(b)
        with pytest.raises(MachineError, match="no port of cni0"):
            await node.network.check(a)

    run_node(body)


def test_another_pod_range(run_node):
    async def body(node):
        a = node.pod("a")
        await node.network.add(a)
        node.subnet_env(V4.replace("10.244.1.1/24", "10.244.7.1/24"))
        b = node.pod("b")
        with pytest.raises(MachineError, match=r"which is not the gateway of this node's range 10.244.7.0/24"):
            await node.network.add(b)
        await node.network.delete(b)
        await node.network.delete(a)
        assert await node.network.add(b) == (ip_address("10.244.7.3"),)
        node.inside(b, "ping", "-c1", "-W10", "10.244.7.1")
        assert "10.244.1.1" not in os.popen("ip address show cni0").read()

    run_node(body)


def test_what_cannot_be_attached_leaves_nothing(run_node):
    async def body(node):
        missing = node.pod("missing")
        node.netns.remove(missing.netns)
        with pytest.raises(MachineError, match=r"CNI_NETNS .*no network namespace is there \(code 4\)"):
            await node.network.add(missing)
        taken = node.pod("taken")
        node.inside(taken, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "x")
        with pytest.raises(MachineError, match="CNI_IFNAME eth0: is there already"):
            await node.network.add(taken)
        node.subnet_env(V4.replace("10.244.1.1/24", "10.244.1.1/30"))
        only, other = node.pod("only"), node.pod("other")
        await node.network.add(only)
        with pytest.raises(MachineError, match=r"range 10.244.1.0/30 is exhausted: 1 of 1 in use.*code 101"):
            await node.network.add(other)
        assert host_links(node) == sorted(["cni0", "lo", host_end("only", "eth0")])
        held = [n for n in os.listdir(node.scratch / "data/cbr0") if n.startswith("10.")]
        assert held == ["10.244.1.2"]

    run_node(body)


def test_a_network_that_is_not_ready_says_why(run_node):
    async def body(node):
        (node.scratch / "subnet.env").unlink()
        assert "subnet.env cannot be read: No such file" in await node.network.status()
        with pytest.raises(MachineError, match=r"code 11\); it may work later"):
            await node.network.add(node.pod("a"))
        node.subnet_env("FLANNEL_MTU=1450\n")
        assert "names neither FLANNEL_SUBNET" in await node.network.status()
        node.configure({"cniVersion": "1.1.0", "name": "x", "plugins": [{"type": "absent"}]})
        assert "plugin absent is not in" in await node.network.status()
        (node.scratch / "net.d/10-test.conflist").write_text("{")
        assert "10-test.conflist is not JSON" in await node.network.status()
        (node.scratch / "net.d/10-test.conflist").unlink()
        assert "no network configuration in" in await node.network.status()

    run_node(body)


def test_ranges_in_the_configuration(run_node):
    async def body(node):
        (node.scratch / "subnet.env").unlink()
        listed = conflist.render_default()
        listed["plugins"][0]["ipam"] = {
            "ranges": [[{"subnet": "10.9.0.0/16", "rangeStart": "10.9.3.10", "rangeEnd": "10.9.3.20"}]],
            "routes": [{"dst": "192.0.2.0/24", "gw": "10.9.200.1"}],
        }
        listed["plugins"][0]["mtu"] = 1400
        node.configure(listed)
        a = node.pod("a")
        assert await node.network.add(a) == (ip_address("10.9.3.10"),)
        assert "192.0.2.0/24 via 10.9.200.1 dev eth0" in lines(node.inside(a, "ip", "route"))
        assert "mtu 1400" in node.inside(a, "ip", "link", "show", "eth0")
        await node.network.check(a)

    run_node(body)
