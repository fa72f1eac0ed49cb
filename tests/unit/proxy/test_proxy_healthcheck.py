"""The pages of spec.healthCheckNodePort, on the loopback."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from podwire.model.objects import Key
from podwire.proxy.desired import ServiceRules
from podwire.proxy.healthcheck import HealthChecks
from podwire.runtime.clock import SystemClock

WEB, API = Key("default", "web"), Key("default", "api")


def rules(key: Key, port: int, local: int) -> ServiceRules:
    return ServiceRules(key, ("", *key), health_check_port=port, local_ready=local)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def ask(port: int) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body; (0, ...) when nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0, {}, b""
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body


async def until(port: int, status: int) -> tuple[int, dict[str, str], bytes]:
    for _ in range(400):
        answer = await ask(port)
        if answer[0] == status:
            return answer
        await asyncio.sleep(0.005)
    raise AssertionError(f"never {status}, last {answer}")


@asynccontextmanager
async def running(healthy: list[bool]) -> AsyncIterator[HealthChecks]:
    checks = HealthChecks(lambda: healthy[0], SystemClock())
    task = asyncio.create_task(checks.run())
    yield checks
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_page_counts_local_endpoints() -> None:
    port, healthy = free_port(), [True]
    async with running(healthy) as checks:
        checks.note({WEB: rules(WEB, port, 2)})
        _, headers, body = await until(port, 200)
        assert json.loads(body) == {
            "service": {"namespace": "default", "name": "web"},
            "localEndpoints": 2,
            "serviceProxyHealthy": True,
        }
        assert headers["X-Load-Balancing-Endpoint-Weight"] == "2"
        assert headers["Content-Type"] == "application/json"
        checks.note({WEB: rules(WEB, port, 0)})
        assert json.loads((await until(port, 503))[2])["localEndpoints"] == 0
        checks.note({WEB: rules(WEB, port, 1)})
        healthy[0] = False
        assert (await ask(port))[0] == 503


async def test_listeners_go_with_their_service_and_pass_to_another() -> None:
    port, other = free_port(), free_port()
    async with running([True]) as checks:
        checks.note({WEB: rules(WEB, port, 1)})
        await until(port, 200)
        checks.note({API: rules(API, port, 1), WEB: rules(WEB, other, 1)})
        await until(other, 200)
        assert json.loads((await until(port, 200))[2])["service"]["name"] == "api"
        checks.note({API: None})
        await until(port, 0)
        checks.note({}, whole=True)
        await until(other, 0)
