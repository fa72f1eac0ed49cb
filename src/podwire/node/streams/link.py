"""Bytes both ways over an upgraded HTTP connection: raw after ``101``, or in WebSocket messages."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from aiohttp import WSMsgType, web


class ByteLink(Protocol):
    """A connection that SPDY frames travel on."""

    async def receive(self) -> bytes:
        """Return what came next; empty at the end."""
        ...

    async def send(self, data: bytes) -> None:
        """Send, waiting while the peer is slow. Nothing happens once the peer is gone."""
        ...


class RawLink(asyncio.Protocol):
    """The transport of an HTTP request, taken over from aiohttp."""

    _PAUSE_AT = 1 << 20

    def __init__(self, transport: asyncio.Transport, before: asyncio.BaseProtocol) -> None:
        self._transport, self._before = transport, before
        self._chunks: list[bytes] = []
        self._waiting = 0
        self._arrived, self._writable = asyncio.Event(), asyncio.Event()
        self._writable.set()
        self._ended = False

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        self._chunks.append(bytes(data))
        self._waiting += len(data)
        if self._waiting > self._PAUSE_AT:
            self._transport.pause_reading()
        self._arrived.set()

    def eof_received(self) -> bool:
        """asyncio: the peer sends no more."""
        self._ended = True
        self._arrived.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: over. aiohttp is told, so that it forgets the connection."""
        self._ended = True
        self._arrived.set()
        self._writable.set()
        self._before.connection_lost(exc)

    def pause_writing(self) -> None:
        """asyncio: the peer is slow."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """asyncio: the peer has caught up."""
        self._writable.set()

    async def receive(self) -> bytes:
        """Return all that came since; empty at the end."""
        while not self._chunks and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        data = b"".join(self._chunks)
        self._chunks.clear()
        if self._waiting > self._PAUSE_AT and not self._transport.is_closing():
            self._transport.resume_reading()
        self._waiting = 0
        return data

    async def send(self, data: bytes) -> None:
        """Send."""
        if data and not self._transport.is_closing():
            self._transport.write(data)
        await self._writable.wait()

    def close(self) -> None:
        """Close, once what was sent is out."""
        self._transport.close()


class WebSocketLink:
    """SPDY tunnelled in binary WebSocket messages (KEP-4006)."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def receive(self) -> bytes:
        """Return the next message's bytes; empty at the end."""
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY:
                if message.data:
                    return bytes(message.data)
            elif message.type is not WSMsgType.TEXT:
                return b""

    async def send(self, data: bytes) -> None:
        """Send one message."""
        if data and not self._socket.closed:
            try:
                await self._socket.send_bytes(data)
            except (ConnectionError, RuntimeError):
                pass  # the peer left between the look and the act


class Upgraded(web.StreamResponse):
    """What a request handler returns after it ended an upgraded connection: nothing more to send."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Send nothing."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""


async def take_over(request: web.Request, headers: dict[str, str]) -> RawLink:
    """Answer 101 and return the connection's bytes. The caller returns ``Upgraded`` when done."""
    transport = request.transport
    assert transport is not None
    before = request.protocol
    link = RawLink(transport, before)
    lines = ["HTTP/1.1 101 Switching Protocols", *(f"{k}: {v}" for k, v in headers.items())]
    transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    transport.set_protocol(link)
    return link
