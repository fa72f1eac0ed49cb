"""What commands print: progress as kind shows it, tables that fit, JSON for machines."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def is_fancy() -> bool:
    """Return whether standard error is a terminal that takes colours and rewritten lines."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" and "NO_COLOR" not in os.environ


class Progress:
    """Steps of a long piece of work on standard error: one line each, with how long it took."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._fancy = quiet, is_fancy()

    def __call__(self, message: Mapping[str, Any]) -> None:
        """Show one message of ``lab.cluster.Report``."""
        if self._quiet:
            return
        if "step" in message and self._fancy:
            self._write(f" \x1b[33m•\x1b[0m {message['step']} ...")
        elif "done" in message:
            took = f"{message['took_s']:.2f} s" if message.get("took_s", 0) >= 0.005 else ""
            mark = "\r\x1b[K \x1b[32m✓\x1b[0m" if self._fancy else " ✓"
            self._write(f"{mark} {message['done']}  {took}".rstrip() + "\n")
        elif "note" in message:
            self._write(f"   {message['note']}\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in kubectl's manner; the last column is cut where the terminal ends."""
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    limit = shutil.get_terminal_size((0, 0)).columns if sys.stdout.isatty() else 0
    for row in (list(columns), *cells):
        line = "   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        print(line[: limit - 1] + "…" if limit and len(line) > limit else line)


def print_error(text: str) -> None:
    """Print what went wrong on standard error, every line marked."""
    mark = "\x1b[31mpodwire:\x1b[0m" if is_fancy() else "podwire:"
    for line in text.splitlines() or [""]:
        print(f"{mark} {line}", file=sys.stderr)
