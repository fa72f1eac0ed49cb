"""The agent on loopback, over an API in memory: UDP and TCP, changes, readiness, forwarding."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import dnsworld
import pytest

from podwire.client.fake import FakeClient
from podwire.dns.agent import DnsAgent
from podwire.dns.corefile import Settings, parse_corefile
from podwire.dns.plugins.hosts import HostsFile
from podwire.dns.responder import Forward
from podwire.dns.server import DnsServer, open_sockets
from podwire.dns.upstream import find_upstreams
from podwire.model.objects import Obj
from podwire.model.resources import ENDPOINTSLICES, NAMESPACES, SERVICES

COREFILE = """.:53 {
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    cache 30
    loadbalance
}"""


def settings(**changes: Any) -> Settings:
    return replace(parse_corefile(COREFILE), port=0, **changes)


def web(ip: str = "10.96.0.7") -> Obj:
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "protocol": "TCP"}]},
    }  # fmt: skip


def cluster() -> FakeClient:
    client = FakeClient()
    client.seed(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    client.seed(SERVICES, web())
    return client


@asynccontextmanager
async def serving(client: FakeClient, s: Settings) -> AsyncIterator[DnsAgent]:
    agent = DnsAgent(s, client, host="127.0.0.1")
    task = asyncio.create_task(agent.run())
    try:
        async with asyncio.timeout(5):
            await agent.ready.wait()
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(agent: DnsAgent, name: str, type: str = "A", *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, type, use_edns=0)
    raw = query.to_wire()

    def talk() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as s:
            s.settimeout(3)
            s.connect(("127.0.0.1", agent.server.port))
            s.sendall(struct.pack(">H", len(raw)) + raw if tcp else raw)
            answer = s.recv(65535)
            return answer[2:] if tcp else answer

    answer = dns.message.from_wire(await asyncio.to_thread(talk))
    assert query.is_response(answer)
    return answer


async def until(agent: DnsAgent, name: str, text: str | None) -> None:
    async with asyncio.timeout(5):
        while True:
            answer = await ask(agent, name)
            found = answer.answer[0][0].to_text() if answer.answer else None
            if found == text:
                return
            await asyncio.sleep(0.005)


async def test_answers_over_udp_and_tcp_and_follows_changes() -> None:
    client = cluster()
    name = "web.default.svc.cluster.local."
    async with serving(client, settings()) as agent:
        for tcp in (False, True):
            assert (await ask(agent, name, tcp=tcp)).answer[0].to_text() == f"{name} 30 IN A 10.96.0.7"
        await client.delete(SERVICES, "web", "default")
        await until(agent, name, None)
        await client.create(SERVICES, web("10.96.0.8"))
        await until(agent, name, "10.96.0.8")


async def test_headless_records_follow_slices() -> None:
    client = cluster()
    headless = web("None") | {"metadata": {"name": "db", "namespace": "default"}}
    client.seed(SERVICES, headless)
    async with serving(client, settings()) as agent:
        await until(agent, "db.default.svc.cluster.local.", None)
        await client.create(
            ENDPOINTSLICES,
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
             "metadata": {"name": "db-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "db"}},
             "endpoints": [{"addresses": ["10.244.1.9"], "hostname": "db-0"}], "ports": []},
        )  # fmt: skip
        await until(agent, "db-0.db.default.svc.cluster.local.", "10.244.1.9")


async def test_a_name_of_elsewhere_fails_fast_and_says_why_without_an_upstream() -> None:
    async with serving(cluster(), settings()) as agent:
        answer = await ask(agent, "example.com.")
        assert answer.rcode() == dns.rcode.SERVFAIL
        assert any(o.otype == 15 for o in answer.options)


class Upstream(asyncio.DatagramProtocol):
    """Says 192.0.2.1 to everything, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: object) -> None:
        self.asked += 1
        answer = dns.message.make_response(dns.message.from_wire(data), recursion_available=True)
        answer.answer.append(dns.rrset.from_text(answer.question[0].name, 300, "IN", "A", "192.0.2.1"))
        self.transport.sendto(answer.to_wire(), address)  # type: ignore[attr-defined]


