"""What a forked child does to become a container's main process, or a command in a container.

It has a socket to the shim, ``sync``: closed without a word (by execve, or before a built-in program starts)
means success; else one JSON message says what failed. A terminal's master side is sent on it first.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from podwire.kernel import libc
from podwire.node.runtime import privileges, rootfs, single_id
from podwire.node.runtime.images import Program
from podwire.node.runtime.loop import leave_in_child
from podwire.node.runtime.values import Mount

Builtin = Callable[[Sequence[str]], object]
"""A built-in program: called with argv in the container's process; what it needs is in os.environ."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_JOINED = libc.CLONE_NEWNS | libc.CLONE_NEWNET | libc.CLONE_NEWUTS | libc.CLONE_NEWIPC


class StartFailure(Exception):
    """The process cannot become what was asked for: exit code, CRI reason, and why."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code, self.reason, self.message = code, reason, message
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Identity:
    """User, groups and rights. ``group`` None: the user's own by /etc/passwd."""

    user: int
    group: int | None
    groups: tuple[int, ...]
    kept: frozenset[int] | None
    no_new_privileges: bool


@dataclass(frozen=True, slots=True)
class Task:
    """A process to become. ``stdio`` are three descriptors, or None for a new terminal."""

    program: Program
    env: tuple[tuple[str, str], ...]
    working_dir: str
    identity: Identity
    stdio: tuple[int, int, int] | None
    builtins: Mapping[str, Builtin]


@dataclass(frozen=True, slots=True)
class Birth:
    """A container's first process: where it lives, besides what it is."""

    task: Task
    root: rootfs.RootPlan
    host: rootfs.HostView
    join: Callable[[], None]  # enters the sandbox's namespaces


def run_container(birth: Birth, sync: socket.socket) -> NoReturn:
    """Become a container's main process. Never returns."""

    def settle() -> None:
        birth.join()
        libc.unshare(libc.CLONE_NEWNS)
        rootfs.build_root(birth.root, birth.host)

    _become(birth.task, sync, settle)


def run_command(task: Task, container_pidfd: int, sync: socket.socket) -> NoReturn:
    """Become a command in the container of ``container_pidfd``. Never returns."""
    _become(task, sync, lambda: libc.setns(container_pidfd, _JOINED))


def _become(task: Task, sync: socket.socket, settle: Callable[[], None]) -> NoReturn:
    code = 128
    try:
        leave_in_child()
        os.umask(0o022)
        os.setsid()
        try:
            settle()
            _connect(task, sync)
            env = _environment(task)
            _take_identity(task, env)
            _change_directory(task.working_dir)
        except OSError as error:
            raise StartFailure(128, "ContainerCannotRun", _describe(error)) from error
        code = _run(task, env, sync)
    except StartFailure as failure:
        told = {"code": failure.code, "reason": failure.reason, "message": failure.message}
        sync.send(json.dumps(told).encode())
        code = failure.code
    except BaseException as error:
        code = 128
        told = {"code": code, "reason": "ContainerCannotRun", "message": f"{type(error).__name__}: {error}"}
        try:
            sync.send(json.dumps(told).encode())
        except OSError:
            pass  # after the start: the exit code tells
    os._exit(code)


