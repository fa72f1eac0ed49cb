"""The far end of exec and attach, whichever protocol it speaks: stdin, stdout, stderr, error, resize.

WebSocket  v5.channel.k8s.io (255 closes a channel), v4, and their base64 forms: one byte of channel, data
SPDY/3.1   one stream per channel, named by its header streamType
"""

from __future__ import annotations

import asyncio
import base64
from typing import Final, Protocol

import orjson
from aiohttp import WSMsgType, web

from podwire.model.objects import Obj
from podwire.node.streams.spdysession import SpdySession, SpdyStream

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
WEBSOCKET_PROTOCOLS: Final = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)
SPDY_PROTOCOLS: Final = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
_QUEUED = 64


class Remote(Protocol):
    """What exec and attach need of the client."""

    closed: asyncio.Event

    async def read_stdin(self) -> bytes:
        """Return what was typed; empty at the end."""
        ...

    async def next_size(self) -> tuple[int, int]:
        """Return the terminal's next size: rows, columns."""
        ...

    async def send(self, channel: int, data: bytes) -> None:
        """Send output (STDOUT or STDERR)."""
        ...

    async def finish(self, status: Obj) -> None:
        """Say how it ended (metav1.Status) and close."""
        ...


def parse_size(data: bytes) -> tuple[int, int] | None:
    """Return rows and columns of {"Width":80,"Height":24}; None for anything else."""
    try:
        size = orjson.loads(data)
        return int(size["Height"]), int(size["Width"])
    except (ValueError, KeyError, TypeError):
        return None


class WebSocketRemote:
    """Channels in WebSocket messages. ``run`` it beside whatever uses it."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.closed = asyncio.Event()
        self._socket = socket
        self._base64 = "base64" in (socket.ws_protocol or "")
        self._stdin: asyncio.Queue[bytes] = asyncio.Queue(maxsize=_QUEUED)
        self._sizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self._stdin_ended = False

    async def run(self) -> None:
        """Take in messages until the client is gone."""
        try:
            async for message in self._socket:
                if message.type is WSMsgType.BINARY:
                    await self._act(bytes(message.data))
                elif message.type is WSMsgType.TEXT and message.data:
                    text = str(message.data)
                    await self._act(bytes((int(text[0]),)) + base64.b64decode(text[1:]))
        except ValueError:
            pass  # not our protocol: the connection is over
        finally:
            self.closed.set()
            self._end_stdin()

    def _end_stdin(self) -> None:
        if self._stdin.full():
            self._stdin.get_nowait()
        self._stdin.put_nowait(b"")

    async def _act(self, message: bytes) -> None:
        if not message:
            return
        channel, data = message[0], message[1:]
        if channel == STDIN and data and not self._stdin_ended:
            await self._stdin.put(data)
        elif channel == RESIZE:
            size = parse_size(data)
            if size is not None:
                self._sizes.put_nowait(size)
        elif channel == CLOSE and data[:1] == bytes((STDIN,)):
            self._stdin_ended = True
            await self._stdin.put(b"")

    async def greet(self, channel: int) -> None:
        """Send an empty message: the connection stands. Clients wait for it."""
        await self._send(channel, b"")

    async def read_stdin(self) -> bytes:
        """Return what was typed."""
        return await self._stdin.get()

    async def next_size(self) -> tuple[int, int]:
        """Return the terminal's next size."""
        return await self._sizes.get()

    async def send(self, channel: int, data: bytes) -> None:
        """Send output."""
        if data:
            await self._send(channel, data)

    async def _send(self, channel: int, data: bytes) -> None:
        if self._socket.closed:
            return
        try:
            if self._base64:
                await self._socket.send_str(str(channel) + base64.b64encode(data).decode())
            else:
                await self._socket.send_bytes(bytes((channel,)) + data)
        except (ConnectionError, RuntimeError):
            self.closed.set()

    async def finish(self, status: Obj) -> None:
        """Say how it ended and close."""
        await self._send(ERROR, orjson.dumps(status))
        await self._socket.close()


class SpdyRemote:
    """Channels as SPDY streams."""

    def __init__(self, session: SpdySession, streams: dict[str, SpdyStream], protocol: str) -> None:
        self.closed = session.closed
        self._streams, self._protocol = streams, protocol

    async def read_stdin(self) -> bytes:
        """Return what was typed."""
        return await self._streams["stdin"].read()

    async def next_size(self) -> tuple[int, int]:
        """Return the terminal's next size; waits for ever when there is none to come."""
        stream = self._streams.get("resize")
        while stream is not None:
            data = await stream.read()
            if not data:
                break
            for line in data.splitlines():
                size = parse_size(line)
                if size is not None:
                    return size
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def send(self, channel: int, data: bytes) -> None:
        """Send output."""
        stream = self._streams.get("stdout" if channel == STDOUT else "stderr")
        if stream is not None:
            await stream.write(data)

    async def finish(self, status: Obj) -> None:
        """Say how it ended and close. Before v4 an error was plain text, and success silence."""
        error = self._streams.get("error")
        if error is not None:
            if self._protocol == "v4.channel.k8s.io":
                await error.write(orjson.dumps(status))
            elif status.get("status") != "Success":
                await error.write(status.get("message", "").encode())
        for stream in self._streams.values():
            await stream.close()


async def gather_streams(session: SpdySession, wanted: set[str], timeout_s: float) -> dict[str, SpdyStream]:
    """Return the streams by kind, once all wanted are there. Raises TimeoutError and ConnectionError."""
    streams: dict[str, SpdyStream] = {}
    async with asyncio.timeout(timeout_s):
        while not wanted <= streams.keys():
            stream = await session.accept()
            if stream is None:
                raise ConnectionError("the client left before all its streams were open")
            streams[stream.kind] = stream
    return streams


def success() -> Obj:
    """Return the Status of a command that ended with 0."""
    return {"metadata": {}, "status": "Success"}


def failure(message: str, code: int = 500) -> Obj:
    """Return the Status of something that could not be done."""
    return {"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": code}


def exit_status(code: int) -> Obj:
    """Return the Status of a command that ended with ``code``."""
    if code == 0:
        return success()
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
