"""`podwire node`: a command in a node's namespaces, and faults on purpose."""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from podwire.lab import control
from podwire.lab.home import cluster as place_of
from podwire.model.errors import BadInput, MachineError, Problem

FAULTS = ("stop", "start", "cut", "heal")
_USAGE = "podwire node NODE [-- CMD ...], or podwire node stop|start|cut|heal NODE"


def run(arguments: argparse.Namespace) -> int:
    """Do what the words say."""
    words: list[str] = list(arguments.words)
    if words[:1] == ["--name"]:  # argparse leaves options after the first word to us
        arguments.name, words = words[1], words[2:]
    if not words:
        raise BadInput(Problem("node", "", f"which node? usage: {_USAGE}"))
    place = place_of(arguments.name)
    place.load()
    if words[0] in FAULTS:
        if len(words) != 2:
            raise BadInput(Problem("node", words[0], f"takes one node: podwire node {words[0]} node-1"))
        answer = control.call(place.control_socket, f"node-{words[0]}", node=words[1])
        print(", ".join(f"{k}: {v}" for k, v in answer.items()))
        return 0
    command = words[2:] if words[1:2] == ["--"] else words[1:]
    connection = control.connect(place.control_socket)
    if connection is None:
        raise MachineError("lab", "enter", words[0], "the cluster is not running", "start it: podwire start")
    with connection:
        return execute(connection, words[0], command or ["/bin/bash"])


def execute(connection: socket.socket, node: str, argv: list[str]) -> int:
    """Run ``argv`` on ``node`` with our standard streams; return its exit code."""
    environment = {k: v for k, v in os.environ.items() if k in ("TERM", "LANG", "LC_ALL")}
    request: dict[str, Any] = {"op": "node-exec", "node": node, "argv": argv, "env": environment}
    if sys.stdin.isatty() and sys.stdout.isatty():
        return _on_terminal(connection, request)
    control.send(connection, request, (0, 1, 2))
    return int(control.receive_answer(connection, "node-exec")["exit"])


def _on_terminal(connection: socket.socket, request: dict[str, Any]) -> int:
    """Give the command a pseudo-terminal of its own and carry keys and screen between the two."""
    master, slave = pty.openpty()
    _copy_size(master)
    signal.signal(signal.SIGWINCH, lambda *_: _copy_size(master))
    control.send(connection, request | {"tty": True}, (slave, slave, slave))
    os.close(slave)
    line = connection.fileno()
    with _raw(0):
        while True:
            ready, _, _ = select.select([0, master, line], [], [])
            if master in ready:
                try:
                    os.write(1, os.read(master, 65536))
                except OSError:  # EIO: nobody holds the other side any more
                    break
            elif 0 in ready:
                os.write(master, os.read(0, 65536))
            elif line in ready:
                break
    return int(control.receive_answer(connection, "node-exec")["exit"])


def _copy_size(master: int) -> None:
    size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
    fcntl.ioctl(master, termios.TIOCSWINSZ, size)


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
