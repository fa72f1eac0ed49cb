"""Read and write descriptors (pipes, terminals, sockets) from the event loop, without threads."""

from __future__ import annotations

import asyncio
import errno
import os

_CHUNK_BYTES = 1 << 16


class FdReader:
    """The reading end of a descriptor, which it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    async def read(self) -> bytes:
        """Return what is there, once something is; empty at the end. A terminal's EIO is its end."""
        while self._fd >= 0:
            try:
                return os.read(self._fd, _CHUNK_BYTES)
            except BlockingIOError:
                await _until(self._fd, reading=True)
            except OSError as error:
                if error.errno == errno.EIO:
                    return b""
                raise
        return b""

    def close(self) -> None:
        """Give the descriptor up."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class FdWriter:
    """The writing end of a descriptor, which it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    async def write(self, data: bytes) -> bool:
        """Write all of it; return False when nobody reads any more."""
        view = memoryview(data)
        while view and self._fd >= 0:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await _until(self._fd, reading=False)
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EIO):
                    return False
                raise
        return self._fd >= 0

    def close(self) -> None:
        """Give the descriptor up: the other side reads its end."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1


async def _until(fd: int, *, reading: bool) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    (loop.add_reader if reading else loop.add_writer)(fd, ready)
    try:
        await future
    finally:
        (loop.remove_reader if reading else loop.remove_writer)(fd)


async def read_all(fd: int, limit: int) -> bytes:
    """Return the first ``limit`` bytes until the end; what follows is read and dropped. Closes ``fd``."""
    reader = FdReader(fd)
    kept = b""
    try:
        while True:
            data = await reader.read()
            if not data:
                return kept
            kept = (kept + data)[:limit]
    finally:
        reader.close()
