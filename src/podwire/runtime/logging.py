"""Logs of agents: one line per reconcile, a constant event, data in keys, seconds.

log = get("proxy")
log.info("reconciled", node="n1", changed=3, took_s=0.012)
-> 2026-11-21T10:00:00.123Z INFO  proxy reconciled node=n1 changed=3 took_s=0.012
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TextIO

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Log:
    """A room's log. Writes whole lines to standard error, which the supervisor sends to a file."""

    __slots__ = ("_room", "_stream", "_threshold")

    def __init__(self, room: str, stream: TextIO | None = None, level: str | None = None) -> None:
        self._room, self._stream = room, stream
        self._threshold = _LEVELS.get(level or os.environ.get("PODWIRE_LOG", "info"), 20)

    def debug(self, event: str, **data: object) -> None:
        """Something only a developer wants to see."""
        self._write("debug", event, data)

    def info(self, event: str, **data: object) -> None:
        """Something that changed."""
        self._write("info", event, data)

    def warning(self, event: str, **data: object) -> None:
        """Something that will be tried again."""
        self._write("warning", event, data)

    def error(self, event: str, **data: object) -> None:
        """Something that a person should look at."""
        self._write("error", event, data)

    def _write(self, level: str, event: str, data: dict[str, object]) -> None:
        if _LEVELS[level] < self._threshold:
            return
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        pairs = " ".join(f"{k}={_value(v)}" for k, v in data.items())
        line = f"{moment} {level.upper():7} {self._room} {event} {pairs}".rstrip() + "\n"
        stream = self._stream or sys.stderr
        stream.write(line)
        stream.flush()


def _value(v: object) -> str:
    if isinstance(v, float):
        return f"{v:.4g}"
    text = str(v)
    return repr(text) if not text or any(c in text for c in ' "=\n') else text


def get(room: str) -> Log:
    """Return the log of a room."""
    return Log(room)
