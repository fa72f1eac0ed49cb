"""How commands talk to lab init: one JSON line each way over a unix socket, descriptors beside it."""

from __future__ import annotations

import array
import json
import os
import socket
from pathlib import Path
from typing import Any

from podwire.model.errors import MachineError

MAX_LINE = 1 << 20


def _short(path: Path) -> tuple[str, int | None]:
    """Return a spelling of ``path`` that fits sun_path's 108 bytes, and a descriptor to close afterwards."""
    if len(os.fsencode(path)) < 100:
        return str(path), None
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    return f"/proc/self/fd/{directory}/{path.name}", directory


def listen(path: Path) -> socket.socket:
    """Return a listening socket at ``path``, replacing a stale one; only this user may connect."""
    path.unlink(missing_ok=True)
    spelling, directory = _short(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(spelling)
    os.chmod(spelling, 0o600)
    server.listen(64)
    server.setblocking(False)
    if directory is not None:
        os.close(directory)
    return server


def connect(path: Path) -> socket.socket | None:
    """Return a connection to the init that listens at ``path``; None when none does."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = None
    try:
        spelling, directory = _short(path)
        client.connect(spelling)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        client.close()
        return None
    finally:
        if directory is not None:
            os.close(directory)
    return client


def send(to: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """Send one message, with descriptors."""
    raw = json.dumps(message).encode() + b"\n"
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sent = to.sendmsg([raw], ancillary)
    if sent < len(raw):
        to.sendall(raw[sent:])


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next message and its descriptors. Raises EOFError when the peer is gone."""
    raw, descriptors = b"", []
    while not raw.endswith(b"\n"):
        if len(raw) > MAX_LINE:
            raise ValueError("control message too long")
        chunk, received, _, _ = socket.recv_fds(connection, 1 << 16, 8)
        descriptors += received
        if not chunk:
            for fd in descriptors:
                os.close(fd)
            raise EOFError("the other end is gone")
        raw += chunk
    return json.loads(raw), descriptors


def call(path: Path, operation: str, **arguments: Any) -> dict[str, Any]:
    """Ask lab init for ``operation`` and return its answer. Raises MachineError with init's own words."""
    connection = connect(path)
    if connection is None:
        raise MachineError("lab", operation, path.parent.name, "the cluster is not running", "start it: podwire start")
    with connection:
        send(connection, {"op": operation, **arguments})
        return receive_answer(connection, operation)


def receive_answer(connection: socket.socket, operation: str) -> dict[str, Any]:
    """Return the answer that is due on ``connection``; a refusal is raised as MachineError."""
    try:
        answer, _ = receive(connection)
    except (EOFError, ConnectionResetError):
        raise MachineError(
            "lab", operation, "cluster", "it ended before it answered", "see `podwire logs init`"
        ) from None
    if "error" in answer:
        raise MachineError("lab", operation, answer.get("object", "cluster"), answer["error"], answer.get("hint", ""))
    return answer
