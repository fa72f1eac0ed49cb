"""The node's endpoint over real sockets on the loopback: logs, exec, attach, port-forward, usage."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from podwire.client.fake import FakeClient
from podwire.model.objects import is_ready
from podwire.model.resources import PODS
from podwire.node import agent
from podwire.node.config import NodeConfig
from podwire.node.fake_network import FakeNetwork
from podwire.node.runtime.fake import ExecAnswer, FakeRuntime
from podwire.node.server import Endpoint
from podwire.wire import spdy


def answer(spec: Any, command: Any) -> ExecAnswer:
    if command[0] == "fail":
        return ExecAnswer(3, b"", b"no\n")
    return ExecAnswer(0, " ".join(command).encode() + b"\n", b"")


class Node:
    def __init__(self, url: str, agent: agent.Agent, session: aiohttp.ClientSession) -> None:
        self.url, self.agent, self.session = url, agent, session
        self.port = int(url.rpartition(":")[2])


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node with one pod "web" of the host's network, so that its ports are the loopback's."""
    client, runtime = FakeClient(), FakeRuntime(exec_answer=answer)
    config = NodeConfig("node-0", (ip_address("127.0.0.1"),), state_dir=tmp_path / "s", log_dir=tmp_path / "l")
    started: asyncio.Future[agent.Agent] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(agent.run(config, client, runtime, FakeNetwork(), on_start=started.set_result))
    spec = {"nodeName": "node-0", "hostNetwork": True, "containers": [{"name": "c", "image": "nginx"}]}
    await client.create(PODS, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    async with asyncio.timeout(5):
        while not is_ready(await client.get(PODS, "web", "default")):
            await asyncio.sleep(0.01)
    the_agent = await started
    runner = web.AppRunner(Endpoint(the_agent, None).app(), handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        yield Node(f"http://127.0.0.1:{port}", the_agent, session)
    await runner.cleanup()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def text(node: Node, path: str, status: int = 200) -> str:
    async with node.session.get(node.url + path) as response:
        assert response.status == status
        return await response.text()


def log_path(node: Node) -> Path:
    [worker] = node.agent.workers.values()
    return worker.records.all()[0].spec.log_path


def line(second: int, words: str, stream: str = "stdout", tag: str = "F") -> str:
    return f"2026-11-21T10:00:{second:02}.5Z {stream} {tag} {words}\n"


async def test_plain_answers(node: Node):
    assert await text(node, "/healthz") == "ok"
    pods = orjson.loads(await text(node, "/pods"))
    assert pods["items"][0]["status"]["phase"] == "Running"
    summary = orjson.loads(await text(node, "/stats/summary"))
    assert summary["pods"][0]["podRef"]["name"] == "web"
    assert summary["pods"][0]["containers"][0]["cpu"]["usageCoreNanoSeconds"] == 0
    metrics = await text(node, "/metrics/resource")
    assert 'container_memory_working_set_bytes{container="c",namespace="default",pod="web"}' in metrics


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", "one\nerr\nlong line\nlast\n"),
        ("?tailLines=1", "last\n"),
        ("?tailLines=2", "long line\nlast\n"),
        ("?tailLines=0", ""),
        ("?limitBytes=5", "one\ne"),
        ("?sinceTime=2026-11-21T10:00:03Z", "long line\nlast\n"),
        ("?timestamps=true&tailLines=1", "2026-11-21T10:00:05.5Z last\n"),
        ("?stream=Stderr", "err\n"),
    ],
)
async def test_logs(node: Node, query: str, wanted: str):
    path = log_path(node)
    path.with_name("0.log.1").write_text(line(1, "one"))
    path.write_text(line(2, "err", "stderr") + line(3, "long ", tag="P") + line(4, "line") + line(5, "last"))
    assert await text(node, "/containerLogs/default/web/c" + query) == wanted


async def test_log_follows_through_rotation_until_the_container_ends(node: Node):
    path = log_path(node)
    path.write_text(line(1, "one"))
    async with node.session.get(node.url + "/containerLogs/default/web/c?follow=true") as response:
        assert await response.content.readline() == b"one\n"
        with path.open("a") as f:
            f.write(line(2, "two"))
        assert await response.content.readline() == b"two\n"
        path.rename(path.with_name("0.log.1"))
        path.write_text(line(3, "three"))
        assert await response.content.readline() == b"three\n"
        [worker] = node.agent.workers.values()
        await node.agent.node.client.delete(PODS, "web", "default")
        assert await response.content.readline() == b""
        assert worker.records.running() == []


async def test_log_errors(node: Node):
    assert "previous terminated container" in await text(node, "/containerLogs/default/web/c?previous=true", 400)
    await text(node, "/containerLogs/default/nope/c", 404)
    await text(node, "/containerLogs/default/web/c?tailLines=x", 400)


async def exec_ws(node: Node, protocol: str, query: str) -> list[tuple[int, bytes]]:
    """Return what came on which channel."""
    got: list[tuple[int, bytes]] = []
    url = f"{node.url}/exec/default/web/c?{query}"
    async with node.session.ws_connect(url, protocols=(protocol,)) as ws:
        assert ws.protocol == protocol
        async for message in ws:
            data = message.data if isinstance(message.data, bytes) else message.data.encode()
            got.append((data[0], data[1:]))
    return got


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_exec_over_websocket(node: Node, protocol: str):
    got = await exec_ws(node, protocol, "command=echo&command=hi&output=1&error=1")
    assert got[0] == (1, b"")  # the connection stands
    assert (1, b"echo hi\n") in got
    channel, status = got[-1]
    assert channel == 3
    assert orjson.loads(status)["status"] == "Success"


