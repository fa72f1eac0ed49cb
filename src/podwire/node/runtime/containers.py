"""The shim's containers: fork them, follow them, account for how they ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from podwire.kernel import libc
from podwire.model.errors import MachineError
from podwire.node.runtime import child, privileges, protocol, rootfs
from podwire.node.runtime.images import Program, choose_program
from podwire.node.runtime.loop import Loop
from podwire.node.runtime.sandboxes import Namespaces
from podwire.node.runtime.streams import STDERR, STDOUT, CriLog, Streams
from podwire.node.runtime.values import Container, ContainerSpec, Image, SandboxSpec

ROOM = "node/runtime"


@dataclass(slots=True)
class Pod:
    """A sandbox as the shim keeps it. ``pidns`` pins the processes' common namespace, if they share one."""

    spec: SandboxSpec
    namespaces: Namespaces
    created_at: float
    ready: bool = True
    released: bool = False
    pause_pid: int = 0
    pause_pidfd: int = -1


@dataclass(slots=True)
class Child:
    """A process that the shim started. ``code`` None: it runs. ``after`` are told when it has ended."""

    pid: int
    pidfd: int
    code: int | None = None
    signal: int = 0
    cpu_ns: int = 0  # all that it used, once it has ended
    after: list[Callable[[], None]] = field(default_factory=list)


@dataclass(slots=True)
class Record:
    """A container as the shim keeps it: ``now`` is what the agent is shown."""

    now: Container
    base: Path
    main: Child
    streams: Streams
    task: child.Task
    mount_ns: int = 0
    commands: set[int] = field(default_factory=set)  # pids of what exec started in it
    cpu_ns_before: int = 0  # of exec'd commands that have ended


@dataclass(frozen=True, slots=True)
class Ground:
    """What every container of the node stands on."""

    host: rootfs.HostView
    directory: Path
    builtins: Mapping[str, child.Builtin]
    rootless: bool
    home_pidns: int


def check_spec(spec: ContainerSpec, image: Image) -> tuple[Program, frozenset[int] | None]:
    """Return what will run and the capabilities kept. Raises MachineError for what cannot be done here."""
    program = choose_program(image, spec.command, spec.args)
    if not program.argv:
        raise MachineError(ROOM, "start container", spec.name, "no command specified")
    for id, kind in ((spec.user, "uid"), (spec.group, "gid")):
        if id is not None and not privileges.is_mapped(id, kind):
            word = "runAsUser" if kind == "uid" else "runAsGroup"
            raise MachineError(
                ROOM,
                "start container",
                spec.name,
                f"{word} {id} does not exist in this user namespace",
                f"run podwire as root, or install uidmap and give your user a range in /etc/sub{kind}",
            )
    try:
        kept = privileges.choose_capabilities(spec.capabilities_add, spec.capabilities_drop, privileged=spec.privileged)
    except ValueError as error:
        raise MachineError(ROOM, "start container", spec.name, error) from error
    return program, kept


def fork(pid_namespace: int | None, home: int, body: Callable[[], None]) -> int:
    """Fork a child that runs ``body``; return its pid.

    ``pid_namespace``: descriptor of the namespace (or of a process in it) to be born in; -1: a new one, as
    its pid 1; None: the shim's own.
    """
    if pid_namespace == -1:
        libc.unshare(libc.CLONE_NEWPID)
    elif pid_namespace is not None:
        libc.setns(pid_namespace, libc.CLONE_NEWPID)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                body()
            finally:
                os._exit(70)
    finally:
        if pid_namespace is not None:
            libc.setns(home, libc.CLONE_NEWPID)
    return pid


def launch(spec: ContainerSpec, image: Image, pod: Pod, ground: Ground, loop: Loop) -> tuple[Record, socket.socket]:
    """Fork the container; return its record and the socket that tells how the start went.

    Raises MachineError when it cannot even be tried.
    """
    program, kept = check_spec(spec, image)
    base = ground.directory / spec.id
    if base.exists():
        _remove_tree(base)
    base.mkdir()
    try:
        log = CriLog(spec.log_path, spec.log_max_bytes, spec.log_max_files)
    except OSError as error:
        raise MachineError(ROOM, "open log of container", spec.name, error) from error
    streams = Streams(loop, log, replay=spec.stdin)
    stdio = None if spec.tty else _open_stdio(spec, streams)
    task = _describe_task(spec, image, program, kept, stdio, ground)
    root = rootfs.RootPlan(
        base=base,
        lower=str(image.path) if image.kind == "directory" else None,
        hostname=pod.spec.hostname,
        mounts=spec.mounts
        + child.special_mounts(
            spec.hosts_file,
            spec.resolv_file,
            spec.termination_log,
            image.path if image.kind == "binary" else None,
        ),
        read_only=spec.read_only_root,
        privileged=spec.privileged,
        own_proc=not pod.spec.host_pid,
    )
    birth = child.Birth(task, root, ground.host, pod.namespaces.join)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    where = None if pod.spec.host_pid else pod.pause_pidfd if pod.pause_pidfd >= 0 else -1
    pid = fork(where, ground.home_pidns, partial(child.run_container, birth, theirs))
    theirs.close()
    for fd in set(stdio or ()):
        os.close(fd)
    now = Container(spec, "created", pid, created_at=time.time())
    return Record(now, base, Child(pid, os.pidfd_open(pid)), streams, replace(task, stdio=None, env=spec.env)), ours