def _describe(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


def _connect(task: Task, sync: socket.socket) -> None:
    """Put standard input, output and error in place."""
    if task.stdio is not None:
        fds = [os.dup(fd) for fd in task.stdio]  # duplicates first: one may stand where another goes
        for number, fd in enumerate(fds):
            os.dup2(fd, number, inheritable=True)
            if task.identity.user and stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.fchown(fd, task.identity.user, -1)  # or it could not open /dev/stdout
        return
    master, slave = os.openpty()
    fds_out = array.array("i", [master])
    sync.sendmsg([b'{"terminal":true}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds_out)])
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    if task.identity.user:
        os.fchown(slave, task.identity.user, -1)
    for number in range(3):
        os.dup2(slave, number, inheritable=True)


def _environment(task: Task) -> dict[str, str]:
    """Return what the process sees: image defaults below, the pod's own words above."""
    env = {"PATH": PATH, "HOSTNAME": os.uname().nodename}
    if task.stdio is None:
        env["TERM"] = "xterm"
    env.update(task.env)
    if "HOME" not in env:
        env["HOME"] = privileges.find_account(task.identity.user)[1]
    return env


def _take_identity(task: Task, env: Mapping[str, str]) -> None:
    who = task.identity
    group = privileges.find_account(who.user)[0] if who.group is None and who.user else (who.group or 0)
    if not privileges.is_mapped(group, "gid"):
        group = 0
    if single_id.has_single_id():
        single_id.pretend_other_ids()
    privileges.become(who.user, group, who.groups, who.kept)
    if who.no_new_privileges:
        privileges.forbid_new_privileges()
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which would clear it


def _change_directory(path: str) -> None:
    try:
        os.chdir(path or "/")
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)  # as runc does
        os.chdir(path)


def _run(task: Task, env: Mapping[str, str], sync: socket.socket) -> int:
    program = task.program
    if program.builtin:
        return _run_builtin(task, env, sync)
    try:
        path = find_executable(program.argv[0], env["PATH"])
    except StartFailure:
        if program.argv[0].rsplit("/", 1)[-1] == "agnhost" and "agnhost" in task.builtins:
            stand_in = replace(task, program=Program(program.argv, "agnhost"))
            return _run_builtin(stand_in, env, sync)
        raise
    try:
        os.execve(path, program.argv, env)
    except OSError as error:
        code = 127 if error.errno == errno.ENOENT else 126
        why = (error.strerror or "").lower()
        raise StartFailure(code, "StartError", f'exec: "{program.argv[0]}": {why}') from error


def _run_builtin(task: Task, env: Mapping[str, str], sync: socket.socket) -> int:
    program = task.builtins.get(task.program.builtin)
    if program is None:
        raise StartFailure(127, "StartError", f'no built-in program "{task.program.builtin}"')
    privileges.hold_capabilities(task.identity.kept if task.identity.user == 0 else frozenset())
    signal.signal(signal.SIGTERM, _leave)  # pid 1 is deaf to a signal that it has no handler for
    sync.detach()  # closed with the rest
    os.closerange(3, 1 << 20)
    libc.set_process_name(task.program.argv[0].rsplit("/", 1)[-1])
    show_command_line(task.program.argv)
    os.environ.clear()
    os.environ.update(env)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        answer = program(task.program.argv)
    except SystemExit as leave:
        answer = leave.code
    except BaseException as error:
        os.write(2, f"{task.program.builtin}: {type(error).__name__}: {error}\n".encode())
        return 1
    sys.stdout.flush()
    return answer if isinstance(answer, int) else 0


def show_command_line(argv: Sequence[str]) -> None:
    """Let ps show these arguments, as far as they fit where the present ones are (proc(5), stat 48 and 49)."""
    with open("/proc/self/stat", "rb") as file:
        start, end = (int(n) for n in file.read().rpartition(b")")[2].split()[45:47])
    room = end - start
    if start and room > 0:
        text = b"\0".join(word.encode() for word in argv)[: room - 1]
        ctypes.memmove(start, text.ljust(room, b"\0"), room)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End a built-in program that has no handler of its own."""
    raise SystemExit(0)


def find_executable(name: str, path: str) -> str:
    """Return the file that ``name`` means, by ``path`` when it has no slash.

    Raises StartFailure in the words of a Go runtime, which people (and their tests) know: code 127 when there
    is none, 126 when there is one that may not be executed.
    """
    if "/" in name:
        if not os.path.exists(name):
            raise StartFailure(127, "StartError", f'exec: "{name}": stat {name}: no such file or directory')
        if os.path.isdir(name) or not os.access(name, os.X_OK):
            raise StartFailure(126, "StartError", f'exec: "{name}": permission denied')
        return name
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{name}"
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise StartFailure(127, "StartError", f'exec: "{name}": executable file not found in $PATH')


def special_mounts(
    hosts: Path | None, resolv: Path | None, termination_log: Path | None, binary: Path | None
) -> tuple[Mount, ...]:
    """Return the mounts of the files that every container is given, and of a binary image."""
    pairs = (
        (hosts, "/etc/hosts"),
        (resolv, "/etc/resolv.conf"),
        (termination_log, "/dev/termination-log"),
        (binary, f"/usr/local/bin/{binary.name}" if binary else ""),
    )
    return tuple(Mount(source, target, read_only=source is binary) for source, target in pairs if source)
