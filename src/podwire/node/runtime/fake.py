"""The runtime of the dry kernel: it keeps the books of sandboxes and containers, and runs nothing.

Containers stay "running" until stopped; ``exit_container`` ends one as if by itself. Commands are not
executed: ``exec_answer`` says what each gives; by default exit code 126 and, on standard error, why.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from podwire.model.errors import MachineError
from podwire.node.runtime.images import ImageCatalogue
from podwire.node.runtime.port import AttachSession, ExecSession
from podwire.node.runtime.values import (
    Container,
    ContainerEvent,
    ContainerSpec,
    ContainerUsage,
    Image,
    Sandbox,
    SandboxSpec,
)
from podwire.runtime.clock import Clock, SystemClock

_ROOM = "node/runtime"


@dataclass(frozen=True, slots=True)
class ExecAnswer:
    """What a command gives in the fake: exit code and what it writes."""

    code: int = 126
    stdout: bytes = b""
    stderr: bytes = b"podwire: the dry kernel runs no commands\n"


class FakeRuntime:
    """``RuntimePort`` without processes."""

    def __init__(
        self,
        catalogue: ImageCatalogue | None = None,
        clock: Clock | None = None,
        exec_answer: Callable[[ContainerSpec, Sequence[str]], ExecAnswer] | None = None,
        start_errors: Mapping[str, str] | None = None,
    ) -> None:
        """``start_errors``: program name -> the cause that starting it fails with."""
        self._catalogue = catalogue or ImageCatalogue()
        self._clock: Clock = clock or SystemClock()
        self._exec_answer = exec_answer or (lambda spec, command: ExecAnswer())
        self._start_errors = dict(start_errors or {})
        self._sandboxes: dict[str, Sandbox] = {}
        self._containers: dict[str, Container] = {}
        self._listeners: list[asyncio.Queue[ContainerEvent]] = []
        self._next_pid = 100
        self.executed: list[tuple[str, tuple[str, ...]]] = []

    async def version(self) -> str:
        """Return the version; its name says that nothing runs."""
        return "podwire-dry://0.1.0"

    async def sandboxes(self) -> tuple[Sandbox, ...]:
        """Return every sandbox."""
        return tuple(self._sandboxes.values())

    async def containers(self) -> tuple[Container, ...]:
        """Return every container."""
        return tuple(self._containers.values())

    async def events(self) -> AsyncIterator[ContainerEvent]:
        """Yield container state changes from now on."""
        queue: asyncio.Queue[ContainerEvent] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue)

    async def run_sandbox(self, spec: SandboxSpec) -> Sandbox:
        """Note the sandbox down."""
        known = self._sandboxes.get(spec.id)
        if known is not None and known.ready:
            return known
        sandbox = Sandbox(spec, Path("/run/podwire/netns") / spec.id, self._clock.now().timestamp())
        self._sandboxes[spec.id] = sandbox
        return sandbox

    async def stop_sandbox(self, id: str) -> None:
        """Kill the sandbox's containers."""
        for container in [c for c in self._containers.values() if c.spec.sandbox_id == id]:
            if container.state == "running":
                self.exit_container(container.spec.id, 137, signal=9)
        if id in self._sandboxes:
            self._sandboxes[id] = replace(self._sandboxes[id], ready=False)

    async def remove_sandbox(self, id: str) -> None:
        """Forget the sandbox and its containers."""
        await self.stop_sandbox(id)
        self._sandboxes.pop(id, None)
        self._containers = {k: c for k, c in self._containers.items() if c.spec.sandbox_id != id}

    async def image(self, name: str) -> Image:
        """Return what the catalogue says."""
        return self._catalogue.look_up(name)

    async def start_container(self, spec: ContainerSpec) -> Container:
        """Note the container down as running."""
        sandbox = self._sandboxes.get(spec.sandbox_id)
        if sandbox is None or not sandbox.ready:
            raise MachineError(_ROOM, "start container", spec.name, f"no sandbox {spec.sandbox_id}")
        if spec.id in self._containers:
            raise MachineError(_ROOM, "start container", spec.name, f"container {spec.id} exists already")
        now = self._clock.now().timestamp()
        cause = self._start_errors.get(spec.command[0]) if spec.command else None
        if cause is not None:
            code = 127 if "not found" in cause or "no such file" in cause else 126
            self._containers[spec.id] = Container(
                spec,
                "exited",
                exit_code=code,
                reason="StartError",
                message=cause,
                created_at=now,
                finished_at=now,
            )
            raise MachineError(_ROOM, "start container", spec.name, cause)
        self._next_pid += 1
        container = Container(spec, "running", self._next_pid, created_at=now, started_at=now)
        self._containers[spec.id] = container
        return container

    async def stop_container(self, id: str, grace_s: float, signal: int = 15) -> Container:
        """End it: built-in servers leave with 0, tools (deaf to SIGTERM as pid 1) are killed."""
        container = self._get(id, "stop container")
        if container.state == "running":
            graceful = self._catalogue.look_up(container.spec.image).builtin and not container.spec.command
            self.exit_container(id, 0 if graceful else 137, signal=0 if graceful else 9)
        return self._containers[id]

    async def remove_container(self, id: str) -> None:
        """Forget the container."""
        container = self._containers.get(id)
        if container is not None and container.state == "running":
            raise MachineError(_ROOM, "remove container", id, "it is running", "stop it first")
        self._containers.pop(id, None)

    async def exec(
        self,
        container_id: str,
        command: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        tty: bool = False,
    ) -> ExecSession:
        """Write what ``exec_answer`` says."""
        container = self._get(container_id, "exec in")
        if container.state != "running":
            raise MachineError(_ROOM, "exec in", container_id, "the container is not running")
        self.executed.append((container_id, tuple(command)))
        answer = self._exec_answer(container.spec, command)
        if tty:
            master, slave = os.openpty()
            os.write(slave, answer.stdout + answer.stderr)
            os.close(slave)
            return _FakeExec(master, answer.code)
        for fd, text in ((stdout, answer.stdout), (stderr, answer.stderr)):
            if fd is not None and text:
                os.write(fd, text)
        return _FakeExec(None, answer.code)

    async def attach(self, container_id: str) -> AttachSession:
        """Return a stream that ends at once."""
        container = self._get(container_id, "attach to")
        if container.state != "running":
            raise MachineError(_ROOM, "attach to", container_id, "the container is not running")
        reader, writer = os.pipe()
        os.close(writer)
        return _FakeAttach(os.open(os.devnull, os.O_WRONLY) if container.spec.stdin else None, reader)

    async def usage(self) -> tuple[ContainerUsage, ...]:
        """Return zeros: nothing runs."""
        return tuple(ContainerUsage(id, 0, 0, 0) for id, c in self._containers.items() if c.state == "running")

    async def close(self) -> None:
        """Nothing to disconnect."""

    def exit_container(self, id: str, code: int = 0, *, signal: int = 0, message: str = "") -> None:
        """Test hook: the container's main process ends now."""
        container = self._containers[id]
        reason = "Completed" if code == 0 else "Error"
        self._containers[id] = exited = replace(
            container,
            state="exited",
            pid=0,
            exit_code=code,
            signal=signal,
            reason=reason,
            message=message,
            finished_at=self._clock.now().timestamp(),
        )
        for queue in self._listeners:
            queue.put_nowait(ContainerEvent(exited))

    def _get(self, id: str, act: str) -> Container:
        if id not in self._containers:
            raise MachineError(_ROOM, act, id, "no such container")
        return self._containers[id]


class _FakeExec:
    def __init__(self, terminal: int | None, code: int) -> None:
        self.terminal, self._code = terminal, code

    async def wait(self) -> int:
        """Return the exit code at once."""
        return self._code

    async def resize(self, rows: int, columns: int) -> None:
        """Nothing has a size here."""

    async def kill(self) -> None:
        """It ended already."""


class _FakeAttach:
    def __init__(self, stdin: int | None, output: int) -> None:
        self.stdin, self.output = stdin, output

    async def resize(self, rows: int, columns: int) -> None:
        """Nothing has a size here."""

    async def close(self) -> None:
        """Close the descriptors."""
        for fd in (self.stdin, self.output):
            if fd is not None:
                os.close(fd)
        self.stdin, self.output = None, -1
