"""Commands and lab init over their socket: messages whole, descriptors along, refusals in words."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from podwire.lab import control
from podwire.model.errors import MachineError


def answer_once(path: Path, answer: dict[str, object]) -> threading.Thread:
    """Serve one request at ``path`` in the background."""
    server = control.listen(path)
    server.setblocking(True)

    def serve() -> None:
        connection, _ = server.accept()
        control.receive(connection)
        control.send(connection, answer)
        connection.close()
        server.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_call_gets_its_answer(tmp_path: Path) -> None:
    thread = answer_once(tmp_path / "s", {"nodes": 3})
    assert control.call(tmp_path / "s", "status") == {"nodes": 3}
    thread.join()


def test_a_refusal_is_raised_in_inits_own_words(tmp_path: Path) -> None:
    thread = answer_once(tmp_path / "s", {"error": "there is no node 'x'", "hint": "try node-0"})
    with pytest.raises(MachineError, match=r"there is no node 'x'; try node-0"):
        control.call(tmp_path / "s", "node-cut", node="x")
    thread.join()


def test_nobody_listens(tmp_path: Path) -> None:
    assert control.connect(tmp_path / "s") is None
    (tmp_path / "s").touch()
    assert control.connect(tmp_path / "s") is None, "a stale file is no socket"
    with pytest.raises(MachineError, match="not running"):
        control.call(tmp_path / "s", "status")


def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    thread = answer_once(deep / "s", {"fine": True})
    assert control.call(deep / "s", "status") == {"fine": True}
    thread.join()


def test_descriptors_and_long_messages_travel() -> None:
    one, other = socket.socketpair()
    read, write = os.pipe()
    sender = threading.Thread(target=control.send, args=(one, {"text": "x" * 300_000}, (write,)))
    sender.start()
    message, descriptors = control.receive(other)
    sender.join()
    os.write(descriptors[0], b"hello")
    assert os.read(read, 5) == b"hello"
    assert len(message["text"]) == 300_000
    one.close()
    with pytest.raises(EOFError):
        control.receive(other)
    for fd in (read, write, *descriptors):
        os.close(fd)


def test_only_the_owner_may_connect(tmp_path: Path) -> None:
    control.listen(tmp_path / "s").close()
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
