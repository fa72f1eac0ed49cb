"""The agent on a fake kernel and a fake API: start, peers, repair, change of configuration."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network

import pytest

from podwire.client.fake import FakeClient
from podwire.fabric.agent import FabricAgent
from podwire.kernel.fake import FakeMachine
from podwire.kernel.link.fake import FakeMonitor
from podwire.kernel.link.values import Bridge, Dummy
from podwire.kernel.nft.fake import FakeNft
from podwire.model.objects import Key, condition
from podwire.model.resources import CONFIGMAPS, NODES

PREFIX = "flannel.alpha.coreos.com/"
VXLAN = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}
HOSTGW = {"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}


def configmap(conf):
    text = conf if isinstance(conf, str) else json.dumps(conf)
    meta = {"namespace": "kube-flannel", "name": "kube-flannel-cfg"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"net-conf.json": text}}


def own_node(subnets=("10.244.0.0/24",), ips=("192.168.71.10",)):
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-0"},
        "spec": {"podCIDR": subnets[0], "podCIDRs": list(subnets)} if subnets else {},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in ips]},
    }


def peer_node(number, backend="vxlan", ip=None, mac=None):
    notes = {
        "kube-subnet-manager": "true",
        "backend-type": backend,
        "backend-data": json.dumps({"VNI": 1, "VtepMAC": mac or f"02:00:00:00:00:{number:02x}"})
        if backend == "vxlan"
        else "null",
        "public-ip": ip or f"192.168.71.{10 + number}",
    }
    subnet = f"10.244.{number}.0/24"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number}", "annotations": {PREFIX + k: v for k, v in notes.items()}},
        "spec": {"podCIDR": subnet, "podCIDRs": [subnet]},
        "status": {},
    }


@dataclass
class Stage:
    """One node's fake kernel and the API, with the agent running on them."""

    path: object
    client: FakeClient = field(default_factory=FakeClient)
    machine: FakeMachine = field(default_factory=FakeMachine)
    nft: FakeNft = field(default_factory=FakeNft)
    monitored: bool = True
    resync_s: float = 30.0

    def __post_init__(self):
        self.links, self.routes, self.sysctl = self.machine.links(), self.machine.routes(), self.machine.sysctl()
        eth0 = self.links.create(Dummy("eth0"))
        self.links.set_up(eth0.index)
        self.links.add_addresses(eth0.index, [ip_interface("192.168.71.10/24"), ip_interface("fd00:71::10/64")])
        self.eth0 = eth0.index

    def seed(self, *nodes, conf=VXLAN):
        self.client.seed(CONFIGMAPS, configmap(conf))
        for node in nodes:
            self.client.seed(NODES, node)

    @contextlib.asynccontextmanager
    async def agent(self):
        agent = FabricAgent(
            "node-0",
            self.client,
            self.links,
            self.routes,
            self.nft,
            self.sysctl,
            monitor=FakeMonitor(self.machine) if self.monitored else None,
            subnet_file=self.path,
            resync_s=self.resync_s,
        )
        task = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def node(self):
        return self.client.objects(NODES)[Key("", "node-0")]

    def via(self):
        """Return the fabric's routes as text: what `ip route` shows."""
        names = {link.index: link.name for link in self.links.links()}
        return sorted(
            f"{r.destination} via {r.via} dev {names[r.link]}{' onlink' if r.onlink else ''}"
            for r in self.routes.routes()
            if r.via
        )

    def entries(self, name="flannel.1"):
        link = self.links.find(name)
        neighbours = [f"{n.ip} {n.mac}" for n in self.links.neighbours(link.index)]
        return neighbours, [f"{e.mac} {e.remote}" for e in self.links.fdb(link.index)]


async def until(predicate):
    """Return once ``predicate()`` holds; the test's own time limit ends what never comes."""
    async with asyncio.timeout(5):
        while not predicate():
            await asyncio.sleep(0.002)


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path / "flannel" / "subnet.env")


NODE_1 = "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink"
NODE_2 = "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"


