"""Debian's reference plugins in podwire-cni's place, alone and chained behind it."""

from __future__ import annotations

import json
import os
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from podwire.cni import conflist
from podwire.model.errors import MachineError
from podwire.model.podnetwork import HostPort

REFERENCE = Path("/usr/lib/cni")
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not (REFERENCE / "bridge").exists(), reason="needs containernetworking-plugins"),
]


def render(node, **options):
    return conflist.render_reference(
        subnets=[ip_network("10.244.1.0/24")],
        networks=[ip_network("10.244.0.0/16")],
        mtu_bytes=1450,
        data_directory=str(node.scratch / "host-local"),
        **options,
    )


def routes(node, pod):
    return {" ".join(line.split()) for line in node.inside(pod, "ip", "route").splitlines()}


def test_the_reference_plugins_alone(run_node):
    async def body(node):
        node.configure(render(node))
        assert await node.network.status() == ""
        client = node.outside("client", "192.0.2.9/24", "192.0.2.1/24")
        web, near = node.pod("web", HostPort(8080, 80)), node.pod("near")
        assert await node.network.add(web) == (ip_address("10.244.1.2"),)
        await node.network.add(near)
        assert routes(node, web) == {
            "default via 10.244.1.1 dev eth0",
            "10.244.0.0/16 via 10.244.1.1 dev eth0",
            "10.244.1.0/24 dev eth0 proto kernel scope link src 10.244.1.2",
        }
        node.inside(near, "ping", "-c1", "-W10", "10.244.1.2")
        node.serve(web, 80, "hello")
        assert node.ask(client, "192.0.2.1", 8080).startswith("hello")
        # A new agent gets prevResult from the disk.
        fresh = node.restart()
        await fresh.network.delete(web)
        assert node.ask(client, "192.0.2.1", 8080) == ""
        await fresh.network.collect_garbage(())  # 1.0.0 knows no GC: every cached attachment gets its DEL
        links = {link.name for link in node.plugin._kernel.links.links()}
        assert links == {"lo", "cni0", "u-client"}
        left = os.listdir(node.scratch / "host-local/cbr0")
        assert [name for name in left if name.startswith("10.")] == []
        assert os.listdir(node.scratch / "cache/results") == []

    run_node(body)


def test_the_reference_plugins_check(run_node):
    async def body(node):
        node.configure(render(node, portmap=False))
        web = node.pod("web")
        await node.network.add(web)
        await node.network.check(web)
        await node.restart().network.check(web)
        node.inside(web, "ip", "route", "delete", "default")
        with pytest.raises(MachineError, match=r"CHECK pod default/web: bridge: "):
            await node.network.check(web)

    run_node(body)


def test_podwire_and_the_reference_make_the_same_pod(run_node):
    """Addresses, routes, MTU and bridge port as `ip` prints them, one after the other."""

    async def body(node):
        seen = []
        for network in (conflist.render_default(subnet_file=str(node.scratch / "subnet.env")), render(node)):
            node.configure(network)
            pod = node.pod("a")
            await node.network.add(pod)
            (eth0,) = json.loads(node.inside(pod, "ip", "-j", "address", "show", "eth0"))
            v4 = next(a for a in eth0["addr_info"] if a["family"] == "inet")
            ports = json.loads(os.popen("bridge -j -d link show").read())
            (cni0,) = json.loads(os.popen("ip -j -4 address show cni0").read())
            seen.append(
                {
                    "eth0": {k: eth0[k] for k in ("ifname", "flags", "mtu", "operstate", "group")},
                    "address": {k: v4.get(k) for k in ("local", "prefixlen", "broadcast", "scope")},
                    "routes": sorted(routes(node, pod)),
                    "port": [(p["master"], p["state"], p["hairpin"], p["mtu"]) for p in ports],
                    "bridge": [(a["local"], a["prefixlen"], a["broadcast"]) for a in cni0["addr_info"]],
                    "bridge mtu": cni0["mtu"],
                    "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
                }
            )
            await node.network.delete(pod)
            node.netns.remove(pod.netns)
            os.system("ip link delete cni0")
        assert seen[0] == seen[1]

    run_node(body)


def test_portmap_and_tuning_chained_behind_podwire(run_node):
    async def body(node):
        own = conflist.render_default(subnet_file=str(node.scratch / "subnet.env"))
        node.configure(
            conflist.with_chained(
                own,
                {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
                {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}},
            )
        )
        client = node.outside("client", "192.0.2.9/24", "192.0.2.1/24")
        web = node.pod("web", HostPort(8080, 80))
        assert await node.network.add(web) == (ip_address("10.244.1.2"),)
        assert node.inside(web, "cat", "/proc/sys/net/core/somaxconn").strip() == "500"
        node.serve(web, 80, "hello")
        assert node.ask(client, "192.0.2.1", 8080).startswith("hello")
        assert not (node.scratch / "data/cbr0/ports/tcp:8080").is_symlink()
        # (portmap 1.1.1's CHECK wants its IPv6 chain even when the pod has IPv4 only: not asked here)
        await node.restart().network.delete(web)
        assert node.ask(client, "192.0.2.1", 8080) == ""

    run_node(body)


def kernel_shapes():
    """Whether this kernel has the queueing discipline that the plugin `bandwidth` sets."""
    probe = (
        "ip link add v0 type veth peer name v1 && tc qdisc add dev v0 root tbf rate 1mbit burst 10k latency 25ms"
        " && ip link add f0 type ifb"
    )
    done = subprocess.run(["unshare", "-rn", "sh", "-c", probe], capture_output=True)
    return done.returncode == 0


@pytest.mark.skipif(not kernel_shapes(), reason="this kernel has no tbf or ifb")
def test_bandwidth_chained_behind_podwire(run_node):
    async def body(node):
        own = conflist.render_default(subnet_file=str(node.scratch / "subnet.env"))
        node.configure(conflist.with_chained(own, {"type": "bandwidth", "capabilities": {"bandwidth": True}}))
        slow = node.pod("slow", annotations={"kubernetes.io/ingress-bandwidth": "10M"})
        free = node.pod("free")
        await node.network.add(slow)
        await node.network.add(free)
        assert os.popen("tc qdisc show").read().count("rate 10Mbit") == 1
        await node.network.check(slow)
        await node.network.delete(slow)
        assert "rate" not in os.popen("tc qdisc show").read()

    run_node(body)


def test_a_plugin_that_fails_in_the_middle_is_undone(run_node):
    async def body(node):
        broken = node.scratch / "bin"
        broken.mkdir()
        (broken / "fails").write_text('#!/bin/sh\necho \'{"cniVersion":"1.0.0","code":7,"msg":"no"}\'\nexit 1\n')
        (broken / "fails").chmod(0o755)
        own = conflist.render_default(subnet_file=str(node.scratch / "subnet.env"))
        node.configure(conflist.with_chained(own, {"type": "fails"}))
        node.network._invoker._path = (broken,)
        pod = node.pod("a")
        with pytest.raises(MachineError, match=r"ADD pod default/a: fails: no \(code 7\)"):
            await node.network.add(pod)
        with pytest.raises(MachineError, match=r"DEL pod default/a: fails: no"):
            await node.network.delete(pod)
        links = {link.name for link in node.plugin._kernel.links.links()}
        assert links == {"lo", "cni0"}  # the plugin before it was undone all the same
        (broken / "fails").write_text("#!/bin/sh\n")
        await node.network.delete(pod)
        assert os.listdir(node.scratch / "cache/results") == []

    run_node(body)
