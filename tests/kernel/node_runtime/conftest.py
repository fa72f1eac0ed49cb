"""A shim in namespaces of its own (mount, pid, net, uts, ipc), as real root and in a user namespace."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from podwire.kernel import libc
from podwire.node.runtime.fake import ExecAnswer, FakeRuntime
from podwire.node.runtime.port import RuntimePort
from podwire.node.runtime.real import RealRuntime
from podwire.node.runtime.shim import ShimConfig, main
from podwire.node.runtime.values import ContainerSpec, SandboxSpec

_PR_SET_DUMPABLE = 4
_OWN = libc.CLONE_NEWNS | libc.CLONE_NEWNET | libc.CLONE_NEWUTS | libc.CLONE_NEWIPC | libc.CLONE_NEWPID


@dataclass
class ShimProcess:
    """A running shim: its socket, a directory that it and the test share, its pid here."""

    socket: Path
    shared: Path
    pid: int
    rootless: bool

    def kill(self) -> None:
        """End the shim and all that is in its pid namespace."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    @property
    def shim_pid(self) -> int:
        """The shim's own pid, as seen from here."""
        return self.descendants()[1]

    def descendants(self) -> list[int]:
        """Return the pids of init, shim, and what is below them, parents before children."""
        found, todo = [], [self.pid]
        while todo:
            one = todo.pop(0)
            try:
                with open(f"/proc/{one}/task/{one}/children") as file:
                    children = [int(c) for c in file.read().split()]
            except OSError:
                continue
            found += children
            todo += children
        return found


def start_shim(shared: Path, rootless: bool, config: Callable[[Path], ShimConfig]) -> ShimProcess:
    """Fork an init, pid 1 of its own pid namespace, with a shim below it, as a lab has them."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            _enter(rootless)
            pid = os.fork()
            if pid == 0:
                libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
                libc.mount("none", "/", "", libc.MS_REC | libc.MS_PRIVATE)
                libc.mount("proc", "/proc", "proc")
                libc.mount("tmpfs", "/run", "tmpfs")
                os.close(reader)
                os.close(writer)
                if os.fork() == 0:
                    main(config(shared))
                while True:  # be the lab's init: reap what is orphaned
                    os.wait()
            os.write(writer, str(pid).encode())
            os.close(writer)
            status = os.waitpid(pid, 0)[1]
            os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
        except BaseException as error:
            os.write(2, f"shim fixture: {error!r}\n".encode())
        finally:
            os._exit(99)
    os.close(writer)
    os.read(reader, 64)
    os.close(reader)
    return ShimProcess(shared / "shim.sock", shared, middle, rootless)


def _enter(rootless: bool) -> None:
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if not rootless:
        libc.unshare(_OWN)
        return
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        libc.prctl(_PR_SET_DUMPABLE, 1)
        libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    uid, gid = os.getuid(), os.getgid()
    libc.unshare(_OWN | libc.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that a shim of another user may write to."""
    path = Path(tempfile.mkdtemp(prefix="podwire-shim-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=["root", "rootless"])
def shim(request: pytest.FixtureRequest, shared: Path) -> Iterator[ShimProcess]:
    """A shim, as root and rootless."""
    rootless = request.param == "rootless"
    if not rootless and os.getuid() != 0:
        pytest.skip("needs root")
    process = start_shim(shared, rootless, lambda d: ShimConfig(node_name="n", socket_path=d / "shim.sock"))
    yield process
    process.kill()


@pytest.fixture
def start_another(shared: Path) -> Iterator[Callable[[], ShimProcess]]:
    """Start shims, one after the other, on the same socket."""
    started: list[ShimProcess] = []

    def start() -> ShimProcess:
        process = start_shim(shared, True, lambda d: ShimConfig(node_name="n", socket_path=d / "shim.sock"))
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
async def real(shim: ShimProcess) -> AsyncIterator[RealRuntime]:
    """A client of that shim."""
    runtime = RealRuntime(shim.socket)
    yield runtime
    await runtime.close()


@pytest.fixture(params=["fake", "root", "rootless"])
async def runtime(request: pytest.FixtureRequest, shared: Path) -> AsyncIterator[RuntimePort]:
    """Any runtime: what the contract test is about."""
    if request.param == "fake":
        known = {"false": ExecAnswer(1), "echo": ExecAnswer(0, b"hello\n")}
        missing = 'exec: "no-such-program": executable file not found in $PATH'
        yield FakeRuntime(
            exec_answer=lambda spec, command: known.get(command[0], ExecAnswer(0)),
            start_errors={"no-such-program": missing},
        )
        return
    if request.param == "root" and os.getuid() != 0:
        pytest.skip("needs root")
    process = start_shim(
        shared, request.param == "rootless", lambda d: ShimConfig(node_name="n", socket_path=d / "shim.sock")
    )
    real = RealRuntime(process.socket)
    yield real
    await real.close()
    process.kill()


@pytest.fixture
def sandbox_spec() -> SandboxSpec:
    """A pod's sandbox."""
    return SandboxSpec("uid-0", "uid", "default", "web", "web-host")


@pytest.fixture
def spec(shared: Path) -> ContainerSpec:
    """A container that sleeps."""
    return ContainerSpec(
        "c-0",
        "uid-0",
        "main",
        0,
        "busybox",
        command=("sleep", "1000"),
        log_path=shared / "log" / "0.log",
        server_facts=(("pod", "web"), ("namespace", "default"), ("node", "n"), ("ip", "10.0.0.1")),
    )


@pytest.fixture
def shim_starter() -> Callable[[Path, bool, Callable[[Path], ShimConfig]], ShimProcess]:
    """``start_shim``, for tests with a configuration of their own."""
    return start_shim
