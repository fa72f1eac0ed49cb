"""Streams through the API server to a kubelet that a test plays: real sockets on loopback, real TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from podwire.apiserver import pki
from podwire.apiserver.builtin_kinds import kinds
from podwire.apiserver.errors import ApiStatusError
from podwire.apiserver.kinds import Registry
from podwire.apiserver.routes import parse
from podwire.apiserver.streams import Streams

REGISTRY = Registry(kinds())
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Lab:
    """A kubelet, an API server that has nothing but streams, and what the kubelet saw."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    objects: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    finished: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def lab(directory: Path, kubelet: Serve) -> AsyncIterator[Lab]:
    made = pki.ensure(directory)
    state = Lab()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        state.requests.append(head.decode())
        try:
            await kubelet(reader, writer)
        finally:
            writer.close()

    # The API server's own certificate is good for loopback: it can play a kubelet's.
    context = pki.server_context(made)
    backend = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    kubelet_port = backend.sockets[0].getsockname()[1]
    address = {"type": "InternalIP", "address": "127.0.0.1"}
    endpoint = {"kubeletEndpoint": {"Port": kubelet_port}}
    status = {"addresses": [address], "daemonEndpoints": endpoint}
    state.objects["nodes", "", "n0"] = {"metadata": {"name": "n0"}, "status": status}
    containers = [{"name": "c", "ports": [{"containerPort": 80}]}]
    state.objects["pods", "d", "p"] = {
        "metadata": {"name": "p", "namespace": "d"},
        "spec": {"nodeName": "n0", "containers": containers},
        "status": {"phase": "Running"},
    }
    streams = Streams(lambda *key: state.objects.get(key), lambda: pki.kubelet_context(made))

    async def answer(request: web.Request) -> web.StreamResponse:
        target = parse(REGISTRY, request.path)
        assert target is not None
        try:
            return await streams.answer(request, target)
        except ApiStatusError as error:
            return web.json_response(error.status(), status=error.code)
        finally:
            state.finished.set()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    state.port = runner.addresses[0][1]
    try:
        yield state
    finally:
        await runner.cleanup()
        backend.close()


LOOPS = [asyncio.run, uvloop.run]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    return request.param


EXEC = "/api/v1/namespaces/d/pods/p/exec?command=ls&command=-l%20x&stdout=true&stdin=1&container=c"
UPGRADE = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"


async def ask(port: int, head: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode())
    return reader, writer, await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize("upgrade", ["SPDY/3.1", "websocket"])
def test_an_upgrade_passes_bytes_both_ways(tmp_path: Path, run: Any, upgrade: str) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH + b"first words")
        while data := await reader.read(65536):
            writer.write(data.upper())
            await writer.drain()

    async def scenario() -> None:
        async with lab(tmp_path, echo) as state:
            method = "POST" if upgrade.startswith("SPDY") else "GET"
            fields = UPGRADE.replace("SPDY/3.1", upgrade) + "Authorization: Bearer secret\r\n"
            reader, writer, head = await ask(state.port, f"{method} {EXEC} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert await reader.readexactly(11) == b"first words"
            sent = b"\x00\x01binary" * 100_000
            writer.write(sent)
            assert await reader.readexactly(len(sent)) == sent.upper()
            writer.close()
            await asyncio.wait_for(state.finished.wait(), 5)
            seen = state.requests[0]
            assert seen.startswith(f"{method} /exec/d/p/c?command=ls&command=-l%20x&input=1&output=1 HTTP/1.1\r\n")
            assert f"Upgrade: {upgrade}" in seen
            assert "X-Stream-Protocol-Version: v4.channel.k8s.io" in seen
            assert "secret" not in seen

    run(asyncio.wait_for(scenario(), 20))


def test_the_end_of_the_kubelet_is_the_end_for_the_client(tmp_path: Path, run: Any) -> None:
    async def brief(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH + b"x" * 300_000)

    async def scenario() -> None:
        async with lab(tmp_path, brief) as state:
            reader, writer, _ = await ask(state.port, f"POST {EXEC} HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n")
            assert len(await reader.read(-1)) == 300_000
            writer.close()
            await asyncio.wait_for(state.finished.wait(), 5)

    run(asyncio.wait_for(scenario(), 20))


def test_a_slow_client_stops_the_kubelet(tmp_path: Path, run: Any) -> None:
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(SWITCH)
        for _ in range(1000):
            writer.write(b"y" * 100_000)
            await writer.drain()
            written += 100_000

    async def scenario() -> None:
        async with lab(tmp_path, flood) as state:
            reader, writer, _ = await ask(state.port, f"POST {EXEC} HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n")
            stalled = -1
            while written != stalled:  # it settles once every buffer on the way is full
                stalled = written
                await asyncio.sleep(0.3)
            assert written < 90_000_000
            total = 0
            while data := await reader.read(1 << 20):
                total += len(data)
            assert total == 100_000_000
            writer.close()

    run(asyncio.wait_for(scenario(), 50))


def test_the_kubelets_refusal_reaches_the_client(tmp_path: Path, run: Any) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\nConnection: close\r\n\r\nno such thing")

    async def scenario() -> None:
        async with lab(tmp_path, refuse) as state:
            reader, writer, head = await ask(state.port, f"POST {EXEC} HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n")
            assert head.startswith(b"HTTP/1.1 404 ")
            assert await reader.readexactly(13) == b"no such thing"
            writer.close()

    run(asyncio.wait_for(scenario(), 20))


def test_followed_logs_flow_as_they_come_and_end_with_the_client(tmp_path: Path, run: Any) -> None:
    gone = asyncio.Event

    async def scenario() -> None:
        left = gone()

        async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nline1\n\r\n")
            await reader.read()  # until the API server hangs up
            left.set()

        async with lab(tmp_path, follow) as state:
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{state.port}/api/v1/namespaces/d/pods/p/log?follow=true&tailLines=5"
                async with session.get(url) as response:
                    assert await response.content.readline() == b"line1\n"
            await asyncio.wait_for(left.wait(), 5)
            assert state.requests[0].startswith("GET /containerLogs/d/p/c?follow=true&tailLines=5 HTTP/1.1\r\n")

    run(asyncio.wait_for(scenario(), 20))


def test_node_proxy_with_a_body_in_chunks(tmp_path: Path, run: Any) -> None:
    async def read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b""
        while (size := int((await reader.readline()).strip(), 16)) > 0:
            body += await reader.readexactly(size)
            await reader.readline()
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body[::-1]))

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"ab" * 10_000

    async def scenario() -> None:
        async with lab(tmp_path, read_all) as state, aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{state.port}/api/v1/nodes/n0/proxy/run/x?a=b%20c"
            async with session.post(url, data=pieces()) as response:
                assert response.status == 201
                assert await response.read() == b"ba" * 100_000
            assert state.requests[0].startswith("POST /run/x?a=b%20c HTTP/1.1\r\n")

    run(asyncio.wait_for(scenario(), 20))


