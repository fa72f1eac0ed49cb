"""`--dry-kernel`: run lab init as an ordinary process, without namespaces, for machines that allow none."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn


def launch(main: Callable[[], NoReturn]) -> int:
    """Run ``main`` in a process of its own session, detached from the terminal; return its pid."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.setsid()
        inner = os.fork()
        if inner:
            os.write(write, str(inner).encode())
            os._exit(0)
        os.close(write)
        try:
            main()
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as source:
        inner_pid = int(source.read())
    os.waitpid(pid, 0)
    return inner_pid