async def test_a_node_comes_up_as_the_guide_shows_it(stage):
    stage.seed(own_node(), peer_node(1))
    async with stage.agent() as agent:
        await agent.ready.wait()
        await until(lambda: condition(stage.node(), "NetworkUnavailable"))
    assert stage.via() == [NODE_1]
    assert stage.entries() == (["10.244.1.0 02:00:00:00:00:01"], ["02:00:00:00:00:01 192.168.71.11"])
    device = stage.links.find("flannel.1")
    assert (device.up, device.mtu_bytes, device.vxlan.local) == (True, 1450, ip_interface("192.168.71.10").ip)
    assert [str(a.interface) for a in stage.links.addresses(device.index)] == ["10.244.0.0/32"]
    assert stage.path.read_text() == (
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
    assert ("ip", "podwire-masq") in stage.nft.tables
    assert stage.sysctl.get("net/ipv4/ip_forward") == "1"
    notes = stage.node()["metadata"]["annotations"]
    assert json.loads(notes[PREFIX + "backend-data"]) == {"VNI": 1, "VtepMAC": device.mac}
    assert notes[PREFIX + "public-ip"] == "192.168.71.10"
    shown = condition(stage.node(), "NetworkUnavailable")
    assert (shown["status"], shown["reason"]) == ("False", "FlannelIsUp")
    assert condition(stage.node(), "FabricReady") is None


async def test_dual_stack(stage):
    conf = {**VXLAN, "EnableIPv6": True, "IPv6Network": "fd00:10:244::/56"}
    peer = peer_node(1)
    peer["spec"]["podCIDRs"].append("fd00:10:244:1::/64")
    peer["metadata"]["annotations"] |= {
        PREFIX + "public-ipv6": "fd00:71::11",
        PREFIX + "backend-v6-data": '{"VNI":1,"VtepMAC":"02:00:00:00:06:01"}',
    }
    own = own_node(("10.244.0.0/24", "fd00:10:244::/64"), ("192.168.71.10", "fd00:71::10"))
    stage.seed(own, peer, conf=conf)
    async with stage.agent() as agent:
        await agent.ready.wait()
    assert stage.via() == [NODE_1, "fd00:10:244:1::/64 via fd00:10:244:1:: dev flannel-v6.1 onlink"]
    assert stage.entries("flannel-v6.1") == (
        ["fd00:10:244:1:: 02:00:00:00:06:01"],
        ["02:00:00:00:06:01 fd00:71::11"],
    )
    assert "FLANNEL_MTU=1430\n" in stage.path.read_text()
    assert stage.sysctl.get("net/ipv6/conf/all/forwarding") == "1"


async def test_what_is_missing_is_waited_for(stage):
    stage.client.seed(NODES, own_node(subnets=()))
    async with stage.agent() as agent:
        await asyncio.sleep(0.02)
        assert not agent.ready.is_set()
        await stage.client.create(CONFIGMAPS, configmap(VXLAN))
        await asyncio.sleep(0.02)
        assert not agent.ready.is_set()
        patch = {"spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]}}
        await stage.client.patch(NODES, "node-0", patch)
        await agent.ready.wait()


async def test_peers_join_change_and_leave(stage):
    stage.seed(own_node())
    async with stage.agent() as agent:
        await agent.ready.wait()
        assert stage.via() == []
        await stage.client.create(NODES, peer_node(1))
        await until(lambda: stage.via() == [NODE_1])
        await stage.client.create(NODES, peer_node(2))
        await until(lambda: stage.via() == [NODE_1, NODE_2])
        moved = peer_node(1, ip="192.168.71.99", mac="02:00:00:00:00:99")
        await stage.client.patch(NODES, "node-1", {"metadata": {"annotations": moved["metadata"]["annotations"]}})
        await until(
            lambda: stage.entries()[1] == ["02:00:00:00:00:02 192.168.71.12", "02:00:00:00:00:99 192.168.71.99"]
        )
        assert stage.entries()[0] == ["10.244.1.0 02:00:00:00:00:99", "10.244.2.0 02:00:00:00:00:02"]
        await stage.client.delete(NODES, "node-1")
        await until(lambda: stage.via() == [NODE_2])
        assert stage.entries() == (["10.244.2.0 02:00:00:00:00:02"], ["02:00:00:00:00:02 192.168.71.12"])


async def test_a_heartbeat_of_a_peer_moves_nothing(stage):
    stage.seed(own_node(), peer_node(1))
    async with stage.agent() as agent:
        await agent.ready.wait()
        await until(lambda: condition(stage.node(), "NetworkUnavailable"))
        told = []
        stage.machine.current.listeners.append(told.append)
        patch = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        await stage.client.patch(NODES, "node-1", patch, kind="strategic", subresource="status")
        await asyncio.sleep(0.02)
        assert told == []


def _delete_device(stage):
    stage.links.delete(stage.links.find("flannel.1").index)


def _delete_route(stage):
    stage.routes.delete(next(r for r in stage.routes.routes() if r.via))


def _bend_route(stage):
    from dataclasses import replace

    route = next(r for r in stage.routes.routes() if r.via)
    stage.routes.replace(replace(route, link=stage.eth0, via=ip_interface("192.168.71.77").ip, onlink=False))


def _delete_neighbour(stage):
    stage.links.delete_neighbour(stage.links.find("flannel.1").index, ip_interface("10.244.1.0").ip)


def _delete_fdb(stage):
    for entry in stage.links.fdb(stage.links.find("flannel.1").index):
        stage.links.delete_fdb(entry)


def _set_down(stage):
    stage.links.set_up(stage.links.find("flannel.1").index, False)


def _steal_address(stage):
    stage.links.delete_address(stage.links.find("flannel.1").index, ip_interface("10.244.0.0/32"))


def _set_mac(stage):
    stage.links.set_mac(stage.links.find("flannel.1").index, "02:66:66:66:66:66")


def _add_stranger(stage):
    from podwire.kernel.route.values import Route

    link = stage.links.find("flannel.1").index
    stage.routes.replace(Route(ip_network("10.244.77.0/24"), link, ip_interface("10.244.77.0").ip, onlink=True))


@pytest.mark.parametrize(
    "harm",
    [
        _delete_device,
        _delete_route,
        _bend_route,
        _delete_neighbour,
        _delete_fdb,
        _set_down,
        _steal_address,
        _set_mac,
        _add_stranger,
    ],
)
async def test_harm_is_repaired_at_once(stage, harm):
    stage.seed(own_node(), peer_node(1))
    async with stage.agent() as agent:
        await agent.ready.wait()
        before = _state(stage)
        harm(stage)
        assert _state(stage) != before
        await until(lambda: _state(stage) == before)


def _state(stage):
    link = stage.links.find("flannel.1")
    if link is None:
        return None
    addresses = [str(a.interface) for a in stage.links.addresses(link.index)]
    return link.up, link.mac, link.mtu_bytes, addresses, stage.via(), stage.entries()


async def test_without_a_monitor_the_resync_repairs(stage):
    stage.monitored, stage.resync_s = False, 0.02
    stage.seed(own_node(), peer_node(1))
    async with stage.agent() as agent:
        await agent.ready.wait()
        _delete_route(stage)
        await until(lambda: stage.via() == [NODE_1])
        stage.nft.apply("delete table ip podwire-masq")
        await until(lambda: ("ip", "podwire-masq") in stage.nft.tables)


async def test_a_restart_changes_nothing(stage):
    stage.seed(own_node(), peer_node(1))
    async with stage.agent() as agent:
        await agent.ready.wait()
        await until(lambda: condition(stage.node(), "NetworkUnavailable"))
    device = stage.links.find("flannel.1")
    told = []
    stage.machine.current.listeners.append(told.append)
    async with stage.agent() as agent:
        await agent.ready.wait()
    assert told == []
    assert stage.links.find("flannel.1") == device


async def test_a_restart_removes_what_grew_stale(stage):
    stage.seed(own_node(), peer_node(1), peer_node(2))
    async with stage.agent() as agent:
        await agent.ready.wait()
    await stage.client.delete(NODES, "node-1")
    async with stage.agent() as agent:
        await agent.ready.wait()
    assert stage.via() == [NODE_2]


async def test_a_known_mac_is_kept_through_a_reboot(stage):
    own = own_node()
    own["metadata"]["annotations"] = {
        PREFIX + "backend-type": "vxlan",
        PREFIX + "backend-data": '{"VNI":1,"VtepMAC":"02:12:34:56:78:9a"}',
    }
    stage.seed(own)
    async with stage.agent() as agent:
        await agent.ready.wait()
    assert stage.links.find("flannel.1").mac == "02:12:34:56:78:9a"


async def test_a_device_with_another_shape_is_made_anew(stage):
    stage.seed(own_node(), peer_node(1), conf={**VXLAN, "Backend": {"Type": "vxlan", "Port": 4789}})
    async with stage.agent() as agent:
        await agent.ready.wait()
    old = stage.links.find("flannel.1")
    await stage.client.update(CONFIGMAPS, configmap(VXLAN))
    async with stage.agent() as agent:
        await agent.ready.wait()
    assert stage.links.find("flannel.1").vxlan.port == 8472
    assert stage.links.find("flannel.1").index != old.index
    assert stage.via() == [NODE_1]


async def test_a_stranger_with_the_device_s_name_is_left_alone_and_told(stage):
    stage.links.create(Bridge("flannel.1"))
    stage.seed(own_node())
    async with stage.agent() as agent:
        await until(lambda: condition(stage.node(), "NetworkUnavailable"))
        assert not agent.ready.is_set()
    shown = condition(stage.node(), "NetworkUnavailable")
    assert shown["status"] == "True"
    assert "flannel.1" in shown["message"]
    assert stage.links.find("flannel.1").kind == "bridge"


async def test_host_gw_routes_over_the_underlay(stage):
    far = peer_node(2, "host-gw", ip="172.16.0.9")
    stage.seed(own_node(), peer_node(1, "host-gw"), far, conf=HOSTGW)
    async with stage.agent() as agent:
        await agent.ready.wait()
        await until(lambda: condition(stage.node(), "FabricReady"))
    assert stage.via() == ["10.244.1.0/24 via 192.168.71.11 dev eth0"]
    assert stage.links.find("flannel.1") is None
    shown = condition(stage.node(), "FabricReady")
    assert shown["status"] == "False"
    assert "Node node-2" in shown["message"]
    assert condition(stage.node(), "NetworkUnavailable")["status"] == "False"
    assert "FLANNEL_MTU=1500\n" in stage.path.read_text()


async def test_the_backend_changes_in_flight(stage):
    stage.seed(own_node(), peer_node(1))
    async with stage.agent() as agent:
        await agent.ready.wait()
        await stage.client.update(CONFIGMAPS, configmap(HOSTGW))
        notes = {PREFIX + "backend-type": "host-gw", PREFIX + "backend-data": "null"}
        await stage.client.patch(NODES, "node-1", {"metadata": {"annotations": notes}})
        await until(lambda: stage.via() == ["10.244.1.0/24 via 192.168.71.11 dev eth0"])
        assert stage.links.find("flannel.1") is None
        await until(lambda: stage.node()["metadata"]["annotations"][PREFIX + "backend-data"] == "null")


async def test_a_bad_configuration_leaves_the_good_one_in_force(stage):
    stage.seed(own_node(), peer_node(1))
    async with stage.agent() as agent:
        await agent.ready.wait()
        await stage.client.update(CONFIGMAPS, configmap({**VXLAN, "Backend": {"Type": "ipsec"}}))
        await until(lambda: condition(stage.node(), "FabricReady"))
        shown = condition(stage.node(), "FabricReady")
        assert "'ipsec'" in shown["message"]
        assert condition(stage.node(), "NetworkUnavailable")["status"] == "False"
        assert stage.via() == [NODE_1]
        await stage.client.update(CONFIGMAPS, configmap(VXLAN))
        await until(lambda: condition(stage.node(), "FabricReady")["status"] == "True")


async def test_a_bad_configuration_at_start_is_told(stage):
    stage.seed(own_node(), conf="{")
    async with stage.agent() as agent:
        await until(lambda: condition(stage.node(), "NetworkUnavailable"))
        assert condition(stage.node(), "NetworkUnavailable")["reason"] == "BadConfiguration"
        assert not agent.ready.is_set()


async def test_annotations_and_conditions_that_others_wipe_come_back(stage):
    stage.resync_s = 0.05
    stage.seed(own_node())
    async with stage.agent() as agent:
        await agent.ready.wait()
        await until(lambda: condition(stage.node(), "NetworkUnavailable"))
        await stage.client.patch(NODES, "node-0", {"metadata": {"annotations": {PREFIX + "public-ip": None}}})
        await until(lambda: PREFIX + "public-ip" in stage.node()["metadata"]["annotations"])
        patch = {"status": {"conditions": []}}
        await stage.client.patch(NODES, "node-0", patch, subresource="status")
        await until(lambda: condition(stage.node(), "NetworkUnavailable"))


async def test_the_underlay_gets_another_address(stage):
    stage.seed(own_node(), peer_node(1))
    async with stage.agent() as agent:
        await agent.ready.wait()
        stage.links.add_address(stage.eth0, ip_interface("192.168.71.50/24"))
        addresses = [{"type": "InternalIP", "address": "192.168.71.50"}]
        await stage.client.patch(NODES, "node-0", {"status": {"addresses": addresses}}, subresource="status")
        await until(lambda: stage.node()["metadata"]["annotations"].get(PREFIX + "public-ip") == "192.168.71.50")
        assert str(stage.links.find("flannel.1").vxlan.local) == "192.168.71.50"
        assert stage.via() == [NODE_1]
