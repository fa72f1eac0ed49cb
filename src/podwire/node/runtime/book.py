"""The shim's book: which sandboxes, containers and commands there are, and who waits for what of them."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from podwire.kernel import libc
from podwire.model.errors import MachineError
from podwire.node.runtime import child, containers, protocol, usage
from podwire.node.runtime.containers import ROOM, Child, Ground, Pod, Record, StartWatch
from podwire.node.runtime.images import ImageCatalogue, Program
from podwire.node.runtime.loop import Loop
from podwire.node.runtime.sandboxes import NamespaceMaker
from podwire.node.runtime.values import (
    Container,
    ContainerSpec,
    ContainerUsage,
    Sandbox,
    SandboxSpec,
)

Started = Callable[[MachineError | None], None]
CommandStarted = Callable[[MachineError | None, int, int | None], None]
CommandEnded = Callable[[int, int], None]


class Listener(Protocol):
    """Whoever is told of container events."""

    def send(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None:
        """Take a message."""
        ...


class Book:
    """Everything that the shim knows."""

    def __init__(self, loop: Loop, catalogue: ImageCatalogue, ground: Ground, namespaces: NamespaceMaker) -> None:
        self.catalogue = catalogue
        self.listeners: set[Listener] = set()
        self._loop, self._ground, self._namespaces = loop, ground, namespaces
        self._pods: dict[str, Pod] = {}
        self._records: dict[str, Record] = {}
        self._children: dict[int, Child] = {}
        self._commands: dict[int, Child] = {}
        self._serial = 0  # of commands: a pid may come again

    # Sandboxes

    def sandboxes(self) -> list[Sandbox]:
        """Return every sandbox."""
        return [_show(pod) for pod in self._pods.values()]

    def run_sandbox(self, spec: SandboxSpec) -> Sandbox:
        """Return the sandbox, made now unless it runs already. Raises MachineError."""
        known = self._pods.get(spec.id)
        if known is not None and known.ready:
            return _show(known)
        pod = Pod(spec, self._namespaces.make(spec), time.time())
        if spec.share_process_namespace and not spec.host_pid:
            pod.pause_pid = containers.fork(-1, self._ground.home_pidns, _pause)
            pod.pause_pidfd = os.pidfd_open(pod.pause_pid)
            self._children[pod.pause_pid] = Child(pod.pause_pid, pod.pause_pidfd)
        self._pods[spec.id] = pod
        return _show(pod)

    def stop_sandbox(self, id: str, done: Callable[[], None]) -> None:
        """Kill what runs in it, let go of its namespaces, and call ``done``."""
        pod = self._pods.get(id)
        if pod is None:
            done()
            return
        pod.ready = False
        running = [r for r in self._records.values() if r.now.spec.sandbox_id == id and _runs(r)]
        left = len(running)

        def ended() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                _release(pod, self._children)
                done()

        for record in running:
            record.main.after.append(ended)
            containers.send_signal(record.main, signal.SIGKILL)
        if not running:
            ended()

    def remove_sandbox(self, id: str, done: Callable[[], None]) -> None:
        """Stop it, forget it and its containers, and call ``done``."""

        def stopped() -> None:
            for record in [r for r in self._records.values() if r.now.spec.sandbox_id == id]:
                self._forget(record)
            self._pods.pop(id, None)
            done()

        self.stop_sandbox(id, stopped)

    # Containers

    def containers(self) -> list[Container]:
        """Return every container."""
        return [record.now for record in self._records.values()]

    def container(self, id: str) -> Container:
        """Return one container. Raises MachineError when there is none."""
        return self._record(id, "look up").now

    def start_container(self, spec: ContainerSpec, started: Started) -> None:
        """Start a container; ``started`` is told None, or why not. Raises MachineError at once, too."""
        pod = self._pods.get(spec.sandbox_id)
        if pod is None or not pod.ready:
            raise MachineError(ROOM, "start container", spec.name, f"sandbox {spec.sandbox_id} does not run")
        if spec.id in self._records:
            raise MachineError(ROOM, "start container", spec.name, f"container {spec.id} exists already")
        image = self.catalogue.look_up(spec.image)
        record, sync = containers.launch(spec, image, pod, self._ground, self._loop)
        self._records[spec.id] = record
        self._children[record.main.pid] = record.main
        shares = pod.spec.host_pid or pod.pause_pidfd >= 0

        def settled(failure: protocol.Message | None) -> None:
            self._settle_start(record, failure, shares, started)

        watch = StartWatch(self._loop, sync, record.streams.add_terminal, settled)
        record.main.after.append(watch.finish)
        record.main.after.append(partial(self._main_ended, record))

    def _settle_start(self, record: Record, failure: protocol.Message | None, shares: bool, started: Started) -> None:
        if failure is not None:
            record.now = replace(record.now, reason=failure["reason"], message=failure["message"])
            started(MachineError(ROOM, "start container", record.now.spec.name, failure["message"]))
            return
        if shares:
            try:
                record.mount_ns = os.stat(f"/proc/{record.now.pid}/ns/mnt").st_ino
            except OSError:
                pass  # it has ended already, and nothing outlives a moment
        record.now = replace(record.now, state="running", started_at=time.time())
        started(None)

    def _main_ended(self, record: Record) -> None:
        containers.kill_stragglers(record)
        containers.end(record)
        for listener in list(self.listeners):
            listener.send({"event": protocol.to_wire(record.now)})

    def stop_container(self, id: str, grace_s: float, number: int, done: Callable[[Container], None]) -> None:
        """Signal it, kill it after ``grace_s``, and call ``done`` with the exited container."""
        record = self._record(id, "stop container")
        if not _runs(record):
            done(record.now)
            return
        record.main.after.append(lambda: done(record.now))
        if grace_s > 0:
            containers.send_signal(record.main, number)
            self._loop.call_later(grace_s, partial(containers.send_signal, record.main, signal.SIGKILL))
        else:
            containers.send_signal(record.main, signal.SIGKILL)

    def remove_container(self, id: str) -> None:
        """Forget an exited container. Raises MachineError while it runs."""
        record = self._records.get(id)
        if record is not None and _runs(record):
            raise MachineError(ROOM, "remove container", id, "it is running", "stop it first")
        if record is not None:
            self._forget(record)

    def _forget(self, record: Record) -> None:
        del self._records[record.now.spec.id]
        containers.remove_files(record)

    # Streams and commands

    def attach(self, id: str) -> tuple[int, int | None]:
        """Return descriptors of a running container: output frames, and standard input or None."""
        record = self._running(id, "attach to")
        streams = record.streams
        source = streams.terminal if streams.terminal is not None else streams.stdin
        stdin = os.dup(source) if source is not None and record.now.spec.stdin else None
        output = streams.attach()
        if record.now.spec.stdin_once and streams.terminal is None:
            streams.close_stdin()
        return output, stdin

    def terminal(self, id: str) -> int | None:
        """Return the master side of a container's terminal; None when it has none."""
        return self._running(id, "resize").streams.terminal

    def exec(
        self,
        id: str,
        command: tuple[str, ...],
        stdio: tuple[int | None, ...] | None,
        started: CommandStarted,
        ended: CommandEnded,
    ) -> None:
        """Start a command in a running container; ``stdio`` None: with a terminal of its own."""
        record = self._running(id, "exec in")
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        given = None if stdio is None else tuple(null if fd is None else fd for fd in stdio)
        task = replace(
            record.task,
            program=Program(command),
            stdio=None if given is None else (given[0], given[1], given[2]),
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        body = partial(child.run_command, task, record.main.pidfd, theirs)
        try:
            pid = containers.fork(record.main.pidfd, self._ground.home_pidns, body)
        except OSError as error:
            raise MachineError(ROOM, "exec in", id, error) from error
        finally:
            theirs.close()
            os.close(null)
        one = Child(pid, os.pidfd_open(pid))
        self._children[pid] = one
        self._serial += 1
        self._commands[self._serial] = one
        record.commands.add(pid)
        self._follow_command(self._serial, record, ours, started, ended)

    def _follow_command(
        self, serial: int, record: Record, sync: socket.socket, started: CommandStarted, ended: CommandEnded
    ) -> None:
        one = self._commands[serial]
        terminal: list[int] = []
        failed = False

        def settled(failure: protocol.Message | None) -> None:
            nonlocal failed
            failed = failure is not None
            if failure is None:
                started(None, serial, terminal[0] if terminal else None)
                return
            for fd in terminal:
                os.close(fd)
            started(MachineError(ROOM, "exec in", record.now.spec.name, failure["message"]), serial, None)

        def finish() -> None:
            watch.finish()
            record.commands.discard(one.pid)
            record.cpu_ns_before += one.cpu_ns
            self._commands.pop(serial, None)
            os.close(one.pidfd)
            if not failed:
                ended(serial, one.code or 0)

        watch = StartWatch(self._loop, sync, terminal.append, settled)
        one.after.append(finish)

    def kill_command(self, serial: int) -> None:
        """Kill a command that exec started, if it still runs."""
        if serial in self._commands:
            containers.send_signal(self._commands[serial], signal.SIGKILL)

    def usage(self) -> list[ContainerUsage]:
        """Return what every running container uses."""
        return [
            usage.measure(id, (r.now.pid, *r.commands), r.cpu_ns_before)
            for id, r in self._records.items()
            if r.now.state == "running"
        ]

    # The end of things

    def reap(self) -> None:
        """Take note of every child that has ended."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            one = self._children.pop(pid, None)
            if one is None:
                continue
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            one.signal = number
            one.code = 128 + number if number else os.WEXITSTATUS(status)
            one.cpu_ns = int((used.ru_utime + used.ru_stime) * 1e9)
            for act in one.after:
                act()

    def forget_peer(self, peer: Listener) -> None:
        """An agent has gone; its containers and commands go on."""
        self.listeners.discard(peer)

    def kill_all(self) -> None:
        """Kill every process and wait for the end of all; for the shim's own end.

        In whatever order they end: pid 1 of a container goes only after its commands have been reaped.
        """
        for one in list(self._children.values()):
            containers.send_signal(one, signal.SIGKILL)
        while self._children:
            self._children.pop(os.wait()[0], None)

    def _record(self, id: str, act: str) -> Record:
        if id not in self._records:
            raise MachineError(ROOM, act, id, "no such container")
        return self._records[id]

    def _running(self, id: str, act: str) -> Record:
        record = self._record(id, act)
        if record.now.state != "running" or not _runs(record):
            raise MachineError(ROOM, act, record.now.spec.name, "the container is not running")
        return record


def _runs(record: Record) -> bool:
    return record.main.pidfd >= 0


def _release(pod: Pod, children: Mapping[int, Child]) -> None:
    """Let go of the pod's namespaces; a second time: nothing to do."""
    if pod.pause_pid:
        pause = children.get(pod.pause_pid)
        if pause is not None:
            containers.send_signal(pause, signal.SIGKILL)
        os.close(pod.pause_pidfd)
        pod.pause_pid, pod.pause_pidfd = 0, -1
    if not pod.released:
        pod.released = True
        pod.namespaces.close()


def _show(pod: Pod) -> Sandbox:
    return Sandbox(pod.spec, pod.namespaces.netns, pod.created_at, pod.ready)


def _pause() -> None:
    """Be pid 1 of a shared process namespace: reap orphans, leave when told."""
    from podwire.node.runtime.loop import leave_in_child

    leave_in_child()
    os.closerange(0, 1 << 20)
    libc.set_process_name("pause")
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them by itself
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        signal.pause()
