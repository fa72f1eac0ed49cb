"""Programmer and agent over an nftables in memory: convergence, adoption, conflicts, failures."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import Any

from podwire.client.fake import FakeClient
from podwire.kernel.nft.fake import FakeNft
from podwire.model.errors import MachineError
from podwire.model.objects import Key, Obj, key_of
from podwire.model.resources import ENDPOINTSLICES, SERVICES
from podwire.proxy.agent import ProxyAgent
from podwire.proxy.apply.nftables import NftablesDataplane
from podwire.proxy.desired import Here
from podwire.proxy.plan import plan_service
from podwire.proxy.programmer import Programmer
from podwire.proxy.render import nftables as render

HERE = Here("n1", (ip_address("192.168.71.10"),))
NETS = [ip_network("10.244.0.0/16")], [ip_network("10.96.0.0/12")]


def service(name: str, ip: str, created: str = "2026", **spec: Any) -> Obj:
    ports = [{"name": "t", "port": 80, "protocol": "TCP", "nodePort": spec.pop("nodePort", 0)},
             {"name": "u", "port": 80, "protocol": "UDP"}]  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "creationTimestamp": created},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports} | spec,
    }  # fmt: skip


def piece(name: str, *lasts: int) -> Obj:
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "t", "port": 8080, "protocol": "TCP"},
                                         {"name": "u", "port": 8080, "protocol": "UDP"}],
        "endpoints": [{"addresses": [f"10.244.1.{n}"], "nodeName": "n1", "conditions": {"ready": True}} for n in lasts],
    }  # fmt: skip


class Flows:
    """A flow table that remembers what it was told to forget."""

    def __init__(self) -> None:
        self.forgotten: list[tuple[str, int, str, int]] = []

    def forget(self, protocol: int, destination: Any, port: int, reply: Any = None, reply_port: int = 0) -> int:
        self.forgotten.append((str(destination), port, str(reply), reply_port))
        return 1


def state(nft: FakeNft) -> dict[str, dict[bytes, Any]]:
    return {name: held for name, held in nft.tables["inet", "podwire-proxy"].items() if held}


class Node:
    """A programmer that is given objects by name, and what it should then hold."""

    def __init__(self, nft: FakeNft | None = None, flows: Flows | None = None) -> None:
        self.nft = nft or FakeNft()
        self.programmer = Programmer(NftablesDataplane(self.nft, [4], *NETS), flows)

    def program(self, *pairs: tuple[Obj, Obj | None], gone: tuple[str, ...] = ()) -> Any:
        plans: dict[Key, Any] = {Key("default", name): None for name in gone}
        plans |= {key_of(s): plan_service(s, [p] if p else [], HERE) for s, p in pairs}
        return self.programmer.program(plans)


def random_cluster(rng: random.Random) -> list[tuple[Obj, Obj | None]]:
    pairs = []
    for i in rng.sample(range(8), rng.randrange(1, 7)):
        spec: dict[str, Any] = rng.choice(
            [{}, {"type": "NodePort", "nodePort": 30000 + i % 3}, {"externalIPs": ["198.51.100.1"]},
             {"type": "NodePort", "nodePort": 30000 + i, "externalTrafficPolicy": "Local"},
             {"sessionAffinity": "ClientIP"}, {"internalTrafficPolicy": "Local"}]
        )  # fmt: skip
        s = service(f"s{i}", f"10.96.0.{i % 6 + 1}", created=str(2020 + rng.randrange(3)), **spec)
        pairs.append((s, piece(f"s{i}", *rng.sample(range(1, 9), rng.randrange(0, 6)))))
    return pairs


def test_any_path_to_a_cluster_ends_in_the_same_kernel_state() -> None:
    rng = random.Random(11)
    for _ in range(150):
        final = random_cluster(rng)
        fresh = Node()
        fresh.program(*final)
        walker = Node()
        walker.program()
        for _ in range(rng.randrange(1, 4)):
            for pair in random_cluster(rng):
                walker.program(pair)
        wanted = {key_of(s).name for s, _ in final}
        leave = [f"s{i}" for i in range(8) if f"s{i}" not in wanted]
        steps: list[Any] = [*final, *leave]
        rng.shuffle(steps)
        for step in steps:
            walker.program(gone=(step,)) if isinstance(step, str) else walker.program(step)
        assert state(walker.nft) == state(fresh.nft)


def test_a_restart_writes_only_the_difference() -> None:
    rng = random.Random(5)
    for _ in range(50):
        nft = FakeNft()
        Node(nft).program(*random_cluster(rng))
        final = random_cluster(rng)
        Node(nft).program(*final)
        fresh = Node()
        fresh.program(*final)
        assert state(nft) == state(fresh.nft)
        writes = len(nft.changes)
        assert Node(nft).program(*final).changed == 0
        assert len(nft.changes) == writes


def test_one_changed_endpoint_is_a_handful_of_elements() -> None:
    node = Node()
    many = [(service(f"s{i}", f"10.96.1.{i}"), piece(f"s{i}", 1, 2, 3)) for i in range(1, 100)]
    node.program(*many)
    before = len(node.nft.scripts)
    outcome = node.program((many[0][0], piece("s1", 1, 2, 4)))
    assert outcome.changed == 2 * 2 + 1  # each protocol's third endpoint, deleted and added; the new pod's hairpin
    assert len(node.nft.scripts) == before


def test_the_older_service_keeps_a_contested_address_and_the_other_gets_it_after() -> None:
    node = Node()
    old = service("old", "10.96.0.1", "2020", externalIPs=["198.51.100.1"]), piece("old", 1)
    new = service("new", "10.96.0.2", "2024", externalIPs=["198.51.100.1"]), piece("new", 2)
    outcome = node.program(new, old)
    (problem, _) = outcome.problems[Key("default", "new")]
    assert "belongs to Service default/old" in str(problem)
    owners = {e.comment for e in state(node.nft)["external-ips"].values()}
    assert owners == {"default/old:t", "default/old:u"}
    outcome = node.program(gone=("old",))
    assert outcome.problems[Key("default", "new")] == ()
    owners = {e.comment for e in state(node.nft)["external-ips"].values()}
    assert owners == {"default/new:t", "default/new:u"}


def test_udp_flows_of_gone_endpoints_are_forgotten_and_tcp_ones_left() -> None:
    flows = Flows()
    node = Node(flows=flows)
    node.program((service("s", "10.96.0.1"), piece("s")))
    assert flows.forgotten == []
    node.program((service("s", "10.96.0.1"), piece("s", 1, 2)))
    assert flows.forgotten == [("10.96.0.1", 80, "10.96.0.1", 80)]  # sent before there was an endpoint
    flows.forgotten.clear()
    node.program((service("s", "10.96.0.1"), piece("s", 2)))
    assert flows.forgotten == [("10.96.0.1", 80, "10.244.1.1", 8080)]
    flows.forgotten.clear()
    restarted = Node(node.nft, flows)
    restarted.program((service("s", "10.96.0.1"), piece("s")))
    assert ("10.96.0.1", 80, "10.244.1.2", 8080) in flows.forgotten


def test_the_skeleton_does_not_grow_with_services() -> None:
    small, large = Node(), Node()
    small.program((service("s", "10.96.0.1"), piece("s", 1, 2)))
    large.program(*((service(f"s{i}", f"10.96.1.{i}"), piece(f"s{i}", 1, 2)) for i in range(1, 200)))
    assert small.nft.scripts == large.nft.scripts


def test_every_chain_that_data_name_exists() -> None:
    node = Node()
    node.program((service("s", "10.96.0.1"), piece("s", *range(1, 40))))
    node.program((service("s", "10.96.0.1", sessionAffinity="ClientIP"), piece("s", *range(1, 60))))
    chains = node.nft.chains["inet", "podwire-proxy"]
    for held in state(node.nft).values():
        assert {render.chain_of(e) for e in held.values()} - {""} <= chains


@asynccontextmanager
async def running(client: FakeClient, nft: FakeNft) -> AsyncIterator[ProxyAgent]:
    agent = ProxyAgent("n1", HERE.addresses, NETS[0], client, nft, service_cidrs=NETS[1], listen=False)
    task = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(check: Any) -> None:
    async with asyncio.timeout(5):
        while not check():
            await asyncio.sleep(0.002)


async def test_the_agent_follows_the_api() -> None:
    client, nft = FakeClient(), FakeNft()
    client.seed(SERVICES, service("s", "10.96.0.1"))
    async with running(client, nft) as agent:
        await asyncio.wait_for(agent.synced.wait(), 5)
        assert set(state(nft)) == {"cluster-ips", "no-endpoint-ips"}
        await client.create(ENDPOINTSLICES, piece("s", 1, 2))
        await eventually(lambda: len(state(nft).get("tcp-endpoints", ())) == 2)
        assert "no-endpoint-ips" not in state(nft)
        await client.delete(SERVICES, "s", "default")
        await eventually(lambda: not state(nft))
        assert agent.status.healthy


async def test_nothing_is_programmed_before_both_collections_are_there() -> None:
    class Halting(FakeClient):
        gate = asyncio.Event()

        async def list(self, resource: Any, namespace: str = "", **selectors: str) -> Any:
            if resource == ENDPOINTSLICES:
                await self.gate.wait()
            return await super().list(resource, namespace, **selectors)

    client, nft = Halting(), FakeNft()
    client.seed(SERVICES, service("s", "10.96.0.1"))
    async with running(client, nft) as agent:
        await asyncio.sleep(0.05)
        assert nft.tables == {}
        assert not agent.status.healthy
        client.gate.set()
        await asyncio.wait_for(agent.synced.wait(), 5)


async def test_a_failure_is_told_and_made_good() -> None:
    client, nft = FakeClient(), FakeNft()
    client.seed(SERVICES, service("s", "10.96.0.1"))
    client.seed(ENDPOINTSLICES, piece("s", 1))
    async with running(client, nft) as agent:
        await asyncio.wait_for(agent.synced.wait(), 5)
        nft.fail_next = MachineError("kernel/nft", "change", "x", "No space left on device")
        await client.create(SERVICES, service("t", "10.96.0.2"))
        await eventually(lambda: agent.status.failures == 1)
        await eventually(lambda: agent.status.healthy and len(state(nft)["cluster-ips"]) == 2)


def test_a_bad_port_and_a_good_service_live_side_by_side() -> None:
    node = Node()
    bad = service("bad", "10.96.0.2")
    bad["spec"]["ports"][0]["port"] = 99999
    outcome = node.program((service("s", "10.96.0.1"), piece("s", 1)), (bad, None))
    assert [p.field for p in outcome.problems[Key("default", "bad")]] == ["spec.ports[0].port"]
    assert len(state(node.nft)["service-ips"]) == 2


async def test_bridged_packets_are_made_to_pass_netfilter() -> None:
    class Knobs:
        seen: list[tuple[str, str]] = []

        def get(self, name: str) -> str | None:
            return None

        def set(self, name: str, value: str) -> bool:
            self.seen.append((name, value))
            return name.endswith("iptables")

    client = FakeClient()
    agent = ProxyAgent("n1", HERE.addresses, NETS[0], client, FakeNft(), sysctl=Knobs(), listen=False)
    task = asyncio.create_task(agent.run())
    await asyncio.wait_for(agent.synced.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert Knobs.seen == [("net/bridge/bridge-nf-call-iptables", "1"), ("net/bridge/bridge-nf-call-ip6tables", "1")]
