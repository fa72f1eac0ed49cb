"""What an agent asks the shim for, and how each wish is answered, now or when it has come true."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Callable, Mapping
from typing import Protocol

from podwire import __version__
from podwire.model.errors import MachineError
from podwire.node.runtime import protocol
from podwire.node.runtime.book import Book, Listener
from podwire.node.runtime.protocol import Message


class Peer(Listener, Protocol):
    """An agent's connection."""

    def reply(self, number: int | None, ok: object, fds: tuple[int, ...] = ()) -> None:
        """Answer request ``number``."""
        self.send({"id": number, "ok": ok}, fds)

    def fail(self, number: int | None, error: MachineError) -> None:
        """Answer request ``number`` with what went wrong."""
        told = {
            "act": error.act,
            "object": error.object,
            "cause": str(error.cause),
            "hint": error.hint,
            "kind": type(error).__name__,
        }
        self.send({"id": number, "error": told})


Answer = Callable[[Peer, Book, Message, list[int]], None]


def answer(peer: Peer, book: Book, message: Message, fds: list[int]) -> None:
    """Do what the message asks; the reply may come later. Raises MachineError."""
    act = _ANSWERS.get(message["op"])
    if act is None:
        raise MachineError("node/runtime", "serve request", str(message["op"]), "unknown request")
    act(peer, book, message, fds)


def _version(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    peer.reply(m["id"], f"podwire://{__version__}")


def _subscribe(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    book.listeners.add(peer)
    peer.reply(m["id"], None)


def _sandboxes(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    peer.reply(m["id"], [protocol.to_wire(s) for s in book.sandboxes()])


def _containers(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    peer.reply(m["id"], [protocol.to_wire(c) for c in book.containers()])


def _image(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    peer.reply(m["id"], protocol.to_wire(book.catalogue.look_up(m["name"])))


def _run_sandbox(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    peer.reply(m["id"], protocol.to_wire(book.run_sandbox(protocol.sandbox_spec(m["spec"]))))


def _stop_sandbox(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    book.stop_sandbox(m["sandbox"], lambda: peer.reply(m["id"], None))


def _remove_sandbox(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    book.remove_sandbox(m["sandbox"], lambda: peer.reply(m["id"], None))


def _start_container(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    def started(error: MachineError | None) -> None:
        if error is not None:
            peer.fail(m["id"], error)
        else:
            peer.reply(m["id"], protocol.to_wire(book.container(spec.id)))

    spec = protocol.container_spec(m["spec"])
    book.start_container(spec, started)


def _stop_container(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    id = m["container"]
    book.stop_container(id, m["grace_s"], m["signal"], lambda c: peer.reply(m["id"], protocol.to_wire(c)))


def _remove_container(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    book.remove_container(m["container"])
    peer.reply(m["id"], None)


def _exec(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    """Start a command; ``stdio`` tells which of the three descriptors came along."""
    given = iter(fds)
    stdio = tuple(next(given) if here else None for here in m["stdio"])

    def started(error: MachineError | None, pid: int, terminal: int | None) -> None:
        if error is not None:
            peer.fail(m["id"], error)
        else:
            peer.reply(m["id"], {"exec": pid}, () if terminal is None else (terminal,))

    def ended(pid: int, code: int) -> None:
        peer.send({"exec_exit": pid, "code": code})

    book.exec(m["container"], tuple(m["command"]), None if m["tty"] else stdio, started, ended)


def _kill_exec(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    book.kill_command(m["exec"])
    peer.reply(m["id"], None)


def _attach(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    output, stdin = book.attach(m["container"])
    peer.reply(m["id"], {"stdin": stdin is not None}, (output,) if stdin is None else (output, stdin))


def _resize(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    terminal = book.terminal(m["container"])
    if terminal is not None:
        set_size(terminal, m["rows"], m["columns"])
    peer.reply(m["id"], None)


def _usage(peer: Peer, book: Book, m: Message, fds: list[int]) -> None:
    peer.reply(m["id"], [protocol.to_wire(u) for u in book.usage()])


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Tell a terminal its size; its foreground processes get SIGWINCH."""
    size = struct.pack("HHHH", min(rows, 0xFFFF), min(columns, 0xFFFF), 0, 0)
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    except OSError as error:
        raise MachineError("node/runtime", "resize terminal", os.fspath("tty"), error) from error


_ANSWERS: Mapping[str, Answer] = {
    "version": _version,
    "subscribe": _subscribe,
    "sandboxes": _sandboxes,
    "containers": _containers,
    "image": _image,
    "run_sandbox": _run_sandbox,
    "stop_sandbox": _stop_sandbox,
    "remove_sandbox": _remove_sandbox,
    "start_container": _start_container,
    "stop_container": _stop_container,
    "remove_container": _remove_container,
    "exec": _exec,
    "kill_exec": _kill_exec,
    "attach": _attach,
    "resize": _resize,
    "usage": _usage,
}
