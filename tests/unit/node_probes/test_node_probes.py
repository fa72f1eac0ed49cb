"""Probes: what each handler says, and when a prober asks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from podwire.node.probes.check import Target, check
from podwire.node.probes.prober import Prober
from podwire.node.runtime.fake import ExecAnswer, FakeRuntime
from podwire.node.runtime.values import Container, ContainerSpec, SandboxSpec
from podwire.runtime.clock import FakeClock
from podwire.wire.grpc_health import HealthCheck


def target(container: Container | None = None, **spec: Any) -> Target:
    spec = {"name": "c", "ports": [{"name": "web", "containerPort": 0}], **spec}
    return Target(container or Container(ContainerSpec("id", "s-0", "c", 0, "nginx"), "running"), spec, "127.0.0.1")


@contextlib.asynccontextmanager
async def answering(raw: bytes) -> AsyncIterator[int]:
    """A server that reads a request, answers these bytes, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("raw", "ok", "output"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True, "ok"),
        (b"HTTP/1.0 399 Odd\r\n\r\n", True, ""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.invalid/\r\n\r\n", True, ""),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", False, "HTTP probe failed with statuscode: 503"),
        (b"garbage\r\n\r\n", False, "malformed HTTP response"),
        (b"", False, ""),
    ],
)
async def test_http(raw: bytes, ok: bool, output: str):
    async with answering(raw) as port:
        outcome = await check({"httpGet": {"port": port, "path": "/x"}}, target(), FakeRuntime(), 2)
    assert outcome.ok is ok
    assert output in outcome.output


