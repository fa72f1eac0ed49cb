"""The pages that the proxy serves, as curl would see them."""

from __future__ import annotations

import asyncio
import socket

import pytest

from podwire.proxy.server import ProxyStatus, routes
from podwire.runtime.statusserver import serve_pages


async def fetch(port: int, request: str) -> tuple[str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{request}\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return head.split("\r\n")[0], body


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET /proxyMode HTTP/1.1", "200 OK", "nftables"),
        ("HEAD /proxyMode HTTP/1.1", "200 OK", ""),
        ("GET /livez HTTP/1.1", "503 Service Unavailable", "waiting for Services and EndpointSlices\n"),
        ("GET /nope HTTP/1.1", "404 Not Found", "404 page not found\n"),
        ("POST /proxyMode HTTP/1.1", "405 Method Not Allowed", "method not allowed\n"),
        ("nonsense", "400 Bad Request", "bad request\n"),
    ],
)
async def test_pages(request_line: str, status: str, body: str) -> None:
    server = await serve_pages("127.0.0.1", 0, routes(ProxyStatus()))
    port = server.sockets[0].getsockname()[1]
    assert await fetch(port, request_line) == (f"HTTP/1.1 {status}", body)
    server.close()


async def test_metrics_and_health_follow_the_agent() -> None:
    status = ProxyStatus(healthy=True)
    status.sync.observe(0.003)
    server = await serve_pages("127.0.0.1", 0, routes(status))
    port = server.sockets[0].getsockname()[1]
    assert await fetch(port, "GET /healthz HTTP/1.1") == ("HTTP/1.1 200 OK", "ok")
    _, text = await fetch(port, "GET /metrics HTTP/1.1")
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.004"} 1' in text
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.002"} 0' in text
    server.close()


async def test_a_client_that_says_too_much_or_nothing_is_no_burden() -> None:
    server = await serve_pages("127.0.0.1", 0, routes(ProxyStatus()))
    port = server.sockets[0].getsockname()[1]
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x" * 100_000)
    with socket.create_connection(("127.0.0.1", port)):
        pass
    assert await fetch(port, "GET /proxyMode HTTP/1.1") == ("HTTP/1.1 200 OK", "nftables")
    writer.close()
    server.close()
