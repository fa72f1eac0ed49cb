"""A few fixed pages over HTTP: health, readiness, metrics. GET and HEAD only, no keep-alive.

Agents and the DNS server answer such questions all day; a page costs no framework and no memory to speak of.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_MAX_REQUEST_BYTES = 8192
_TIMEOUT_S = 5.0
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Page:
    """What one request is answered with."""

    body: str
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Routes = Mapping[str, Callable[[], Page]]
EVERYWHERE = "*"  # a route for every path that has none of its own


async def serve_pages(host: str | None, port: int, routes: Routes) -> asyncio.Server:
    """Listen on ``host`` (None: every address, both families) and answer. Raises OSError when taken."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                raw = await reader.readuntil(b"\r\n\r\n")
                writer.write(_respond(raw, routes))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    if host is not None:
        return await asyncio.start_server(answer, host, port, limit=_MAX_REQUEST_BYTES)
    return await asyncio.start_server(answer, sock=_everywhere(port), limit=_MAX_REQUEST_BYTES)


def _everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError:  # IPv6 is compiled in but switched off
            pass
    return socket.create_server(("", port))


def _respond(raw: bytes, routes: Routes) -> bytes:
    words = raw.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(words) != 3:
        return _encode(Page("bad request\n", 400), head=False)
    method, target, _ = words
    if method not in ("GET", "HEAD"):
        return _encode(Page("method not allowed\n", 405), head=False)
    route = routes.get(target.split("?", 1)[0]) or routes.get(EVERYWHERE)
    return _encode(route() if route else Page("404 page not found\n", 404), head=method == "HEAD")


def _encode(page: Page, *, head: bool) -> bytes:
    body = page.body.encode()
    header = (
        f"HTTP/1.1 {page.status} {_REASONS.get(page.status, 'Status')}\r\nContent-Type: {page.content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    )
    header += "".join(f"{name}: {value}\r\n" for name, value in page.headers) + "\r\n"
    return header.encode() + (b"" if head else body)
