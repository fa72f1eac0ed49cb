"""The announcer over the fake API and a fake segment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

from podwire.client.fake import FakeClient
from podwire.kernel.announce.fake import FakeAnnounce
from podwire.loadbalancer.agent import Announcer
from podwire.model.loadbalancers import ANNOUNCER, LEASE_NAMESPACE, lease_name
from podwire.model.objects import Key, Obj
from podwire.model.resources import LEASES, SERVICES

A, B = ip_address("192.0.2.1"), ip_address("fd00::1")


def service(name: str, node: str, *addresses: str, type: str = "LoadBalancer") -> Obj:
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": {ANNOUNCER: node}},
        "spec": {"type": type}, "status": {"loadBalancer": {"ingress": [{"ip": a} for a in addresses]}},
    }  # fmt: skip


@asynccontextmanager
async def running(client: FakeClient, port: FakeAnnounce) -> AsyncIterator[None]:
    task = asyncio.create_task(Announcer("n1", client, port).run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(wanted: Callable[[], object]) -> None:
    for _ in range(400):
        if wanted():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("never")


def lease(client: FakeClient) -> Obj | None:
    return client.objects(LEASES).get(Key(LEASE_NAMESPACE, lease_name("n1")))


async def test_it_follows_the_annotation_and_tells_the_segment() -> None:
    client, port = FakeClient(), FakeAnnounce()
    port.hold([ip_address("192.0.2.99")])  # of an earlier life
    client.seed(SERVICES, service("both", "n1", str(A), str(B)))
    client.seed(SERVICES, service("elsewhere", "n2", "192.0.2.2"))
    client.seed(SERVICES, service("plain", "n1", "192.0.2.3", type="NodePort"))
    async with running(client, port):
        await until(lambda: port.held() == {A, B})
        await until(lambda: {A, B} <= set(port.shouted))
        await client.patch(SERVICES, "both", {"metadata": {"annotations": {ANNOUNCER: "n2"}}}, "default")
        await until(lambda: port.held() == frozenset())
        await client.patch(SERVICES, "elsewhere", {"metadata": {"annotations": {ANNOUNCER: "n1"}}}, "default")
        await until(lambda: port.held() == {ip_address("192.0.2.2")})
        await client.delete(SERVICES, "elsewhere", "default")
        await until(lambda: port.held() == frozenset())


async def test_there_is_a_lease_once_there_are_load_balancers() -> None:
    client, port = FakeClient(), FakeAnnounce()
    async with running(client, port):
        await asyncio.sleep(0.05)
        assert lease(client) is None
        client.seed(SERVICES, service("s", "n2", str(A)))
        await client.patch(SERVICES, "s", {"metadata": {"labels": {"a": "b"}}}, "default")
        await until(lambda: lease(client) is not None)
        found = lease(client)
        assert found is not None
        assert found["spec"]["holderIdentity"] == "n1"
