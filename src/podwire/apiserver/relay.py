"""Two connections made one: bytes of an HTTP request go to a backend and come back as they are.

The caller's connection is taken away from aiohttp: its transport gets a protocol of ours, and aiohttp is
handed a response that writes nothing. Back-pressure goes through: a side that cannot write stops the other
from being read. Upgrades (WebSocket, SPDY/3.1) and endless answers (logs, watches behind a proxy) are the
same to it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from podwire.apiserver.errors import ApiStatusError

CONNECT_TIMEOUT_S = 5.0
HEAD_TIMEOUT_S = 60.0
MAX_HEAD_BYTES = 64 * 1024

Headers = Iterable[tuple[str, str]]
Connect = Callable[
    [Callable[[], "Backend"], str, int, ssl.SSLContext | None],
    Awaitable[tuple[asyncio.BaseTransport, "Backend"]],
]


class TakenOver(web.StreamResponse):
    """What a handler returns once the connection is no longer aiohttp's."""

    def __init__(self, status: int) -> None:
        super().__init__(status=status)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write nothing: the head went out already."""
        return None

    async def write_eof(self, data: Any = b"") -> None:
        """Write nothing."""


class _Side(asyncio.Protocol):
    """One end of a spliced pair."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Pass a half-close on, where the other side can take one (TLS cannot)."""
        if self.other is None or self.other.transport is None:
            return False
        if self.other.transport.can_write_eof():
            self.other.transport.write_eof()
            return True
        return False

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()  # what is buffered still goes out


class _Caller(_Side):
    """The client's side. aiohttp's own protocol still hears that the connection is gone, and cleans up."""

    def __init__(self, before: asyncio.BaseProtocol, transport: asyncio.Transport) -> None:
        super().__init__()
        self._before, self.transport = before, transport

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._before.connection_lost(error)


class Backend(_Side):
    """The backend's side. Collects the head of the answer before it is spliced."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = b""
        self.ended = False
        self._wakeup: asyncio.Event = asyncio.Event()
        self._writable: asyncio.Event = asyncio.Event()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            super().data_received(data)
            return
        self.buffer += data
        self._wakeup.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._wakeup.set()
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True
        self._wakeup.set()
        self._writable.set()
        super().connection_lost(error)

    def pause_writing(self) -> None:
        self._writable.clear()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._writable.set()
        super().resume_writing()

    async def write(self, data: bytes) -> None:
        """Send, waiting while the backend does not take more."""
        await self._writable.wait()
        if self.transport is not None and not self.ended:
            self.transport.write(data)

    async def head(self) -> bytes:
        """Return the head of the answer with its empty line. Raises ConnectionError."""
        while b"\r\n\r\n" not in self.buffer:
            if self.ended:
                raise ConnectionError("the backend closed the connection without an answer")
            if len(self.buffer) > MAX_HEAD_BYTES:
                raise ConnectionError("the backend's answer has no end of headers")
            self._wakeup.clear()
            await self._wakeup.wait()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"


async def direct(
    factory: Callable[[], Backend], host: str, port: int, context: ssl.SSLContext | None
) -> tuple[asyncio.BaseTransport, Backend]:
    """Connect as the machine's routes lead."""
    loop = asyncio.get_running_loop()
    name = host if context is not None else None
    return await loop.create_connection(factory, host, port, ssl=context, server_hostname=name)


async def loopback_only(
    factory: Callable[[], Backend], host: str, port: int, context: ssl.SSLContext | None
) -> tuple[asyncio.BaseTransport, Backend]:
    """Connect to this machine's loopback and nowhere else: on a fake kernel a pod's address may be anybody's."""
    if not ip_address(host).is_loopback:
        raise ConnectionError(f"{host} exists on a fake kernel only; nothing is sent there")
    return await direct(factory, host, port, context)


