"""The shim's event loop: epoll, timers, ended children. No threads, no asyncio: the shim forks."""

from __future__ import annotations

import heapq
import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Loop:
    """Calls back when a descriptor is ready, a moment has come, or a child has ended."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._running = False

    def watch(self, fd: int, callback: Callable[[int], None], events: int = READ) -> None:
        """Call ``callback(ready events)`` whenever ``fd`` is ready; a second call replaces the first."""
        if fd in self._watched:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._watched[fd] = callback

    def forget(self, fd: int) -> None:
        """Watch ``fd`` no longer; call it before closing. Not watched: no error."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, after ``seconds``."""
        self._serial += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._serial, callback))

    def on_child_exit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when at least one child has ended (SIGCHLD)."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

        def drain(_: int) -> None:
            os.read(reader, 4096)
            callback()

        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)
        self.watch(reader, drain)

    def stop(self) -> None:
        """Leave ``run`` after the present round."""
        self._running = False

    def run(self) -> None:
        """Serve until ``stop``."""
        self._running = True
        while self._running:
            timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1
            for fd, events in self._epoll.poll(timeout):
                callback = self._watched.get(fd)  # an earlier callback of this round may have forgotten it
                if callback is not None:
                    callback(events)
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()


def leave_in_child() -> None:
    """Undo, in a forked child, what the loop did to signals."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor tells."""
