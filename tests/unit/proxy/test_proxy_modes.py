"""The mode that a ConfigMap asks for, and the agent that follows it without a gap."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from podwire.client.fake import FakeClient
from podwire.kernel.iptables.fake import FakeIptables
from podwire.kernel.nft.fake import FakeNft
from podwire.model.errors import Unsupported
from podwire.model.objects import Obj
from podwire.model.resources import CONFIGMAPS, ENDPOINTSLICES, EVENTS, SERVICES
from podwire.proxy import modes
from podwire.proxy.agent import ProxyAgent

NETS = [ip_network("10.244.0.0/16")], [ip_network("10.96.0.0/12")]
VIP = "10.96.0.1"


def config(mode: str) -> Obj:
    return modes.config_map(mode, NETS[0])


@pytest.mark.parametrize(
    ("mode", "words"),
    [("ipvs", "no ip_vs"), ("userspace", "1.26"), ("kernelspace", "Windows"), ("magic", "no mode")],
)
def test_other_modes_are_refused_with_reason_and_alternatives(mode: str, words: str) -> None:
    chosen, problem = modes.choose(config(mode), "nftables")
    assert chosen == "nftables"
    assert problem is not None
    assert words in problem.why
    assert "nftables or iptables" in problem.why


def test_modes_that_are_had() -> None:
    assert modes.choose(None, "iptables") == ("iptables", None)
    assert modes.choose(config(""), "nftables") == ("nftables", None)
    assert modes.choose(config("iptables"), "nftables") == ("iptables", None)
    chosen, problem = modes.choose(config("") | {"data": {"config.conf": "mode: [\n"}}, "nftables")
    assert chosen == "nftables"
    assert problem is not None


class World:
    def __init__(self) -> None:
        self.client, self.nft, self.iptables = FakeClient(), FakeNft(), FakeIptables()
        ports: list[Any] = [{"name": "t", "port": 80, "protocol": "TCP"}]
        meta = {"namespace": "default", "name": "web", "creationTimestamp": "2026"}
        spec = {"type": "ClusterIP", "clusterIP": VIP, "clusterIPs": [VIP], "ports": ports}
        self.client.seed(SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        label = {"kubernetes.io/service-name": "web"}
        self.client.seed(
            ENDPOINTSLICES,
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"namespace": "default", "name": "web-1", "labels": label}, "addressType": "IPv4",
                "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}], "endpoints": [{"addresses": ["10.244.1.1"]}],
            },
        )  # fmt: skip

    @asynccontextmanager
    async def agent(self) -> Any:
        made = ProxyAgent(
            "n1", [ip_address("192.168.71.10")], NETS[0], self.client, self.nft,
            service_cidrs=NETS[1], listen=False, iptables=self.iptables,
        )  # fmt: skip
        task = asyncio.create_task(made.run())
        try:
            async with asyncio.timeout(5):
                await made.synced.wait()
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def holds(self) -> tuple[bool, bool]:
        """Return whether nftables has our table, and whether iptables has our chains."""
        return ("inet", "podwire-proxy") in self.nft.tables, VIP in self.iptables.save(4)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_the_agent_follows_its_config_map_and_clears_up() -> None:
    world = World()
    world.client.seed(CONFIGMAPS, config("iptables"))
    async with world.agent() as agent:
        assert agent.status.mode == "iptables"
        assert world.holds() == (False, True)
        await world.client.patch(CONFIGMAPS, "kube-proxy", {"data": config("nftables")["data"]}, "kube-system")
        await until(lambda: world.holds() == (True, False))
        assert agent.status.mode == "nftables"


async def test_a_mode_that_cannot_be_had_leaves_the_old_one_and_an_event() -> None:
    world = World()
    world.client.seed(CONFIGMAPS, config("nftables"))
    async with world.agent() as agent:
        world.iptables.fail_next = Unsupported(
            "kernel/iptables", "find", "iptables-restore", "not installed", "install it"
        )
        await world.client.patch(CONFIGMAPS, "kube-proxy", {"data": config("iptables")["data"]}, "kube-system")
        await until(lambda: agent.status.failures == 1 and agent.status.healthy)
        assert agent.status.mode == "nftables"
        assert world.holds() == (True, False)
        events = (await world.client.list(EVENTS, "kube-system")).items
        assert [e["reason"] for e in events] == ["ProxyModeRefused"]
        assert "not installed" in events[0]["message"]