async def relay(
    request: web.Request,
    host: str,
    port: int,
    path: str,
    *,
    context: ssl.SSLContext | None,
    connect: Connect = direct,
    rewrite_head: Callable[[bytes], bytes] | None = None,
) -> web.StreamResponse:
    """Send ``request`` to ``host``:``port`` as ``path`` and splice the two connections until one ends.

    ``path`` is raw, with its query. ``rewrite_head`` may change the head of the answer. Raises
    ApiStatusError (503, 500, 504) as long as nothing was answered.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, backend = await connect(Backend, host, port, context)
    except (OSError, ssl.SSLError, TimeoutError) as error:
        raise _no_backend(where, error) from error
    try:
        return await _exchange(request, backend, _request_head(request, path, where), rewrite_head)
    except ConnectionError as error:
        raise _no_backend(where, error) from error
    except TimeoutError as error:
        raise ApiStatusError(504, "Timeout", f"{where} did not answer in {HEAD_TIMEOUT_S:g} s") from error
    finally:
        if backend.transport is not None:
            backend.transport.close()


async def _exchange(
    request: web.Request, backend: Backend, head: bytes, rewrite: Callable[[bytes], bytes] | None
) -> web.StreamResponse:
    await backend.write(head)
    body = asyncio.create_task(_send_body(request, backend)) if request.can_read_body else None
    try:
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            answer = await backend.head()
        status = _status(answer)
        caller_transport = request.transport
        if caller_transport is None or caller_transport.is_closing():
            raise ConnectionError("the client is gone")
        if body is not None and status >= 200:
            await body
        # Bytes that came right behind an upgrade request were kept for a parser that never comes.
        early: bytes = getattr(request.protocol, "_message_tail", b"")
        caller = _take(request, caller_transport)
        _splice(caller, backend, rewrite(answer) if rewrite is not None else answer, early)
        await asyncio.wait((caller.closed, backend.closed), return_when=asyncio.FIRST_COMPLETED)
        if backend.closed.done() and not caller.closed.done():
            await caller.closed  # its last bytes are on the way
        return TakenOver(status)
    finally:
        if body is not None:
            body.cancel()


def _take(request: web.Request, transport: asyncio.Transport) -> _Caller:
    """Make ``transport`` ours."""
    caller = _Caller(request.protocol, transport)
    transport.set_protocol(caller)
    return caller


def _splice(caller: _Caller, backend: Backend, head: bytes, early: bytes) -> None:
    assert caller.transport is not None
    assert backend.transport is not None
    caller.other, backend.other = backend, caller
    caller.transport.write(head + backend.buffer)
    backend.buffer = b""
    if early:
        backend.transport.write(early)
    if backend.ended:
        caller.transport.close()
    else:
        caller.transport.resume_reading()


async def _send_body(request: web.Request, backend: Backend) -> None:
    """Send the request's body, in chunks when its length is not known."""
    chunked = request.content_length is None
    async for piece in request.content.iter_any():
        await backend.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    if chunked:
        await backend.write(b"0\r\n\r\n")


_NOT_PASSED_ON = frozenset(
    {
        "host", "authorization", "connection", "keep-alive", "proxy-authorization", "proxy-connection", "te",
        "trailer", "transfer-encoding", "content-length", "upgrade", "expect",
    }
)  # fmt: skip


def _request_head(request: web.Request, path: str, where: str) -> bytes:
    """Return the request line and headers for the backend. Credentials are for us, not for it."""
    lines = [f"{request.method} {path} HTTP/1.1", f"Host: {where}"]
    for name, value in request.headers.items():
        lower = name.lower()
        if lower not in _NOT_PASSED_ON and not lower.startswith("impersonate-"):
            lines.append(f"{name}: {value}")
    if request.remote:
        lines.append(f"X-Forwarded-For: {request.remote}")
    upgrade = request.headers.get("Upgrade")
    if upgrade:
        lines += ["Connection: Upgrade", f"Upgrade: {upgrade}"]
    else:
        lines.append("Connection: close")
    if request.content_length is not None:
        lines.append(f"Content-Length: {request.content_length}")
    elif request.can_read_body:
        lines.append("Transfer-Encoding: chunked")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def _status(head: bytes) -> int:
    parts = head.split(b" ", 2)
    if not parts[0].startswith(b"HTTP/1.") or len(parts) < 2 or not parts[1][:3].isdigit():
        raise ConnectionError("the backend does not speak HTTP/1.1")
    return int(parts[1][:3])


def _no_backend(where: str, error: BaseException) -> ApiStatusError:
    cause = "i/o timeout" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    message = f"error dialing backend: dial tcp {where}: {cause}"
    return ApiStatusError(500, "InternalError", message, {"causes": [{"message": message}]})
