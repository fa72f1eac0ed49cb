"""A container's streams in the shim: from its pipes (or terminal) to the log file and to whoever attached."""

from __future__ import annotations

import os
import socket
import struct
import time
from functools import partial
from pathlib import Path

from podwire.node.runtime.loop import READ, WRITE, Loop

_LINE_BYTES = 16 << 10
_READ_BYTES = 64 << 10
_LAG_BYTES = 256 << 10
_EARLY_BYTES = 64 << 10
STDOUT, STDERR = 1, 2
_NAMES = {STDOUT: b" stdout ", STDERR: b" stderr "}


class CriLog:
    """A log file as the CRI wants it: ``2026-01-01T00:00:00.000000000Z stdout F line``.

    Lines over 16 KiB are cut into parts (tag P) and a last one (F). At ``most_bytes`` the file becomes
    ``NAME.1`` and so on, ``most_files`` in all, the present one counted.
    """

    def __init__(self, path: Path, most_bytes: int, most_files: int) -> None:
        self._path, self._most_bytes, self._most_files = path, most_bytes, max(1, most_files)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size
        self._rest: dict[int, bytes] = {}

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def write(self, stream: int, chunk: bytes) -> None:
        """Log the whole lines that ``chunk`` completes."""
        *lines, rest = (self._rest.get(stream, b"") + chunk).split(b"\n")
        head = _stamp() + _NAMES[stream]
        out: list[bytes] = []
        for line in lines:
            while len(line) > _LINE_BYTES:
                out += (head, b"P ", line[:_LINE_BYTES], b"\n")
                line = line[_LINE_BYTES:]
            out += (head, b"F ", line, b"\n")
        while len(rest) >= _LINE_BYTES:
            out += (head, b"P ", rest[:_LINE_BYTES], b"\n")
            rest = rest[_LINE_BYTES:]
        self._rest[stream] = rest
        self._append(b"".join(out))

    def finish(self, stream: int) -> None:
        """Log what came without a newline at its end."""
        rest = self._rest.pop(stream, b"")
        if rest:
            self._append(_stamp() + _NAMES[stream] + b"F " + rest + b"\n")

    def close(self) -> None:
        """Close the file; it stays."""
        for stream in list(self._rest):
            self.finish(stream)
        os.close(self._fd)

    def _append(self, text: bytes) -> None:
        if not text:
            return
        if self._size and self._size + len(text) > self._most_bytes:
            self._rotate()
        try:
            os.write(self._fd, text)
        except OSError:
            pass  # a full disk costs log lines, never the container
        self._size += len(text)

    def _rotate(self) -> None:
        if not os.path.isfile(self._path):
            return  # /dev/null
        os.close(self._fd)
        for number in range(self._most_files - 1, 0, -1):
            older = Path(f"{self._path}.{number}")
            newer = Path(f"{self._path}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(older)
        if self._most_files == 1:
            self._path.unlink(missing_ok=True)
        self._fd = self._open()
        self._size = 0


def _stamp() -> bytes:
    now_ns = time.time_ns()
    seconds, rest_ns = divmod(now_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%09dZ" % rest_ns


class Streams:
    """The shim's ends of a container's pipes or terminal. Descriptors are owned from here on."""

    def __init__(self, loop: Loop, log: CriLog, *, replay: bool = False) -> None:
        """``replay``: the first to attach gets what came before, so that no prompt and no quick answer is lost."""
        self._loop, self._log = loop, log
        self._early: bytearray | None = bytearray() if replay else None
        self._sources: dict[int, int] = {}
        self._watchers: dict[int, _Watcher] = {}
        self.stdin: int | None = None
        self.terminal: int | None = None
        self._paused = False

    def add_source(self, stream: int, fd: int) -> None:
        """Pump ``fd`` from now on."""
        os.set_blocking(fd, False)
        self._sources[fd] = stream
        self._loop.watch(fd, partial(self._on_ready, fd))

    def add_terminal(self, fd: int) -> None:
        """Pump the master side of the container's terminal, which takes its input, too."""
        self.terminal = fd
        self.add_source(STDOUT, fd)

    def attach(self) -> int:
        """Return a new descriptor on which frames of the output arrive; the caller passes it on and closes it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._watchers[ours.fileno()] = _Watcher(ours)
        self._loop.watch(ours.fileno(), partial(self._serve, ours.fileno()))
        if self._early is not None:
            self._watchers[ours.fileno()].buffer += self._early
            self._early = None
            self._flush(ours.fileno())
        return theirs.detach()

    def drain(self) -> None:
        """Take everything that is in the pipes now; for a container that has ended."""
        for fd in list(self._sources):
            while fd in self._sources and self._pump(fd):
                pass

    def close(self) -> None:
        """Log what is left, send it to those attached, and let go of everything."""
        self.drain()
        for fd in list(self._sources):
            self._end(fd)
        for fd, watcher in list(self._watchers.items()):
            watcher.ended = True
            if not watcher.buffer:
                self._drop(fd)
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None
        self._log.close()

    def close_stdin(self) -> None:
        """Give up the shim's copy of the container's standard input."""
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None

    def _pump(self, fd: int) -> bool:
        """Read once and pass it on; return whether something was read."""
        stream = self._sources[fd]
        try:
            chunk = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody holds the terminal's other side
            chunk = b""
        if not chunk:
            self._end(fd)
            return False
        self._log.write(stream, chunk)
        frame = struct.pack(">BI", stream, len(chunk)) + chunk
        if self._early is not None and len(self._early) < _EARLY_BYTES:
            self._early += frame
        for number, watcher in list(self._watchers.items()):
            watcher.buffer += frame
            self._flush(number)
        if any(len(w.buffer) > _LAG_BYTES for w in self._watchers.values()):
            self._pause()
        return True

    def _on_ready(self, fd: int, events: int) -> None:
        self._pump(fd)

    def _pause(self) -> None:
        """Read no more until those attached have caught up: the container feels its reader's pace."""
        self._paused = True
        for fd in self._sources:
            self._loop.forget(fd)

    def _resume(self) -> None:
        if self._paused and all(len(w.buffer) <= _LAG_BYTES for w in self._watchers.values()):
            self._paused = False
            for fd in self._sources:
                self._loop.watch(fd, partial(self._on_ready, fd))

    def _serve(self, number: int, events: int) -> None:
        if events & ~WRITE:  # attached clients send nothing: readable means gone
            self._drop(number)
        else:
            self._flush(number)

    def _flush(self, number: int) -> None:
        watcher = self._watchers[number]
        try:
            while watcher.buffer:
                sent = watcher.socket.send(watcher.buffer)
                del watcher.buffer[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(number)
            return
        if watcher.ended and not watcher.buffer:
            self._drop(number)
            return
        events = READ | WRITE if watcher.buffer else READ
        if events != watcher.events:
            watcher.events = events
            self._loop.watch(number, partial(self._serve, number), events)
        self._resume()

    def _drop(self, number: int) -> None:
        self._loop.forget(number)
        self._watchers.pop(number).socket.close()
        self._resume()

    def _end(self, fd: int) -> None:
        stream = self._sources.pop(fd)
        self._log.finish(stream)
        self._loop.forget(fd)
        if self.terminal == fd:
            self.terminal = None
        os.close(fd)


class _Watcher:
    __slots__ = ("buffer", "ended", "events", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket, self.buffer, self.ended, self.events = sock, bytearray(), False, READ