async def test_exec_tells_the_exit_code(node: Node):
    got = await exec_ws(node, "v4.channel.k8s.io", "command=fail&stdout=true&stderr=true")
    assert (2, b"no\n") in got
    status = orjson.loads(got[-1][1])
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]


async def test_exec_base64(node: Node):
    got = await exec_ws(node, "v4.base64.channel.k8s.io", "command=x&output=1")
    assert (ord("1"), b"eAo=") in got


async def test_exec_with_a_terminal(node: Node):
    got = await exec_ws(node, "v5.channel.k8s.io", "command=top&input=1&output=1&tty=1")
    assert b"".join(data for channel, data in got if channel == 1) == b"top\r\n"


async def test_exec_refusals(node: Node):
    await text(node, "/exec/default/web/nope?command=x&output=1", 404)
    await text(node, "/exec/default/web/c?command=x", 400)
    await text(node, "/exec/default/web/c?output=1", 400)
    await text(node, "/exec/default/web/c?command=x&output=1", 400)  # no upgrade asked for


class SpdyClient:
    """A client of the raw protocol, as kubectl before 1.31 is one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.connection = spdy.Connection(server=False)
        self.data: dict[int, bytes] = {}
        self.ended: set[int] = set()

    @classmethod
    async def open(cls, node: Node, path: str, protocol: str) -> SpdyClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        writer.write((head + f"X-Stream-Protocol-Version: {protocol}\r\n\r\n").encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert answer.startswith("HTTP/1.1 101 ")
        assert f"X-Stream-Protocol-Version: {protocol}" in answer
        return cls(reader, writer)

    def stream(self, **headers: str) -> int:
        id = self.connection.open({k: str(v) for k, v in headers.items()})
        self.data[id] = b""
        self.writer.write(self.connection.take())
        return id

    def send(self, id: int, data: bytes, *, fin: bool = False) -> None:
        self.connection.send(id, data, fin=fin)
        self.writer.write(self.connection.take())

    async def until_ended(self, *ids: int) -> None:
        async with asyncio.timeout(5):
            while not set(ids) <= self.ended:
                raw = await self.reader.read(65536)
                assert raw, "the connection ended early"
                for event in self.connection.receive(raw):
                    if isinstance(event, spdy.DataReceived):
                        self.data[event.stream] += event.data
                        if event.fin:
                            self.ended.add(event.stream)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def test_exec_over_spdy(node: Node):
    path = "/exec/default/web/c?command=echo&command=hi&output=1&error=1"
    client = await SpdyClient.open(node, path, "v4.channel.k8s.io")
    streams = {kind: client.stream(streamType=kind) for kind in ("error", "stdout", "stderr")}
    await client.until_ended(*streams.values())
    assert client.data[streams["stdout"]] == b"echo hi\n"
    assert orjson.loads(client.data[streams["error"]])["status"] == "Success"
    async with asyncio.timeout(5):
        assert await client.reader.read() == b""  # and the node closes
    await client.close()


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that echoes until the end, then says goodbye."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"goodbye")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_port_forward_over_spdy(node: Node, echo: int):
    client = await SpdyClient.open(node, "/portForward/default/web", "portforward.k8s.io")
    big = bytes(range(256)) * 2000
    pairs = []
    for request in ("0", "1"):
        error = client.stream(streamType="error", port=str(echo), requestID=request)
        data = client.stream(streamType="data", port=str(echo), requestID=request)
        client.send(error, b"", fin=True)
        client.send(data, big, fin=True)
        pairs += [error, data]
    await client.until_ended(*pairs)
    assert [client.data[id] for id in pairs] == [b"", big + b"goodbye"] * 2
    await client.close()


async def test_port_forward_says_what_refused(node: Node):
    client = await SpdyClient.open(node, "/portForward/default/web", "portforward.k8s.io")
    error = client.stream(streamType="error", port="1", requestID="0")
    data = client.stream(streamType="data", port="1", requestID="0")
    await client.until_ended(error, data)
    assert b"127.0.0.1:1: connect: " in client.data[error]
    await client.close()


async def test_port_forward_tunnelled_in_websocket(node: Node, echo: int):
    protocol = "SPDY/3.1+portforward.k8s.io"
    url = node.url + "/portForward/default/web"
    async with node.session.ws_connect(url, protocols=(protocol,)) as ws:
        assert ws.protocol == protocol
        client = spdy.Connection(server=False)
        error = client.open({"streamType": "error", "port": str(echo), "requestID": "0"})
        data = client.open({"streamType": "data", "port": str(echo), "requestID": "0"})
        client.send(data, b"hello", fin=True)
        await ws.send_bytes(client.take())
        got, ended = {error: b"", data: b""}, set()
        async with asyncio.timeout(5):
            while ended != {error, data}:
                for event in client.receive(await ws.receive_bytes()):
                    if isinstance(event, spdy.DataReceived):
                        got[event.stream] += event.data
                        ended |= {event.stream} if event.fin else set()
        assert got == {error: b"", data: b"hellogoodbye"}


async def test_port_forward_over_channels(node: Node, echo: int):
    url = f"{node.url}/portForward/default/web?ports={echo}"
    async with node.session.ws_connect(url, protocols=("v4.channel.k8s.io",)) as ws:
        port = echo.to_bytes(2, "little")
        assert [await ws.receive_bytes(), await ws.receive_bytes()] == [b"\0" + port, b"\1" + port]
        await ws.send_bytes(b"\0hello")
        assert await ws.receive_bytes() == b"\0hello"