async def test_http_sends_headers_and_named_ports():
    asked: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set_result(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        action = {"port": "web", "path": "a?b=c", "httpHeaders": [{"name": "X-Me", "value": "you"}]}
        t = target(ports=[{"name": "web", "containerPort": port}])
        assert (await check({"httpGet": action}, t, FakeRuntime(), 2)).ok
    head = asked.result()
    assert head.startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert b"X-Me: you\r\n" in head
    assert b"User-Agent: kube-probe/" in head


def closed_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


async def test_tcp():
    async with answering(b"") as port:
        assert (await check({"tcpSocket": {"port": port}}, target(), FakeRuntime(), 2)).ok
    outcome = await check({"tcpSocket": {"port": closed_port()}}, target(), FakeRuntime(), 2)
    assert "connect:" in outcome.output
    outcome = await check({"tcpSocket": {"port": "nope"}}, target(), FakeRuntime(), 2)
    assert outcome.output == "couldn't find port: nope"


async def test_timeout():
    async with await asyncio.start_server(lambda r, w: asyncio.sleep(60), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        outcome = await check({"httpGet": {"port": port}}, target(), FakeRuntime(), 0.05)
    assert outcome.output == "probe timed out after 0.05s"


async def test_exec():
    runtime = FakeRuntime(exec_answer=lambda s, c: ExecAnswer(0 if c[0] == "yes" else 1, b"out", b"err"))
    await runtime.run_sandbox(SandboxSpec("s-0", "s", "n", "p", "p"))
    container = await runtime.start_container(ContainerSpec("id", "s-0", "c", 0, "nginx"))
    assert (await check({"exec": {"command": ["yes"]}}, target(container), runtime, 1)).ok
    outcome = await check({"exec": {"command": ["no"]}}, target(container), runtime, 1)
    assert (outcome.ok, outcome.output) == (False, "outerr")


def frame(type: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((type, flags)) + struct.pack(">I", stream) + payload


def reply(message: bytes) -> bytes:
    data = b"\0" + struct.pack(">I", len(message)) + message
    return frame(4, 0, 0, b"") + frame(1, 4, 1, b"\x88") + frame(0, 0, 1, data) + frame(1, 5, 1, b"\x88")


@pytest.mark.parametrize(
    ("raw", "ok", "output"),
    [
        (reply(b"\x08\x01"), True, "SERVING"),
        (reply(b"\x08\x02"), False, "NOT_SERVING"),
        (reply(b""), False, "UNKNOWN"),
        (frame(4, 0, 0, b"") + frame(1, 5, 1, b"\x88"), False, "does not answer grpc.health"),
        (frame(4, 0, 0, b"") + frame(7, 0, 0, b"\0" * 8), False, "refused the call"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "not an HTTP/2 server"),
        (b"", False, "closed before an answer"),
    ],
)
async def test_grpc(raw: bytes, ok: bool, output: str):
    async with answering(raw) as port:
        outcome = await check({"grpc": {"port": port}}, target(), FakeRuntime(), 2)
    assert outcome.ok is ok
    assert output in outcome.output


def test_grpc_request_and_acknowledgements():
    call = HealthCheck("h:1", "svc")
    request = call.start()
    assert request.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert b"/grpc.health.v1.Health/Check" in request
    assert request.endswith(b"\0\0\0\0\x05\x0a\x03svc")
    assert call.receive(frame(4, 0, 0, b"")) == frame(4, 1, 0, b"")
    assert call.receive(frame(6, 0, 0, b"12345678")) == frame(6, 1, 0, b"12345678")
    for byte in reply(b"\x08\x01"):  # however it is split
        call.receive(bytes((byte,)))
    assert call.status == 1


class Bench:
    """A prober on a clock that the test moves; ``ok`` is what the container answers."""

    def __init__(self, **spec: Any) -> None:
        self.ok, self.asked, self.reports = True, 0, []
        self.clock = FakeClock()
        self.runtime = FakeRuntime(clock=self.clock, exec_answer=self._answer)
        self.spec = spec
        self.changes = 0

    def _answer(self, spec: Any, command: Any) -> ExecAnswer:
        self.asked += 1
        return ExecAnswer(0 if self.ok else 1, b"out", b"")

    async def start(self) -> Prober:
        await self.runtime.run_sandbox(SandboxSpec("s-0", "s", "n", "p", "p"))
        container = await self.runtime.start_container(ContainerSpec("id", "s-0", "c", 0, "nginx"))
        t = target(container, **self.spec)
        prober = Prober(t, self.runtime, self.clock, self._change, lambda *r: self.reports.append(r))
        self.task = asyncio.create_task(prober.run())
        await self.pass_time(0)
        return prober

    def _change(self) -> None:
        self.changes += 1

    async def pass_time(self, seconds: float) -> None:
        """Let the real event loop finish each look before the fake clock moves on."""
        left = seconds
        while True:
            for _ in range(10):
                await asyncio.sleep(0.001)
            step = min(left, 1.0)
            if step <= 0:
                return
            await self.clock.advance(step)
            left -= step


def probe(**more: Any) -> dict[str, Any]:
    return {"exec": {"command": ["x"]}, "periodSeconds": 10, **more}


async def test_without_probes_a_container_is_ready_at_once():
    prober = await Bench().start()
    assert (prober.started, prober.ready, prober.unhealthy) == (True, True, "")


async def test_readiness_follows_thresholds():
    bench = Bench(readinessProbe=probe(failureThreshold=2))
    prober = await bench.start()
    assert prober.ready
    bench.ok = False
    await bench.pass_time(11)
    assert prober.ready  # one failure of two
    await bench.pass_time(10)
    assert not prober.ready
    assert bench.reports == [("Readiness", "out")] * 2
    bench.ok = True
    await bench.pass_time(10)
    assert prober.ready
    bench.task.cancel()


async def test_first_readiness_is_eager_and_its_failures_do_not_count():
    bench = Bench(readinessProbe=probe())
    bench.ok = False
    prober = await bench.start()
    await bench.pass_time(0.5)
    assert bench.asked >= 1
    assert bench.reports == []
    bench.ok = True
    await bench.pass_time(1)
    assert prober.ready
    bench.task.cancel()


async def test_initial_delay_is_kept():
    bench = Bench(readinessProbe=probe(initialDelaySeconds=5))
    await bench.start()
    await bench.pass_time(4)
    assert bench.asked == 0
    await bench.pass_time(2)
    assert bench.asked == 1
    bench.task.cancel()


async def test_liveness_condemns_after_the_threshold():
    bench = Bench(livenessProbe=probe(terminationGracePeriodSeconds=3))
    prober = await bench.start()
    bench.ok = False
    await bench.pass_time(21)
    assert prober.unhealthy == ""
    await bench.pass_time(10)
    assert prober.unhealthy == "Container c failed liveness probe, will be restarted"
    assert prober.unhealthy_grace_s == 3


async def test_startup_holds_the_others_back():
    bench = Bench(startupProbe=probe(failureThreshold=2), livenessProbe=probe())
    bench.ok = False
    prober = await bench.start()
    await bench.pass_time(2)
    assert not prober.started
    bench.ok = True
    await bench.pass_time(10)
    assert prober.started
    assert prober.ready
    bench.task.cancel()


async def test_startup_gives_up():
    bench = Bench(startupProbe=probe(failureThreshold=2))
    bench.ok = False
    prober = await bench.start()
    await bench.pass_time(15)
    assert "failed startup probe" in prober.unhealthy
