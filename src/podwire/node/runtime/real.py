"""The agent's side of the shim: asynchronous, many requests at once on one connection.

When the shim dies its containers die with it. The connection is then made anew as soon as a new shim listens,
and containers that are not known there are announced as exited (code 137, reason "ContainerStatusUnknown").
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from podwire.model.errors import MachineError
from podwire.node.runtime import protocol
from podwire.node.runtime.port import AttachSession, ExecSession
from podwire.node.runtime.requests import set_size
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
from podwire.runtime.logging import get

T = TypeVar("T")
_Answer = tuple[Any, list[int]]
_ROOM = "node/runtime"
_CONNECT_TRIES = 100
_log = get("node/runtime")


class RealRuntime:
    """``RuntimePort`` on a shim. Make it anywhere; use it in one event loop."""

    def __init__(self, socket_path: Path, clock: Clock | None = None) -> None:
        self._path = socket_path
        self._clock: Clock = clock or SystemClock()
        self._line: _Line | None = None
        self._connecting = asyncio.Lock()
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False
        self._listeners: list[asyncio.Queue[ContainerEvent]] = []
        self._running: dict[str, Container] = {}
        self._images: dict[str, Image] = {}

    async def version(self) -> str:
        """Return "podwire://" and podwire's version."""
        return str(await self._ask("version"))

    async def sandboxes(self) -> tuple[Sandbox, ...]:
        """Return every sandbox of the node."""
        return tuple(protocol.sandbox(raw) for raw in await self._ask("sandboxes"))

    async def containers(self) -> tuple[Container, ...]:
        """Return every container of the node."""
        return tuple(protocol.container(raw) for raw in await self._ask("containers"))

    async def events(self) -> AsyncIterator[ContainerEvent]:
        """Yield container state changes from now on."""
        queue: asyncio.Queue[ContainerEvent] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            await self._connect()
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue)

    async def run_sandbox(self, spec: SandboxSpec) -> Sandbox:
        """Make the sandbox."""
        return protocol.sandbox(await self._ask("run_sandbox", spec=protocol.to_wire(spec)))

    async def stop_sandbox(self, id: str) -> None:
        """Kill what still runs in the sandbox and let go of its namespaces."""
        await self._ask("stop_sandbox", sandbox=id)

    async def remove_sandbox(self, id: str) -> None:
        """Forget the sandbox and its containers."""
        await self._ask("remove_sandbox", sandbox=id)

    async def image(self, name: str) -> Image:
        """Return what an image name stands for."""
        if name not in self._images:
            self._images[name] = protocol.image(await self._ask("image", name=name))
        return self._images[name]

    async def start_container(self, spec: ContainerSpec) -> Container:
        """Create and start a container."""
        self._running[spec.id] = Container(spec, "created")  # before: its end may be told at once
        try:
            raw = await self._ask("start_container", spec=protocol.to_wire(spec))
        except MachineError:
            self._running.pop(spec.id, None)
            raise
        container = protocol.container(raw)
        if spec.id in self._running:
            self._running[spec.id] = container
        return container

    async def stop_container(self, id: str, grace_s: float, signal: int = 15) -> Container:
        """Signal, wait, kill."""
        raw = await self._ask("stop_container", container=id, grace_s=grace_s, signal=signal)
        return protocol.container(raw)

    async def remove_container(self, id: str) -> None:
        """Forget an exited container."""
        await self._ask("remove_container", container=id)

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
        """Run a command in a running container."""
        stdio = (stdin, stdout, stderr)
        line = await self._connect()
        answer, fds = await line.ask(
            {
                "op": "exec",
                "container": container_id,
                "command": list(command),
                "tty": tty,
                "stdio": [fd is not None for fd in stdio],
            },
            [fd for fd in stdio if fd is not None],
        )
        return _Exec(line, answer["exec"], fds[0] if fds else None)

    async def attach(self, container_id: str) -> AttachSession:
        """Return live streams of a running container's main process."""
        line = await self._connect()
        answer, fds = await line.ask({"op": "attach", "container": container_id})
        return _Attach(self, container_id, fds[0], fds[1] if answer["stdin"] else None)

    async def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Tell the terminal of a container's main process its size."""
        await self._ask("resize", container=container_id, rows=rows, columns=columns)

    async def usage(self) -> tuple[ContainerUsage, ...]:
        """Return resource use of every running container."""
        return tuple(protocol.usage(raw) for raw in await self._ask("usage"))

    async def close(self) -> None:
        """Disconnect; containers go on."""
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._line is not None:
            self._line.close("closed")

    async def _ask(self, op: str, **fields: object) -> Any:
        line = await self._connect()
        return (await line.ask({"op": op, **fields}))[0]

    async def _connect(self) -> _Line:
        async with self._connecting:
            if self._line is None or self._line.broken:
                sock = await self._dial()
                self._line = _Line(sock, self._take_event, self._lose)
                await self._line.ask({"op": "subscribe"})
                await self._announce_lost(self._line)
            return self._line

    async def _dial(self) -> socket.socket:
        """Return a connected socket; a shim that is just starting is waited for, five seconds at most."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        for attempt in range(_CONNECT_TRIES):
            try:
                sock.connect(str(self._path))
                return sock
            except OSError as error:
                if attempt == _CONNECT_TRIES - 1 or error.errno not in (
                    errno.ENOENT,
                    errno.ECONNREFUSED,
                    errno.EAGAIN,
                ):
                    sock.close()
                    raise MachineError(_ROOM, "connect to shim", str(self._path), error) from error
                await self._clock.sleep(0.005 if attempt < 20 else 0.06)
        raise AssertionError("unreachable")

    async def _announce_lost(self, line: _Line) -> None:
        if not self._running:
            return
        known = {raw["spec"]["id"] for raw in (await line.ask({"op": "containers"}))[0]}
        for id, container in list(self._running.items()):
            if id not in known:
                self._publish(
                    replace(
                        container,
                        state="exited",
                        pid=0,
                        exit_code=137,
                        signal=9,
                        reason="ContainerStatusUnknown",
                        message="the container runtime was restarted",
                        finished_at=self._clock.now().timestamp(),
                    )
                )

    def _take_event(self, raw: protocol.Message) -> None:
        self._publish(protocol.container(raw))

    def _publish(self, container: Container) -> None:
        if container.state == "exited":
            self._running.pop(container.spec.id, None)
        for queue in self._listeners:
            queue.put_nowait(ContainerEvent(container))

    def _lose(self) -> None:
        """The shim has gone: be there when the next one comes."""
        if not self._closed and (self._listeners or self._running):
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        while not self._closed:
            try:
                await self._connect()
                return
            except MachineError as error:
                _log.warning("shim-away", error=str(error))


class _Line:
    """One connection: requests by number, and what comes unasked."""

    def __init__(
        self, sock: socket.socket, on_event: Callable[[protocol.Message], None], on_loss: Callable[[], None]
    ) -> None:
        self._sock, self._on_event, self._on_loss = sock, on_event, on_loss
        self._loop = asyncio.get_running_loop()
        self._assembler = protocol.Assembler()
        self._waiting: dict[int, asyncio.Future[_Answer]] = {}
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._unsent: list[tuple[bytes, list[int]]] = []
        self._serial = 0
        self.broken = False
        self._loop.add_reader(sock.fileno(), self._read)

    async def ask(self, message: protocol.Message, fds: Sequence[int] = ()) -> _Answer:
        """Return the answer to a request and its descriptors. Raises MachineError."""
        if self.broken:
            raise MachineError(_ROOM, message["op"], "shim", "the connection is lost")
        self._serial += 1
        number = self._serial
        future: asyncio.Future[_Answer] = self._loop.create_future()
        self._waiting[number] = future
        copies = [os.dup(fd) for fd in fds]  # the caller may close its own at any moment
        packets = protocol.encode({"id": number, **message})
        self._unsent += [(p, copies if i == 0 else []) for i, p in enumerate(packets)]
        self._write()
        try:
            return await future
        finally:
            self._waiting.pop(number, None)

    def exit_of(self, exec_id: int) -> asyncio.Future[int]:
        """Return the future exit code of a command."""
        if exec_id not in self._exits:
            self._exits[exec_id] = self._loop.create_future()
            if self.broken:
                self._exits[exec_id].set_exception(_lost("wait for command"))
        return self._exits[exec_id]

    def forget_exit(self, exec_id: int) -> None:
        """Nobody waits for this command any more."""
        self._exits.pop(exec_id, None)

    def close(self, why: str) -> None:
        """Close the connection; whoever waits is told."""
        if self.broken:
            return
        self.broken = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._unsent:
            for fd in fds:
                os.close(fd)
        self._unsent.clear()
        waiting: list[asyncio.Future[Any]] = [*self._waiting.values(), *self._exits.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(_lost(why))
                future.exception()  # nobody may be looking: not worth a warning

    def _write(self) -> None:
        try:
            while self._unsent:
                packet, fds = self._unsent[0]
                protocol.send_packet(self._sock, packet, fds)
                del self._unsent[0]
                for fd in fds:
                    os.close(fd)
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._write)
            return
        except OSError:
            self._broke()
            return
        self._loop.remove_writer(self._sock.fileno())

    def _read(self) -> None:
        for _ in range(64):
            try:
                packet, fds = protocol.receive_packet(self._sock)
            except BlockingIOError:
                return
            except OSError:
                packet, fds = b"", []
            if not packet:
                self._broke()
                return
            whole = self._assembler.feed(packet, fds)
            if whole is not None:
                self._take(*whole)

    def _broke(self) -> None:
        if not self.broken:
            self.close("the shim has gone")
            self._on_loss()

    def _take(self, message: protocol.Message, fds: list[int]) -> None:
        if "event" in message:
            self._on_event(message["event"])
        elif "exec_exit" in message:
            future = self.exit_of(message["exec_exit"])
            if not future.done():
                future.set_result(message["code"])
        else:
            waiting = self._waiting.pop(message["id"], None)
            if waiting is None or waiting.done():  # cancelled meanwhile
                for fd in fds:
                    os.close(fd)
            elif "error" in message:
                told = message["error"]
                waiting.set_exception(MachineError(_ROOM, told["act"], told["object"], told["cause"], told["hint"]))
            else:
                waiting.set_result((message["ok"], fds))


def _lost(act: str) -> MachineError:
    return MachineError(_ROOM, "talk to", "shim", act)


class _Exec:
    def __init__(self, line: _Line, id: int, terminal: int | None) -> None:
        self._line, self._id, self.terminal = line, id, terminal
        self._exit = line.exit_of(id)

    async def wait(self) -> int:
        """Return the exit code."""
        try:
            return await asyncio.shield(self._exit)
        finally:
            if self._exit.done():
                self._line.forget_exit(self._id)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its new size."""
        if self.terminal is not None:
            set_size(self.terminal, rows, columns)

    async def kill(self) -> None:
        """End the command, if it still runs."""
        if not self._exit.done():
            await self._line.ask({"op": "kill_exec", "exec": self._id})


class _Attach:
    def __init__(self, runtime: RealRuntime, container: str, output: int, stdin: int | None) -> None:
        self._runtime, self._container, self.output, self.stdin = runtime, container, output, stdin

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its new size, if it has one."""
        await self._runtime.resize(self._container, rows, columns)

    async def close(self) -> None:
        """Detach; the container goes on."""
        for fd in (self.stdin, self.output):
            if fd is not None and fd >= 0:
                os.close(fd)
        self.stdin, self.output = None, -1