def _describe_task(
    spec: ContainerSpec,
    image: Image,
    program: Program,
    kept: frozenset[int] | None,
    stdio: tuple[int, int, int] | None,
    ground: Ground,
) -> child.Task:
    identity = child.Identity(spec.user or 0, spec.group, spec.supplemental_groups, kept, spec.no_new_privileges)
    env = spec.env
    if program.builtin:
        env += server_environment(spec, image)
    return child.Task(program, env, spec.working_dir, identity, stdio, ground.builtins)


def server_environment(spec: ContainerSpec, image: Image) -> tuple[tuple[str, str], ...]:
    """Return what the built-in server is told beside its arguments: facts of the pod, and its ports."""
    ports = spec.ports or image.default_ports
    listed = ",".join(f"{p.number}/{p.protocol}" for p in ports)
    return (
        ("PODWIRE_SERVER_PORTS", listed),
        ("PODWIRE_SERVER_FACTS", json.dumps({"container": spec.name, **dict(spec.server_facts)})),
    )


def _open_stdio(spec: ContainerSpec, streams: Streams) -> tuple[int, int, int]:
    if spec.stdin:
        stdin, streams.stdin = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(streams.stdin, False)
    else:
        stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    ends = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
    streams.add_source(STDOUT, ends[0][0])
    streams.add_source(STDERR, ends[1][0])
    return stdin, ends[0][1], ends[1][1]


class StartWatch:
    """Listens to what a forked child says of its start, until it has become what it should or has failed.

    ``on_terminal`` is given the master side of its terminal; ``settled`` None, or what went wrong.
    """

    def __init__(
        self,
        loop: Loop,
        sync: socket.socket,
        on_terminal: Callable[[int], None],
        settled: Callable[[protocol.Message | None], None],
    ) -> None:
        self._loop, self._sync, self._on_terminal, self._settled = loop, sync, on_terminal, settled
        self._failure: protocol.Message | None = None
        sync.setblocking(False)
        loop.watch(sync.fileno(), self._hear)

    def finish(self) -> None:
        """The child has ended: settle, unless that was done."""
        if self._sync.fileno() >= 0:
            self._hear(0)

    def _hear(self, _: int) -> None:
        while True:
            try:
                packet, fds = protocol.receive_packet(self._sync)
            except BlockingIOError:
                return
            if not packet:  # closed by execve, or by the end of the child
                break
            said = json.loads(packet)
            if "terminal" in said:
                self._on_terminal(fds[0])
            else:
                self._failure = said
        self._loop.forget(self._sync.fileno())
        self._sync.close()
        self._settled(self._failure)


def end(record: Record, reason: str = "", message: str = "") -> None:
    """Note down that the container has ended, and end what is left of it."""
    record.streams.close()
    code = record.main.code or 0
    record.now = replace(
        record.now,
        state="exited",
        pid=0,
        exit_code=code,
        signal=record.main.signal,
        reason=reason or record.now.reason or ("Completed" if code == 0 else "Error"),
        message=message or record.now.message,
        finished_at=time.time(),
    )
    os.close(record.main.pidfd)
    record.main.pidfd = -1


def send_signal(one: Child, number: int) -> None:
    """Signal the process, if it still runs."""
    if one.code is None:
        try:
            signal.pidfd_send_signal(one.pidfd, number)
        except ProcessLookupError:
            pass


def kill_stragglers(record: Record) -> None:
    """Kill what outlived the main process, where no pid namespace does it: shared or the node's processes."""
    if not record.mount_ns:
        return
    killed: set[int] = set()
    while fresh := _find_members(record.mount_ns) - killed:  # again: one may have forked meanwhile
        for pid in fresh:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        killed |= fresh


def _find_members(mount_ns: int) -> set[int]:
    """Return the pids of all processes in a mount namespace, which each container has for itself."""
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}/ns/mnt").st_ino == mount_ns:
                    found.add(int(name))
            except OSError:
                continue
    return found


def remove_files(record: Record) -> None:
    """Remove the writable layer."""
    _remove_tree(record.base)


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
