"""The supervisor with real processes: restarts, holding, readiness, what a child inherits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podwire.lab.supervisor import Supervisor

pytestmark = pytest.mark.kernel


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor in this process; the signal state is as before at the end."""
    before = signal.getsignal(signal.SIGCHLD)
    table = Supervisor(tmp_path)
    yield table
    for child in table.children.values():
        table.hold(child.name)
    turn_until(table, lambda: not any(c.pid for c in table.children.values()))
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, before)


def turn_until(table: Supervisor, done: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end, "not within 10 s"
        table.turn(0.2)


def serve(ready: Callable[[], None]) -> None:
    print("serving", flush=True)
    ready()
    time.sleep(60)


def test_a_child_becomes_ready_and_logs_to_its_file(supervisor: Supervisor, tmp_path: Path) -> None:
    heard: list[str] = []
    supervisor.on_ready(lambda c: heard.append(c.name))
    child = supervisor.start("server", serve)
    turn_until(supervisor, lambda: child.ready)
    assert heard == ["server"]
    assert (tmp_path / "server.log").read_text() == "serving\n"


def test_a_killed_child_comes_back(supervisor: Supervisor) -> None:
    child = supervisor.start("server", serve)
    turn_until(supervisor, lambda: child.ready)
    first = child.pid
    os.kill(first, signal.SIGKILL)
    turn_until(supervisor, lambda: child.ready and child.pid != first)
    assert (child.restarts, child.last_exit) == (1, "signal 9")


def test_a_child_that_keeps_dying_is_given_more_and_more_time(supervisor: Supervisor) -> None:
    child = supervisor.start("wreck", lambda ready: os._exit(3))
    turn_until(supervisor, lambda: child.restarts >= 4)
    assert child.backoff_s >= 0.4
    assert child.last_exit == "exit 3"


def test_a_held_child_stays_down_until_released(supervisor: Supervisor) -> None:
    child = supervisor.start("server", serve)
    turn_until(supervisor, lambda: child.ready)
    supervisor.hold("server")
    turn_until(supervisor, lambda: not child.pid)
    for _ in range(5):
        supervisor.turn(0.05)
    assert not child.pid
    supervisor.release("server")
    turn_until(supervisor, lambda: child.ready)


def test_a_child_inherits_nothing_but_what_it_is_given(supervisor: Supervisor) -> None:
    secret_r, secret_w = os.pipe()
    given_r, given_w = os.pipe()

    def look() -> None:
        found = {int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")}
        os.write(given_w, repr(sorted(found - {0, 1, 2})).encode())

    codes: list[int] = []
    supervisor.expect_exit(supervisor.fork("look", look, keep=(given_w,)), codes.append)
    turn_until(supervisor, lambda: bool(codes))
    seen = os.read(given_r, 4096).decode()
    assert codes == [0]
    assert seen == f"[{given_w}]"
    for fd in (secret_r, secret_w, given_r, given_w):
        os.close(fd)


def test_exit_codes_of_forked_bodies(supervisor: Supervisor) -> None:
    codes: dict[str, int] = {}

    def fail() -> None:
        raise RuntimeError("no")

    for name, body in (("fine", lambda: None), ("failed", fail), ("killed", lambda: os.kill(os.getpid(), 9))):
        supervisor.expect_exit(supervisor.fork(name, body), lambda code, name=name: codes.__setitem__(name, code))
    turn_until(supervisor, lambda: len(codes) == 3)
    assert codes == {"fine": 0, "failed": 1, "killed": 137}