async def test_names_of_elsewhere_are_forwarded_and_cached() -> None:
    loop = asyncio.get_running_loop()
    transport, upstream = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    text = COREFILE.replace("cache", f"forward . 127.0.0.1:{port}\n    cache")
    client = cluster()
    alias = web("") | {"metadata": {"name": "out", "namespace": "default"}}
    alias["spec"] = {"type": "ExternalName", "externalName": "example.net"}
    client.seed(SERVICES, alias)
    async with serving(client, replace(parse_corefile(text), port=0)) as agent:
        first, second = await ask(agent, "example.com."), await ask(agent, "example.com.")
        assert first.answer[0][0].to_text() == second.answer[0][0].to_text() == "192.0.2.1"
        assert upstream.asked == 1
        chased = await ask(agent, "out.default.svc.cluster.local.")
        assert [r[0].to_text() for r in chased.answer] == ["example.net.", "192.0.2.1"]
    transport.close()


async def test_new_settings_are_taken_over_live() -> None:
    async with serving(cluster(), settings()) as agent:
        fresh = settings(hosts=HostsFile(entries=(("printer.lan", "192.0.2.9"),), fallthrough=(b"\0",)))
        assert fresh.kubernetes is not None
        agent.reconfigure(replace(fresh, kubernetes=replace(fresh.kubernetes, ttl_s=7)))
        assert (await ask(agent, "web.default.svc.cluster.local.")).answer[0].ttl == 7
        assert (await ask(agent, "printer.lan.")).answer[0][0].to_text() == "192.0.2.9"


async def test_pages() -> None:
    free = [s.getsockname()[1] for s in [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]]
    s = settings(health=("", free[0]), ready=("", free[1]), prometheus=("", free[2]))
    async with serving(cluster(), s) as agent:
        await ask(agent, "web.default.svc.cluster.local.")
        pages = []
        for port, path in zip(free, ("/health", "/ready", "/metrics"), strict=True):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            pages.append((await reader.read()).decode())
            writer.close()
        assert all(p.startswith("HTTP/1.1 200 OK") for p in pages)
        assert 'type="A"} 1' in pages[2]


def test_resolv_conf_of_an_upstream(tmp_path: Any) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("search a\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver bad\n")
    assert find_upstreams([str(file), "192.0.2.1:5353", "/does/not/exist"]) == (("192.0.2.53", 53), ("192.0.2.1", 5353))


@pytest.mark.parametrize("batched", [True, False])
async def test_datagrams_in_batches_and_one_by_one(batched: bool) -> None:
    responder = dnsworld.responder(next(c for c in dnsworld.SCENARIOS if c.name == "services"))

    async def never(forward: Forward, protocol: str) -> bytes:
        return responder.refuse(forward.asked, 2, protocol)

    server = DnsServer(responder, never, batched=batched)
    await server.start(open_sockets(0, "127.0.0.1"))
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setblocking(False)
        s.connect(("127.0.0.1", server.port))
        names = ["web.default.svc.cluster.local.", "nope.default.svc.cluster.local.", "example.com."] * 40
        sent = {id: dns.message.make_query(name, "A", id=id) for id, name in enumerate(names)}
        for id, query in sent.items():
            s.send(query.to_wire())
            if id % 10 == 5:
                s.send(b"short")  # gets no answer: a gap in the batch
        rcodes = []
        async with asyncio.timeout(5):
            for _ in names:
                answer = dns.message.from_wire(await loop.sock_recv(s, 4096))
                assert sent.pop(answer.id).is_response(answer)
                rcodes.append(dns.rcode.to_text(answer.rcode()))
    server.close()
    assert sorted(rcodes) == ["NOERROR"] * 40 + ["NXDOMAIN"] * 40 + ["SERVFAIL"] * 40


async def test_upstreams_that_lead_back_here_are_found_out() -> None:
    said = ""
    for _ in range(20):
        free = open_sockets(0, "127.0.0.1")
        port = free.port
        free.close()
        text = COREFILE.replace(".:53", f".:{port}").replace(
            "cache", f"loop\n    forward . 127.0.0.1:{port}\n    cache"
        )
        agent = DnsAgent(parse_corefile(text), cluster(), host="127.0.0.1")
        try:
            async with asyncio.timeout(10):
                await agent.run()
        except BaseExceptionGroup as caught:
            said = str(caught.exceptions[0])
            break
        except OSError:  # somebody else has taken the port in between
            continue
    assert "send queries back to this server" in said
