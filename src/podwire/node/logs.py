"""Container logs in CRI form, read back: `kubectl logs` and its options.

2026-11-21T10:00:00.123456789Z stdout F the line
2026-11-21T10:00:00.123456789Z stdout P a part of a line that
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podwire.runtime.clock import Clock

_POLL_S: Final = 0.1
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What was asked for. ``since`` is an RFC 3339 moment, "" for the beginning."""

    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: str = ""
    stream: str = ""  # "stdout", "stderr", "" for both


def generations(path: Path) -> list[Path]:
    """Return the log files of one attempt, oldest first: N.log.2, N.log.1, N.log."""
    rotated = []
    for entry in path.parent.glob(path.name + ".*"):
        tail = entry.name[len(path.name) + 1 :]
        if tail.isdigit():
            rotated.append((int(tail), entry))
    older = [entry for _, entry in sorted(rotated, reverse=True)]
    return [*older, path] if path.exists() else older


def render(lines: Iterable[bytes], options: LogOptions) -> Iterator[bytes]:
    """Yield what the reader sees of raw log lines."""
    for line in lines:
        parts = line.split(b" ", 3)
        if len(parts) < 4:
            continue
        moment, stream, tag, text = parts
        if options.stream and stream.decode() != options.stream:
            continue
        if options.since and _sortable(moment) < _sortable(options.since.encode()):
            continue
        if tag.startswith(b"P"):
            text = text.removesuffix(b"\n")
        yield moment + b" " + text if options.timestamps else text


def _sortable(moment: bytes) -> bytes:
    """Return a UTC RFC 3339 moment with its fraction filled to nine digits, so that bytes compare."""
    body, _, fraction = moment.removesuffix(b"Z").partition(b".")
    return body + b"." + fraction.ljust(9, b"0")


def last_lines(paths: list[Path], count: int, end: int | None = None) -> list[bytes]:
    """Return the last ``count`` raw lines, reading from the end. A line in parts counts as one.

    ``end``: where the newest file is taken to end.
    """
    kept: list[bytes] = []
    whole = 0
    for path in reversed(paths):
        for line in _lines_backwards(path, end if path == paths[-1] else None):
            tag = line.split(b" ", 3)[2:3]
            if tag and not tag[0].startswith(b"P"):
                whole += 1
                if whole > count:
                    return kept[::-1]
            kept.append(line)
    return kept[::-1]


def _lines_backwards(path: Path, end: int | None) -> Iterator[bytes]:
    try:
        size = path.stat().st_size if end is None else end
    except OSError:
        return
    with path.open("rb") as f:
        rest = b""
        position = size
        while position > 0:
            step = min(_BLOCK_BYTES, position)
            position -= step
            f.seek(position)
            lines = (f.read(step) + rest).splitlines(keepends=True)
            rest = lines[0] if lines else b""
            yield from (line for line in reversed(lines[1:]) if line.endswith(b"\n"))
        if rest.endswith(b"\n"):
            yield rest


async def read(path: Path, options: LogOptions, ended: Callable[[], bool], clock: Clock) -> AsyncIterator[bytes]:
    """Yield the log in pieces; with ``follow`` until ``ended()`` and nothing more is there."""
    left = options.limit_bytes
    async for piece in _pieces(path, options, ended, clock):
        if left is not None:
            piece, left = piece[:left], left - len(piece)
        if piece:
            yield piece
        if left is not None and left <= 0:
            return


async def _pieces(path: Path, options: LogOptions, ended: Callable[[], bool], clock: Clock) -> AsyncIterator[bytes]:
    files = generations(path)
    reader = _Tail(path)
    if options.tail_lines is not None:
        end = reader.skip_to_end()
        yield b"".join(render(last_lines(files, options.tail_lines, end), options))
    else:
        for older in files[:-1]:
            with older.open("rb") as f:
                while lines := f.readlines(_BLOCK_BYTES):
                    yield b"".join(render(lines, options))
    try:
        while True:
            over = ended()  # asked before reading: what was written before the end is still read
            while lines := reader.lines():
                yield b"".join(render(lines, options))
            if not options.follow or over:
                return
            await clock.sleep(_POLL_S)
    finally:
        reader.close()


class _Tail:
    """A log file that grows and is rotated away under its reader."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._rest = b""
        self._open()

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def skip_to_end(self) -> int | None:
        """Go behind the last whole line and return where that is; None when there is no file."""
        if self._fd < 0:
            return None
        size = os.fstat(self._fd).st_size
        step = min(size, _BLOCK_BYTES)
        block = os.pread(self._fd, step, size - step)
        return os.lseek(self._fd, size - step + block.rfind(b"\n") + 1, os.SEEK_SET)

    def lines(self) -> list[bytes]:
        """Return whole lines that are there; empty when there are none (yet)."""
        if self._fd < 0:
            self._open()
            if self._fd < 0:
                return []
        data = self._rest + os.read(self._fd, _BLOCK_BYTES)
        if data == self._rest and self._rotated():
            self.close()
            self._open()
            return self.lines() if self._fd >= 0 else []
        whole, newline, self._rest = data.rpartition(b"\n")
        return (whole + newline).splitlines(keepends=True)

    def _rotated(self) -> bool:
        try:
            return os.stat(self._path).st_ino != os.fstat(self._fd).st_ino
        except OSError:
            return False

    def close(self) -> None:
        """Give the file up."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
