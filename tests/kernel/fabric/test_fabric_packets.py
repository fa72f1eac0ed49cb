"""Three nodes on a bridge, real agents, real packets: VXLAN and host-gw, both families, repair.

Everything is in network namespaces made here; nothing has a route to the machine's own network.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from podwire.client.fake import FakeClient
from podwire.fabric.agent import FabricAgent
from podwire.kernel.link.monitor import RealMonitor
from podwire.kernel.link.real import RealLinks
from podwire.kernel.link.values import Bridge, Veth
from podwire.kernel.netns.real import RealNetns
from podwire.kernel.nft.real import RealNft
from podwire.kernel.route.real import RealRoutes
from podwire.kernel.route.values import Route
from podwire.kernel.sysctl.real import RealSysctl
from podwire.model.resources import CONFIGMAPS, NODES

pytestmark = pytest.mark.kernel
PREFIX = "flannel.alpha.coreos.com/"
ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")


class NodeSysctl:
    """RealSysctl of another namespace."""

    def __init__(self, netns, fd):
        self._netns, self._fd = netns, fd

    def get(self, name):
        return self._netns.within(self._fd, lambda: RealSysctl().get(name))

    def set(self, name, value):
        return self._netns.within(self._fd, lambda: RealSysctl().set(name, value))


class Net:
    """An underlay bridge and nodes with one pod each."""

    def __init__(self, nodes=3):
        self.netns = RealNetns()
        self.fds, self.open = [], []
        self.under = self._namespace()
        self.links = self._bind(self.under, RealLinks)
        self.bridge = self.links.create(Bridge("underlay0"))
        self.links.set_up(self.bridge.index)
        self.links.add_addresses(self.bridge.index, [ip_interface("192.168.71.1/24"), ip_interface("fd00:71::1/64")])
        self.nodes = [self._node(n) for n in range(nodes)]
        self.pods = [self._pod(n) for n in range(nodes)]

    def _namespace(self):
        fd = self.netns.make()
        self.fds.append(fd)
        # Link-local addresses are tentative for a second or two otherwise, and nothing is forwarded meanwhile.
        NodeSysctl(self.netns, fd).set("net/ipv6/conf/default/dad_transmits", "0")
        return fd

    def _bind(self, fd, factory):
        made = self.netns.within(fd, factory)
        self.open.append(made)
        return made

    def _node(self, n):
        fd = self._namespace()
        near = self.links.create(Veth(f"n{n}", "eth0", fd, master=self.bridge.index, up=True))
        links, routes = self._bind(fd, RealLinks), self._bind(fd, RealRoutes)
        eth0 = [ip_interface(f"192.168.71.{10 + n}/24"), ip_interface(f"fd00:71::{10 + n}/64")]
        links.add_addresses(near.peer, eth0, up=True)
        routes.replace(Route(ANY4, near.peer, ip_address("192.168.71.1")))
        return fd, links, routes

    def _pod(self, n):
        _, links, _ = self.nodes[n]
        fd = self._namespace()
        cni0 = links.create(Bridge("cni0", mac=f"02:00:00:00:0a:{n:02x}"))
        links.set_up(cni0.index)
        gateways = [ip_interface(f"10.244.{n}.1/24"), ip_interface(f"fd00:10:244:{n}::1/64")]
        links.add_addresses(cni0.index, gateways)
        near = links.create(Veth("pod0", "eth0", fd, master=cni0.index, up=True))
        inside, routes = self._bind(fd, RealLinks), self._bind(fd, RealRoutes)
        own = [ip_interface(f"10.244.{n}.5/24"), ip_interface(f"fd00:10:244:{n}::5/64")]
        inside.add_addresses(near.peer, own, up=True)
        routes.replace_all([Route(ANY4, near.peer, gateways[0].ip), Route(ANY6, near.peer, gateways[1].ip)])
        return fd

    def node_object(self, n, dual):
        subnets = [f"10.244.{n}.0/24", f"fd00:10:244:{n}::/64"][: 2 if dual else 1]
        addresses = [f"192.168.71.{10 + n}", f"fd00:71::{10 + n}"]
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"node-{n}"},
            "spec": {"podCIDR": subnets[0], "podCIDRs": subnets},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]},
        }

    def agent(self, n, client, path):
        fd, links, routes = self.nodes[n]
        return FabricAgent(
            f"node-{n}",
            client,
            links,
            routes,
            self._bind(fd, RealNft),
            NodeSysctl(self.netns, fd),
            monitor=self._bind(fd, RealMonitor),
            subnet_file=path / f"node-{n}" / "subnet.env",
        )

    def run(self, fd, *command, **more):
        """Run a command in a namespace and return its output. It fails the test when it fails."""

        def enter():
            return subprocess.run(command, capture_output=True, text=True, timeout=15, check=False, **more)

        done = self.netns.within(fd, enter)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def ping(self, a, b, *more):
        for address in (f"10.244.{b}.5", *more):
            self.run(self.pods[a], "ping", "-c1", "-W2", address)

    def tcp(self, a, b, address, family):
        """Connect from pod ``a`` to pod ``b``; return the client address that the server saw."""
        import socket

        def listen():
            s = socket.socket(family, socket.SOCK_STREAM)
            s.bind((address, 8080))
            s.listen()
            s.settimeout(5)
            return s

        def connect():
            c = socket.socket(family, socket.SOCK_STREAM)
            c.settimeout(5)
            c.connect((address, 8080))
            return c

        with self.netns.within(self.pods[b], listen) as server, self.netns.within(self.pods[a], connect) as c:
            connection, peer = server.accept()
            with connection:
                c.sendall(b"x" * 100_000)
                c.shutdown(socket.SHUT_WR)
                received = 0
                while part := connection.recv(65536):
                    received += len(part)
        assert received == 100_000
        return peer[0]

    def close(self):
        for thing in self.open:
            thing.close()
        for fd in self.fds:
            os.close(fd)


@contextlib.asynccontextmanager
async def cluster(net, conf, path, dual=False):
    """Run the agents of all nodes over one API; yield it when every node is ready and sees every peer."""
    client = FakeClient()
    client.seed(
        CONFIGMAPS,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": "kube-flannel", "name": "kube-flannel-cfg"},
            "data": {"net-conf.json": json.dumps(conf)},
        },
    )
    for n in range(len(net.nodes)):
        client.seed(NODES, net.node_object(n, dual))
    agents = [net.agent(n, client, path) for n in range(len(net.nodes))]
    tasks = [asyncio.create_task(agent.run()) for agent in agents]
    try:
        async with asyncio.timeout(10):
            await asyncio.gather(*(agent.ready.wait() for agent in agents))
            wanted = (len(net.nodes) - 1) * (2 if dual else 1)
            while any(len(peer_routes(net, n)) < wanted for n in range(len(net.nodes))):
                await asyncio.sleep(0.01)
        yield client
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def peer_routes(net, n):
    return [r for r in net.nodes[n][2].routes() if r.via and r.destination.prefixlen]


async def until(predicate):
    async with asyncio.timeout(5):
        while not predicate():
            await asyncio.sleep(0.005)


@pytest.fixture
def net():
    made = Net()
    yield made
    made.close()


DUAL = {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:10:244::/56"}


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
async def test_pods_of_three_nodes_reach_one_another_in_both_families(net, tmp_path, backend):
    import socket

    async with cluster(net, {**DUAL, "Backend": {"Type": backend}}, tmp_path, dual=True):
        for a in range(3):
            for b in range(3):
                if a != b:
                    net.ping(a, b, f"fd00:10:244:{b}::5")
        assert net.tcp(0, 1, "10.244.1.5", socket.AF_INET) == "10.244.0.5"
        assert net.tcp(2, 0, "fd00:10:244::5", socket.AF_INET6) == "fd00:10:244:2::5"


async def test_the_kernel_shows_what_the_guide_shows(net, tmp_path):
    async with cluster(net, {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}, tmp_path):
        node = net.nodes[0][0]
        routes = net.run(node, "ip", "route").splitlines()
        assert "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink" in [line.strip() for line in routes]
        shown = net.run(node, "ip", "-d", "addr", "show", "flannel.1")
        assert "mtu 1450" in shown
        assert "vxlan id 1 local 192.168.71.10 dev eth0" in shown
        assert "dstport 8472 nolearning" in shown
        assert "inet 10.244.0.0/32 scope global flannel.1" in shown
        assert net.run(node, "ip", "neigh", "show", "dev", "flannel.1").count("PERMANENT") == 2
        fdb = net.run(node, "bridge", "fdb", "show", "dev", "flannel.1")
        assert "dst 192.168.71.11 self permanent" in fdb


async def test_a_full_sized_packet_crosses_unfragmented(net, tmp_path):
    async with cluster(net, {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}, tmp_path):
        # 1450 = 20 IP + 8 ICMP + 1422
        net.run(net.pods[0], "ping", "-c1", "-W2", "-M", "do", "-s", "1422", "10.244.1.5")


async def test_only_traffic_that_leaves_the_cluster_is_masqueraded(net, tmp_path):
    import socket

    async with cluster(net, {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}, tmp_path):

        def listen():
            s = socket.create_server(("192.168.71.1", 9000))
            s.settimeout(5)
            return s

        def connect():
            return socket.create_connection(("192.168.71.1", 9000), timeout=5)

        with net.netns.within(net.under, listen) as server, net.netns.within(net.pods[1], connect):
            connection, peer = server.accept()
            connection.close()
        assert peer[0] == "192.168.71.11"
        assert net.tcp(1, 0, "10.244.0.5", socket.AF_INET) == "10.244.1.5"


@pytest.mark.parametrize(
    "harm",
    [
        "ip link del flannel.1",
        "ip link set flannel.1 down",
        "ip route del 10.244.1.0/24",
        "ip route replace 10.244.1.0/24 via 192.168.71.1 dev eth0",
        "ip neigh del 10.244.1.0 dev flannel.1",
        "ip neigh flush dev flannel.1 nud permanent",
        "bridge fdb flush dev flannel.1 || bridge fdb del 02:00:00:00:00:00 dev flannel.1",
        "ip addr flush dev flannel.1",
        "ip link set flannel.1 address 02:66:66:66:66:66",
        "ip link set flannel.1 mtu 1300",
        "ip link del flannel.1; ip link add flannel.1 type vxlan id 9 dstport 4789 dev eth0 local 192.168.71.10",
    ],
)
async def test_what_somebody_breaks_is_mended_at_once(net, tmp_path, harm):
    async with cluster(net, {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}, tmp_path):
        before = picture(net, 0)
        if "fdb" in harm:
            link = net.nodes[0][1].find("flannel.1").index
            for entry in net.nodes[0][1].fdb(link):
                net.nodes[0][1].delete_fdb(entry)
        else:
            net.run(net.nodes[0][0], "sh", "-c", harm)
        assert picture(net, 0) != before
        await until(lambda: picture(net, 0) == before)
        net.ping(0, 1)


def picture(net, n):
    """Return what the fabric keeps on a node, without link numbers."""
    _, links, routes = net.nodes[n]
    link = links.find("flannel.1")
    if link is None:
        return None
    held = {(str(r.destination), str(r.via), r.link == link.index) for r in routes.routes() if r.via}
    addresses = {str(a.interface) for a in links.addresses(link.index) if a.interface.version == 4}
    neighbours = {(str(e.ip), e.mac) for e in links.neighbours(link.index)}
    fdb = {(e.mac, str(e.remote)) for e in links.fdb(link.index)}
    shape = link.up, link.mac, link.mtu_bytes, link.vxlan and (link.vxlan.vni, link.vxlan.port)
    return shape, held, addresses, neighbours, fdb


async def test_a_dead_agent_s_pods_go_on_and_a_new_one_adopts(net, tmp_path):
    conf = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}
    async with cluster(net, conf, tmp_path):
        before = [picture(net, n) for n in range(3)]
        index = net.nodes[0][1].find("flannel.1").index
    net.ping(0, 1)
    async with cluster(net, conf, tmp_path):
        await asyncio.sleep(0.05)
        assert [picture(net, n) for n in range(3)] == before
        assert net.nodes[0][1].find("flannel.1").index == index
        net.ping(0, 1)


async def test_a_node_that_leaves_is_forgotten(net, tmp_path):
    async with cluster(net, {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}, tmp_path) as client:
        await client.delete(NODES, "node-2")
        await until(lambda: len(peer_routes(net, 0)) == 1)
        link = net.nodes[0][1].find("flannel.1").index
        assert len(net.nodes[0][1].fdb(link)) == len(net.nodes[0][1].neighbours(link)) == 1


async def test_from_vxlan_to_host_gw_in_flight(net, tmp_path):
    async with cluster(net, {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}, tmp_path) as client:
        conf = {"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}
        patch = {"data": {"net-conf.json": json.dumps(conf)}}
        await client.patch(CONFIGMAPS, "kube-flannel-cfg", patch, "kube-flannel")
        gateways = {ip_address("192.168.71.11"), ip_address("192.168.71.12")}
        await until(lambda: {r.via for r in peer_routes(net, 0)} == gateways)
        await until(lambda: all(net.nodes[n][1].find("flannel.1") is None for n in range(3)))
        await until(lambda: all(len(peer_routes(net, n)) == 2 for n in range(3)))
        net.ping(0, 1)
