"""The agent and the gate on a fake API and a fake kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from podwire.client.fake import FakeClient
from podwire.kernel.nft.fake import FakeNft
from podwire.model.errors import MachineError
from podwire.model.objects import Key
from podwire.model.podnetwork import Attachment
from podwire.model.resources import CRDS, EVENTS, NAMESPACES, NETWORKPOLICIES, NODES, PODS
from podwire.policy.agent import CLUSTER_POLICIES, PolicyAgent, problems_of, trim_pod
from podwire.policy.gate import PolicyGate
from podwire.policy.parse import read_policy
from podwire.policy.snapshot import parse_pod

IP = ip_address("10.244.0.9")


def pod(name: str, ip: str = "", node: str = "node-0", **labels: str) -> dict[str, Any]:
    status = {"phase": "Running", "podIPs": [{"ip": ip}]} if ip else {"phase": "Pending"}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": f"u-{name}", "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "nginx"}]}, "status": status,
    }  # fmt: skip


def policy(name: str, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta,
        "spec": spec or {"podSelector": {}},
    }


def attachment(name: str) -> Attachment:
    return Attachment(f"box-{name}", Path("/run/netns/x"), "default", name, f"u-{name}")


class FakePods:
    """A pod network that gives one address."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def status(self) -> str:
        return ""

    async def add(self, attachment: Attachment) -> tuple[Any, ...]:
        self.calls.append(f"add {attachment.name}")
        return (IP,)

    async def delete(self, attachment: Attachment) -> None:
        self.calls.append(f"delete {attachment.name}")

    async def check(self, attachment: Attachment) -> None:
        self.calls.append("check")

    async def collect_garbage(self, alive: tuple[Attachment, ...]) -> None:
        self.calls.append("gc")


class World:
    def __init__(self) -> None:
        self.client, self.nft, self.pods = FakeClient(), FakeNft(), FakePods()
        self.agent = PolicyAgent("node-0", (4,), self.client, self.nft)
        self.gate = PolicyGate(self.pods, self.agent)

    def lead(self, direction: str = "ingress", ip: Any = IP) -> str:
        """Return what the kernel does with packets of this address; "" when it does not know it."""
        for (_, table), sets in self.nft.tables.items():
            if table.startswith("podwire-policy") and ip.packed in sets[f"{direction}-pods"]:
                return sets[f"{direction}-pods"][ip.packed].verdict
        return ""

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0.002)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}}
    await made.client.create(NODES, node)
    task = asyncio.create_task(made.agent.run())
    await made.until(made.agent.synced.is_set)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_network_takes_no_pods_before_policies_are_in_force() -> None:
    fresh = World()
    assert "not in force" in await fresh.gate.status()


async def test_a_pod_is_open_or_isolated_before_add_returns(world: World) -> None:
    assert await world.gate.status() == ""
    await world.client.create(NETWORKPOLICIES, policy("closed"))
    await world.client.create(PODS, pod("web"))
    assert world.lead() == ""
    assert await world.gate.add(attachment("web")) == (IP,)
    assert world.lead().startswith("goto ingress-of-")
    assert world.lead("egress") == "accept"
    await world.gate.delete(attachment("web"))
    await world.until(lambda: world.lead() == "")
    assert world.pods.calls == ["add web", "delete web"]


async def test_a_pod_whose_object_never_comes_is_not_admitted(world: World) -> None:
    world.agent.admit_within_s = 0.05
    with pytest.raises(MachineError, match="did not arrive"):
        await world.gate.add(attachment("ghost"))
    assert world.lead() == ""


async def test_a_pod_of_the_same_name_is_another_pod(world: World) -> None:
    await world.client.create(PODS, pod("web"))
    other = Attachment("box-2", Path("/x"), "default", "web", "u-another")
    waiting = asyncio.create_task(world.gate.add(other))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await world.client.delete(PODS, "web", "default", grace_period_s=0)
    await world.client.create(PODS, {**pod("web"), "metadata": {**pod("web")["metadata"], "uid": "u-another"}})
    assert await waiting == (IP,)
    world.agent.release(attachment("web"))
    await asyncio.sleep(0.01)
    assert world.lead() == "accept"


async def test_labels_policies_and_namespaces_take_effect(world: World) -> None:
    await world.client.create(PODS, pod("web", "10.244.0.9", app="web"))
    await world.until(lambda: world.lead() == "accept")
    await world.client.create(NETWORKPOLICIES, policy("np", {"podSelector": {"matchLabels": {"app": "web"}}}))
    await world.until(lambda: world.lead().startswith("goto"))
    await world.client.patch(PODS, "web", {"metadata": {"labels": {"app": "other"}}}, "default")
    await world.until(lambda: world.lead() == "accept")
    await world.client.delete(NETWORKPOLICIES, "np", "default")
    await world.client.delete(PODS, "web", "default", grace_period_s=0)
    await world.until(lambda: world.lead() == "")


async def test_cluster_policies_are_followed_once_the_api_serves_them(world: World) -> None:
    await world.client.create(PODS, pod("web", "10.244.0.9"))
    resource = CLUSTER_POLICIES[0]
    await world.client.create(
        CRDS,
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{resource.plural}.{resource.group}"},
            "spec": {},
        },
    )
    rule = {"action": "Deny", "from": [{"namespaces": {}}]}
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [rule]}
    await world.client.create(
        resource,
        {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "deny"}, "spec": spec},
    )
    await world.until(lambda: world.lead().startswith("goto"))


async def test_a_policy_that_cannot_be_read_closes_its_pods_and_says_so(world: World) -> None:
    await world.client.create(PODS, pod("web", "10.244.0.9"))
    bad = policy("bad", {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "nonsense"}}]}]})
    await world.client.create(NETWORKPOLICIES, bad)
    await world.until(lambda: world.lead().startswith("goto"))
    chain = world.lead().partition(" ")[2]
    rules = next(r for (_, _, name), r in world.nft.filters.items() if name == chain)
    assert rules[-1].verdict == "drop"
    assert "cannot be read" in rules[-1].comment

    events: list[Any] = []

    async def told() -> bool:
        events[:] = (await world.client.list(EVENTS)).items
        return bool(events)

    async with asyncio.timeout(5):
        while not await told():
            await asyncio.sleep(0.002)
    assert events[0]["involvedObject"]["name"] == "bad"
    assert "spec.ingress[0].from[0].ipBlock.cidr" in events[0]["message"]


async def test_a_failed_write_is_made_good(world: World) -> None:
    world.nft.fail_next = MachineError("kernel/nft", "change", "x", "No buffer space")
    await world.client.create(PODS, pod("web", "10.244.0.9"))
    await world.until(lambda: world.lead() == "accept")
    assert len([t for t in world.nft.tables if t[1].startswith("podwire-policy")]) == 1


def test_what_is_cut_away_from_a_pod_is_nothing_that_policies_read() -> None:
    full = pod("web", "10.244.0.9", app="web")
    full["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": 80}]
    full["spec"]["initContainers"] = [
        {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 81}]}
    ]
    assert parse_pod(trim_pod(full)) == parse_pod(full)
    assert [p.name for p in parse_pod(trim_pod(full)).ports] == ["side", "http"]
    assert parse_pod(full).key == Key("default", "web")


def test_names_are_said_not_to_be_followed() -> None:
    obj = {
        "kind": "ClusterNetworkPolicy", "metadata": {"name": "p"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
                 "egress": [{"action": "Accept", "to": [{"domainNames": ["example.com"]}]}]},
    }  # fmt: skip
    assert ["domain names" in said for said in problems_of(read_policy(obj))] == [True]
