"""Port-forward: pairs of streams (data, error), each joined to a connection inside the pod.

SPDY (raw or tunnelled)  headers streamType data|error, port, requestID pair the streams
WebSocket channels       2i carries port i's data, 2i+1 its errors; both begin with the port, little endian
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias

from aiohttp import WSMsgType, web

from podwire.kernel.netns.port import NetnsPort
from podwire.node.streams.spdysession import SpdySession, SpdyStream

PROTOCOL: Final = "portforward.k8s.io"
TUNNEL_PROTOCOL: Final = "SPDY/3.1+portforward.k8s.io"
_CHUNK_BYTES = 1 << 16

Connect: TypeAlias = Callable[[int], Awaitable[socket.socket]]
Read: TypeAlias = Callable[[], Awaitable[bytes]]
Write: TypeAlias = Callable[[bytes], Awaitable[None]]


def connector(netns: NetnsPort | None, path: Path | None) -> Connect:
    """Return how to reach a pod's ports from inside its network namespace; ``path`` None: the node's."""

    async def connect(port: int) -> socket.socket:
        """Return a connection to 127.0.0.1, else ::1. Raises OSError that names both failures."""
        causes = []
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                opened = _open(family, netns, path)
            except OSError as error:
                causes.append(f"{host}: {error.strerror or error}")
                continue
            try:
                await asyncio.get_running_loop().sock_connect(opened, (host, port))
                return opened
            except OSError as error:
                opened.close()
                causes.append(f"dial tcp {host}:{port}: connect: {error.strerror or error}")
        raise OSError(f"failed to connect to localhost:{port} inside the pod: {', '.join(causes)}")

    return connect


def _open(family: int, netns: NetnsPort | None, path: Path | None) -> socket.socket:
    def act() -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    if path is None:
        return act()
    if netns is None:
        raise OSError("this node cannot enter pods (dry kernel)")
    fd = netns.open(path)
    try:
        return netns.within(fd, act)
    finally:
        os.close(fd)


async def serve_spdy(session: SpdySession, connect: Connect) -> None:
    """Forward pairs of streams until the connection ends."""
    waiting: dict[str, dict[str, SpdyStream]] = {}
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(session.run())
        forwards: set[asyncio.Task[None]] = set()
        while (stream := await session.accept()) is not None:
            request = stream.headers.get("requestid") or f"{stream.headers.get('port')}"
            pair = waiting.setdefault(request, {})
            pair[stream.kind] = stream
            if "data" in pair and "error" in pair:
                del waiting[request]
                task = group.create_task(_forward_pair(pair["data"], pair["error"], connect))
                forwards.add(task)
                task.add_done_callback(forwards.discard)
        for task in forwards:
            task.cancel()
        reading.cancel()


async def _forward_pair(data: SpdyStream, error: SpdyStream, connect: Connect) -> None:
    try:
        port = int(data.headers.get("port") or 0)
        try:
            opened = await connect(port)
        except OSError as problem:
            await error.write(f"error forwarding port {port}: {problem}".encode())
            return
        await _join(opened, data.read, data.write)
    finally:
        data.abandon()
        await data.close()
        await error.close()


async def _join(opened: socket.socket, read: Read, write: Write) -> None:
    """Copy both ways; over when the pod's side has ended."""
    outgoing = asyncio.ensure_future(_to_pod(opened, read))
    try:
        await _from_pod(opened, write)
    finally:
        outgoing.cancel()
        await asyncio.gather(outgoing, return_exceptions=True)
        opened.close()


async def _to_pod(opened: socket.socket, read: Read) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await read():
            await loop.sock_sendall(opened, data)
        opened.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the pod hung up; the other direction says so


async def _from_pod(opened: socket.socket, write: Write) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await loop.sock_recv(opened, _CHUNK_BYTES):
            await write(data)
    except OSError:
        pass  # reset: the stream ends here


async def serve_channels(ws: web.WebSocketResponse, ports: list[int], connect: Connect) -> None:
    """Forward one connection per port over WebSocket channels (the Python client's dialect)."""
    queues: list[asyncio.Queue[bytes]] = [asyncio.Queue(maxsize=256) for _ in ports]

    async def send(channel: int, payload: bytes) -> None:
        if not ws.closed:
            await ws.send_bytes(bytes((channel,)) + payload)

    async def forward(index: int, port: int) -> None:
        async def write(payload: bytes) -> None:
            await send(2 * index, payload)

        try:
            opened = await connect(port)
        except OSError as problem:
            await send(2 * index + 1, str(problem).encode())
            return
        await _join(opened, queues[index].get, write)

    async def forward_all() -> None:
        await asyncio.gather(*(forward(i, p) for i, p in enumerate(ports)), return_exceptions=True)
        await ws.close()

    for index, port in enumerate(ports):
        for channel in (2 * index, 2 * index + 1):
            await send(channel, port.to_bytes(2, "little"))
    forwarding = asyncio.ensure_future(forward_all())
    try:
        async for message in ws:
            raw = bytes(message.data) if message.type is WSMsgType.BINARY else b""
            if len(raw) > 1 and raw[0] % 2 == 0 and raw[0] // 2 < len(queues):
                await queues[raw[0] // 2].put(raw[1:])
    finally:
        forwarding.cancel()
        await asyncio.gather(forwarding, return_exceptions=True)
