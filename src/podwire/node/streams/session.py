"""Join a command in a container, or its main process, to a remote end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from podwire.model.errors import MachineError
from podwire.model.objects import Obj
from podwire.node.runtime.port import AttachSession, ExecSession, RuntimePort
from podwire.node.streams.pipes import FdReader, FdWriter
from podwire.node.streams.remote import STDERR, STDOUT, Remote, exit_status, failure, success

_LINGER_S: Final = 1.0  # for output of a command that has ended; a child of its may hold the pipe open


@dataclass(frozen=True, slots=True)
class Options:
    """Which streams were asked for."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


async def run_exec(
    runtime: RuntimePort, container_id: str, command: Sequence[str], options: Options, remote: Remote
) -> Obj:
    """Run a command and join it to the remote end until it exits; return the Status to finish with.

    When the client leaves, the command is killed if it had a terminal; else it goes on, as in CRI.
    """
    pipes = _Pipes(options)
    try:
        session = await runtime.exec(
            container_id,
            command,
            stdin=pipes.child[0],
            stdout=pipes.child[1],
            stderr=pipes.child[2],
            tty=options.tty,
        )
    except MachineError as error:
        pipes.close()
        return failure(str(error.cause))
    finally:
        pipes.close_child()
    if session.terminal is not None:
        pipes.use_terminal(session.terminal)
    return await _join_exec(session, pipes, remote, options)


class _Pipes:
    """The agent's and the child's ends of a command's streams."""

    def __init__(self, options: Options) -> None:
        self.stdin: FdWriter | None = None
        self.outputs: list[tuple[int, FdReader]] = []
        self.child: list[int | None] = [None, None, None]
        if options.tty:
            return
        if options.stdin:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            self.child[0], self.stdin = reader, FdWriter(writer)
        for channel, wanted in ((STDOUT, options.stdout), (STDERR, options.stderr)):
            if wanted:
                reader, writer = os.pipe2(os.O_CLOEXEC)
                self.child[channel] = writer
                self.outputs.append((channel, FdReader(reader)))

    def use_terminal(self, master: int) -> None:
        """A terminal is both ways: one descriptor to read, a copy to write."""
        self.stdin = FdWriter(os.dup(master))
        self.outputs = [(STDOUT, FdReader(master))]

    def close_child(self) -> None:
        """Close the child's ends here; the child has its own."""
        for fd in self.child:
            if fd is not None:
                os.close(fd)
        self.child = [None, None, None]

    def close(self) -> None:
        """Close our ends."""
        if self.stdin is not None:
            self.stdin.close()
        for _, reader in self.outputs:
            reader.close()


async def _join_exec(session: ExecSession, pipes: _Pipes, remote: Remote, options: Options) -> Obj:
    inputs = [_pump_resizes(session, remote)] if options.tty else []
    if pipes.stdin is not None and options.stdin:
        inputs.append(_pump_stdin(remote, pipes.stdin, terminal=options.tty))
    feeding = [_start(work) for work in inputs]
    outputs = [_start(_pump_output(reader, remote, channel)) for channel, reader in pipes.outputs]
    waiting, leaving = asyncio.ensure_future(session.wait()), asyncio.ensure_future(remote.closed.wait())
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            if options.tty:
                await session.kill()
            return failure("the client left")
        if outputs:
            await asyncio.wait(outputs, timeout=_LINGER_S)
        return exit_status(waiting.result())
    except MachineError as error:
        return failure(str(error.cause))
    finally:
        await _cancel([*feeding, *outputs, waiting, leaving])
        pipes.close()


def _start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pump_stdin(remote: Remote, writer: FdWriter, *, terminal: bool) -> None:
    while True:
        data = await remote.read_stdin()
        if not data:
            if terminal:
                await writer.write(b"\x04")  # the end of a terminal's input is a character
            else:
                writer.close()
            return
        if not await writer.write(data):
            return


async def _pump_output(reader: FdReader, remote: Remote, channel: int) -> None:
    while True:
        data = await reader.read()
        if not data:
            return
        await remote.send(channel, data)


async def _pump_resizes(session: ExecSession | AttachSession, remote: Remote) -> None:
    while True:
        rows, columns = await remote.next_size()
        try:
            await session.resize(rows, columns)
        except MachineError:
            return  # it has ended


async def run_attach(runtime: RuntimePort, container_id: str, options: Options, remote: Remote) -> Obj:
    """Join a container's main process to the remote end until either ends; return the final Status."""
    try:
        session = await runtime.attach(container_id)
    except MachineError as error:
        return failure(str(error.cause))
    # Copies, so that each side closes what it opened.
    reader = FdReader(os.dup(session.output))
    writer = FdWriter(os.dup(session.stdin)) if session.stdin is not None and options.stdin else None
    feeding = [_start(_pump_resizes(session, remote))] if options.tty else []
    if writer is not None:
        feeding.append(_start(_pump_attached_stdin(remote, writer, session)))
    output = _start(_pump_frames(reader, remote, options))
    leaving = asyncio.ensure_future(remote.closed.wait())
    try:
        await asyncio.wait({output, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return success()
    finally:
        await _cancel([*feeding, output, leaving])
        reader.close()
        if writer is not None:
            writer.close()
        await session.close()


async def _pump_attached_stdin(remote: Remote, writer: FdWriter, session: AttachSession) -> None:
    await _pump_stdin(remote, writer, terminal=False)
    if session.stdin is not None:
        os.close(session.stdin)
        session.stdin = None


async def _pump_frames(reader: FdReader, remote: Remote, options: Options) -> None:
    """Frames: 1 byte stream, 4 bytes length (big endian), data."""
    wanted = {STDOUT: options.stdout, STDERR: options.stderr}
    buffer = b""
    while True:
        data = await reader.read()
        if not data:
            return
        buffer += data
        while len(buffer) >= 5:
            length = int.from_bytes(buffer[1:5], "big")
            if len(buffer) < 5 + length:
                break
            channel, payload, buffer = buffer[0], buffer[5 : 5 + length], buffer[5 + length :]
            if wanted.get(channel):
                await remote.send(channel, payload)