async def nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return None


# path, whether it upgrades, code, message
REFUSED = [
    ("pods/none/exec?command=a&stdout=1", True, 404, 'pods "none" not found'),
    ("pods/p/exec?command=a&stdout=1&container=z", True, 400, "container z is not valid for pod p"),
    ("pods/two/exec?command=a&stdout=1", True, 400,
     "a container name must be specified for pod two, choose one of: [a b] or one of the init containers: [i]"),
    ("pods/p/exec?stdout=1", True, 400, "you must specify at least 1 command for the container"),
    ("pods/p/exec?command=a", True, 400, "you must specify at least 1 of stdin, stdout, stderr"),
    ("pods/p/exec?command=a&stdout=1", False, 400, "Upgrade request required"),
    ("pods/pending/attach?stdout=1", True, 400, "pod pending does not have a host assigned"),
    ("pods/done/exec?command=a&stdout=1", True, 500,
     "cannot exec into a container in a completed pod; current phase is Succeeded"),
    ("pods/p/exec?command=a&stdout=1", True, 500, "closed the connection without an answer"),
    ("pods/p/log?tailLines=-1", False, 400, "tailLines"),
    ("pods/loop/proxy/", False, 400, "address not allowed"),
    ("services/web/proxy/", False, 503, 'no endpoints available for service "web"'),
    ("services/web:nope/proxy/", False, 503, "no service port 'nope' found"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "upgrades", "code", "message"), REFUSED, ids=[r[0] for r in REFUSED])
async def test_refusals_say_why(tmp_path: Path, path: str, upgrades: bool, code: int, message: str) -> None:
    async with lab(tmp_path, nobody) as state, aiohttp.ClientSession() as session:
        base = state.objects["pods", "d", "p"]
        two = {"nodeName": "n0", "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}
        for name, change in {
            "two": {"spec": two},
            "pending": {"spec": {"containers": [{"name": "c"}]}},
            "done": {"status": {"phase": "Succeeded"}},
            "loop": {"status": {"podIP": "127.0.0.1"}},
        }.items():
            state.objects["pods", "d", name] = {**base, **change, "metadata": {"name": name, "namespace": "d"}}
        state.objects["services", "d", "web"] = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}
        headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"} if upgrades else {}
        url = f"http://127.0.0.1:{state.port}/api/v1/namespaces/d/{path}"
        async with session.request("GET", url, headers=headers) as response:
            answer = await response.json()
            assert (response.status, message in answer["message"]) == (code, True), answer


async def test_logs_of_a_pod_without_a_node_are_empty(tmp_path: Path) -> None:
    async with lab(tmp_path, nobody) as state, aiohttp.ClientSession() as session:
        del state.objects["pods", "d", "p"]["spec"]["nodeName"]
        url = f"http://127.0.0.1:{state.port}/api/v1/namespaces/d/pods/p/log"
        async with session.get(url) as response:
            assert (response.status, await response.read()) == (200, b"")


async def test_a_kubelet_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    other = pki.ensure(tmp_path / "other", addresses=[ip_address("127.0.0.1")])
    async with lab(tmp_path, nobody) as state, aiohttp.ClientSession() as session:
        server = await asyncio.start_server(nobody, "127.0.0.1", 0, ssl=pki.server_context(other))
        status = state.objects["nodes", "", "n0"]["status"]
        status["daemonEndpoints"]["kubeletEndpoint"]["Port"] = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{state.port}/api/v1/namespaces/d/pods/p/log"
        async with session.get(url) as response:
            assert response.status == 500
            assert "error dialing backend" in (await response.json())["message"]
        server.close()
