"""SPDY streams as things to read and write, over a ``ByteLink``."""

from __future__ import annotations

import asyncio

from podwire.node.streams.link import ByteLink
from podwire.wire import spdy


class SpdyStream:
    """One stream that the client opened."""

    def __init__(self, session: SpdySession, id: int, headers: dict[str, str]) -> None:
        self.id, self.headers = id, headers
        self._session = session
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue(maxsize=256)
        self._read_end = self._write_end = False

    @property
    def kind(self) -> str:
        """The header streamType: stdin, stdout, stderr, error, resize, data."""
        return self.headers.get("streamtype", "").lower()

    async def read(self) -> bytes:
        """Return the next bytes; empty at the end."""
        if self._read_end:
            return b""
        data = await self._arrived.get()
        self._read_end = not data
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes."""
        if data and not self._write_end:
            await self._session.send(self.id, data, fin=False)

    async def close(self) -> None:
        """Send the end."""
        if not self._write_end:
            self._write_end = True
            await self._session.send(self.id, b"", fin=True)

    async def feed(self, data: bytes) -> None:
        """The session received bytes; empty means the end."""
        if not self._read_end:
            await self._arrived.put(data)

    def abandon(self) -> None:
        """Nobody will read what still comes."""
        self._read_end = True
        while not self._arrived.empty():
            self._arrived.get_nowait()

    def cut(self) -> None:
        """The connection is gone: whatever was not read yet is the last."""
        self._write_end = True
        if self._arrived.full():
            self._arrived.get_nowait()
        self._arrived.put_nowait(b"")


class SpdySession:
    """The server's side of one connection. ``run`` it beside whatever uses the streams."""

    def __init__(self, link: ByteLink) -> None:
        self._link = link
        self._connection = spdy.Connection(server=True)
        self._streams: dict[int, SpdyStream] = {}
        self._opened: asyncio.Queue[SpdyStream | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def accept(self) -> SpdyStream | None:
        """Return the next stream that the client opens; None once the connection has ended."""
        return await self._opened.get()

    async def run(self) -> None:
        """Take in frames until the connection ends."""
        try:
            while True:
                data = await self._link.receive()
                if not data:
                    return
                for event in self._connection.receive(data):
                    await self._act(event)
                await self._flush()
        except spdy.ProtocolError:
            self._connection.go_away(status=1)
            await self._flush()
        finally:
            self.closed.set()
            self._opened.put_nowait(None)
            for stream in self._streams.values():
                stream.cut()

    async def send(self, stream: int, data: bytes, *, fin: bool) -> None:
        """Send on a stream."""
        self._connection.send(stream, data, fin=fin)
        await self._flush()

    async def _flush(self) -> None:
        await self._link.send(self._connection.take())

    async def _act(self, event: spdy.Event) -> None:
        match event:
            case spdy.StreamOpened(stream=id, headers=headers, fin=fin):
                stream = self._streams[id] = SpdyStream(self, id, headers)
                self._connection.reply(id)
                if fin:
                    await stream.feed(b"")
                self._opened.put_nowait(stream)
            case spdy.DataReceived(stream=id, data=data, fin=fin):
                await self._data(id, data, fin)
            case spdy.StreamReset(stream=id):
                if id in self._streams:
                    await self._streams.pop(id).feed(b"")
            case _:
                pass

    async def _data(self, id: int, data: bytes, fin: bool) -> None:
        stream = self._streams.get(id)
        if stream is None:
            self._connection.reset(id, spdy.INVALID_STREAM)
            return
        if data:
            await stream.feed(data)
        if fin:
            await stream.feed(b"")
