"""Workers with sockets of their own: answers, changes, and kill -9 under load."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import dns.message
import pytest

from podwire.client.fake import FakeClient
from podwire.dns.agent import DnsAgent
from podwire.dns.corefile import parse_corefile
from podwire.model.objects import Obj
from podwire.model.resources import NAMESPACES, SERVICES

COREFILE = ".:53 {\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n ttl 30\n }\n multisocket 2\n}"
pytestmark = pytest.mark.kernel


def web(name: str, ip: str) -> Obj:
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "protocol": "TCP"}]},
    }  # fmt: skip


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[DnsAgent, FakeClient, int]]:
    client = FakeClient()
    client.seed(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    client.seed(SERVICES, web("web", "10.96.0.7"))
    agent = DnsAgent(replace(parse_corefile(COREFILE), port=0), client, host="127.0.0.1")
    task = asyncio.create_task(agent.run())
    try:
        async with asyncio.timeout(10):
            await agent.ready.wait()
        assert agent.workers is not None
        yield agent, client, agent.workers.port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(port: int, name: str, id: int = 7) -> list[str]:
    """One query from a fresh port, so that the kernel may pick either socket; it is sent once."""
    query = dns.message.make_query(f"{name}.default.svc.cluster.local.", "A", id=id)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setblocking(False)
        s.connect(("127.0.0.1", port))
        await loop.sock_sendall(s, query.to_wire())
        async with asyncio.timeout(3):
            answer = dns.message.from_wire(await loop.sock_recv(s, 4096))
    assert query.is_response(answer)
    return [rd.to_text() for rrset in answer.answer for rd in rrset]


async def test_workers_answer_and_hear_of_changes() -> None:
    async with serving() as (agent, client, port):
        assert agent.workers is not None
        assert len(set(agent.workers.pids) | {os.getpid()}) == 3
        for _ in range(20):
            async with asyncio.timeout(5):
                while await ask(port, "web") != ["10.96.0.7"]:  # a worker may not have heard yet that all is there
                    await asyncio.sleep(0.01)
        await client.create(SERVICES, web("new", "10.96.0.9"))
        for _ in range(20):
            async with asyncio.timeout(5):
                while await ask(port, "new") != ["10.96.0.9"]:
                    await asyncio.sleep(0.01)


async def test_killed_workers_lose_nothing_that_waits_in_their_sockets() -> None:
    async with serving() as (agent, client, port):
        assert agent.workers is not None
        await client.create(SERVICES, web("late", "10.96.0.8"))
        await asyncio.sleep(0.7)  # long enough a life that a successor comes at once
        for round in range(2):
            before = agent.workers.pids
            for pid in before:
                os.kill(pid, 9)
            answers = await asyncio.gather(*(ask(port, name, id) for id in range(20) for name in ("web", "late")))
            assert answers == [["10.96.0.7"], ["10.96.0.8"]] * 20  # the new ones know what the old ones knew
            assert not set(before) & set(agent.workers.pids), round
            await asyncio.sleep(0.7)
        assert agent.workers.restarts == 4


async def test_reports_add_up_over_deaths() -> None:
    async with serving() as (agent, _, port):
        assert agent.workers is not None
        for id in range(30):
            await ask(port, "web", id)
        async with asyncio.timeout(5):
            while sum(agent.workers.report().counts.values()) < 30:
                await asyncio.sleep(0.1)
        os.kill(agent.workers.pids[0], 9)
        async with asyncio.timeout(5):
            while not agent.workers.restarts:
                await asyncio.sleep(0.01)
        assert sum(agent.workers.report().counts.values()) == 30
        assert "127.0.0.1" in str(agent._metrics().body)
