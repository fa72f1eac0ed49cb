"""The process table of lab init: fork children, keep them alive, reap everything, tell who is ready.

Single-threaded and without an event loop of asyncio's, since it forks: a selector, a wake-up pipe for
SIGCHLD, and timers. A child that dies is started again at once, then after 0.1 s, 0.2 s ... 5 s; ten quiet
seconds forget the past. A child that is held (``hold``) stays down until it is released.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podwire.kernel import libc
from podwire.runtime.logging import get

FIRST_BACKOFF_S, LAST_BACKOFF_S, QUIET_S = 0.1, 5.0, 10.0
log = get("lab")

Main = Callable[[Callable[[], None]], None]
"""A child's body. It is handed a function to call once it is ready to serve."""


@dataclass(slots=True)
class Child:
    """One supervised process."""

    name: str
    main: Main
    restart: bool = True
    keep: tuple[int, ...] = ()  # descriptors that it inherits
    pid: int = 0  # 0: not running
    held: bool = False
    ready: bool = False
    restarts: int = 0
    backoff_s: float = 0.0
    started_at: float = 0.0
    last_exit: str = ""


class Supervisor:
    """Children, descriptors and timers of one single-threaded process."""

    def __init__(self, log_dir: Path) -> None:
        self.children: dict[str, Child] = {}
        self._log_dir = log_dir
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._watched: dict[int, Callable[[int], None]] = {}  # pid -> what to do with its exit status
        self._ready_listeners: list[Callable[[Child], None]] = []
        wake_r, wake_w = os.pipe()
        os.set_blocking(wake_r, False)
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.watch(wake_r, lambda: self._reap(wake_r))

    # Descriptors and timers

    def watch(self, fd: int, act: Callable[[], None]) -> None:
        """Call ``act`` whenever ``fd`` can be read."""
        self._selector.register(fd, selectors.EVENT_READ, act)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; the caller closes it."""
        self._selector.unregister(fd)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call ``act`` once, after ``seconds``."""
        self._timers.append((time.monotonic() + seconds, act))

    def on_ready(self, listener: Callable[[Child], None]) -> None:
        """Call ``listener`` each time a child says that it is ready."""
        self._ready_listeners.append(listener)

    def run(self) -> None:
        """Serve for ever."""
        while True:
            self.turn(None)

    def turn(self, timeout_s: float | None) -> None:
        """Wait for one round of events, at most ``timeout_s`` (None: as long as it takes), and serve them."""
        now = time.monotonic()
        if self._timers:
            due_s = max(0.0, min(t for t, _ in self._timers) - now)
            timeout_s = due_s if timeout_s is None else min(due_s, timeout_s)
        for selected, _ in self._selector.select(timeout_s):
            try:
                selected.data()
            except Exception:
                log.error("event-failed", error=traceback.format_exc())
        now = time.monotonic()
        due = [act for t, act in self._timers if t <= now]
        self._timers = [(t, act) for t, act in self._timers if t > now]
        for act in due:
            act()

    # Processes

    def fork(self, name: str, body: Callable[[], None], *, keep: tuple[int, ...] = ()) -> int:
        """Run ``body`` in a forked process with its log in ``NAME.log``; return its pid."""
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            gc.freeze()  # the parent's objects are shared pages: let no collection touch them
            self._settle_in(name, keep)
            body()
            status = 0
        except SystemExit as leave:
            status = leave.code if isinstance(leave.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _settle_in(self, name: str, keep: tuple[int, ...]) -> None:
        libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        _close_all_but(keep)
        libc.set_process_name(f"podwire {name}")
        out = os.open(self._log_dir / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        # Python's own streams may be something else by now, in a test for one.
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115

    def start(self, name: str, main: Main, *, restart: bool = True, keep: tuple[int, ...] = ()) -> Child:
        """Start a supervised child that inherits the descriptors ``keep``, and keep it running."""
        child = self.children[name] = Child(name, main, restart, keep)
        self._spawn(child)
        return child

    def _spawn(self, child: Child) -> None:
        ready_r, ready_w = os.pipe()

        def body() -> None:
            child.main(lambda: _announce(ready_w))

        child.ready, child.started_at = False, time.monotonic()
        child.pid = self.fork(child.name, body, keep=(ready_w, *child.keep))
        os.close(ready_w)
        self.watch(ready_r, lambda: self._hear(child, ready_r))

    def _hear(self, child: Child, ready_r: int) -> None:
        said = os.read(ready_r, 64)
        if said:
            child.ready = True
            for listener in self._ready_listeners:
                listener(child)
        else:
            self.unwatch(ready_r)
            os.close(ready_r)

    def hold(self, name: str) -> None:
        """Kill a child and keep it down."""
        child = self.children[name]
        child.held = True
        if child.pid:
            os.kill(child.pid, signal.SIGKILL)

    def release(self, name: str) -> None:
        """Let a held child run again."""
        child = self.children[name]
        if child.held:
            child.held, child.backoff_s = False, 0.0
            if not child.pid:
                self._spawn(child)

    def expect_exit(self, pid: int, act: Callable[[int], None]) -> None:
        """Call ``act(exit code)`` when the forked process ``pid`` ends; 128 + signal when it was killed."""
        self._watched[pid] = act

    def _reap(self, wake_r: int) -> None:
        try:
            os.read(wake_r, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
            act = self._watched.pop(pid, None)
            if act is not None:
                act(code)
            for child in self.children.values():
                if child.pid == pid:
                    self._died(child, code)

    def _died(self, child: Child, code: int) -> None:
        lived_s = time.monotonic() - child.started_at
        child.pid, child.ready, child.last_exit = (
            0,
            False,
            f"exit {code}" if code < 128 else f"signal {code - 128}",
        )
        if child.held or not child.restart:
            log.info("stopped", process=child.name, status=child.last_exit)
            return
        child.restarts += 1
        if lived_s > QUIET_S:
            child.backoff_s = 0.0
        delay_s, child.backoff_s = (
            child.backoff_s,
            min(LAST_BACKOFF_S, max(FIRST_BACKOFF_S, child.backoff_s * 2)),
        )
        log.warning("died", process=child.name, status=child.last_exit, again_s=delay_s, lived_s=lived_s)
        self.after(delay_s, lambda: self._respawn(child))

    def _respawn(self, child: Child) -> None:
        if not child.pid and not child.held and self.children.get(child.name) is child:
            self._spawn(child)

    def describe(self) -> list[dict[str, Any]]:
        """Return the process table for `podwire status`."""
        return [
            {
                "name": c.name, "pid": c.pid, "ready": c.ready, "restarts": c.restarts,
                "state": "running" if c.pid else "held" if c.held else "dead", "lastExit": c.last_exit,
            }
            for c in self.children.values()
        ]  # fmt: skip


def _announce(fd: int) -> None:
    try:
        os.write(fd, b"r")
    except OSError:
        pass


def _close_all_but(keep: tuple[int, ...]) -> None:
    """Close every inherited descriptor above 2 that is not among ``keep``."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:  # the descriptor of the listing itself
                pass
