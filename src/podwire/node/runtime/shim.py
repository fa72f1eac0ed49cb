"""The shim: the small process that parents all containers of one node.

Single-threaded and without asyncio, because it forks. Agents come and go on its socket; containers stay. When
the shim dies, its containers die with it (PR_SET_PDEATHSIG) and their namespaces with them; a new shim starts
with an empty book and sweeps up the old writable layers. It keeps nothing on disk that a restart would need.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

from podwire.kernel import libc
from podwire.model.errors import MachineError
from podwire.node.runtime import builtin_server, child, protocol, rootfs
from podwire.node.runtime.book import Book
from podwire.node.runtime.containers import Ground
from podwire.node.runtime.images import SERVER, ImageCatalogue
from podwire.node.runtime.loop import READ, WRITE, Loop
from podwire.node.runtime.privileges import is_rootless
from podwire.node.runtime.requests import Peer, answer
from podwire.node.runtime.sandboxes import NamespaceMaker
from podwire.runtime.logging import get

_log = get("node/runtime")
_BACKLOG = 16


@dataclass(frozen=True, slots=True)
class ShimConfig:
    """What a shim is told. Paths are of the node's mount namespace, ``run_dir`` lies on a tmpfs.

    ``builtins``: programs by image name that run in the container without execve, e.g. the cluster DNS. They
    are called with the arguments, without a program's name, and may return an exit code.
    ``images``: what the user mapped with ``--image NAME=PATH``. ``host_root``: what containers see as "/".
    ``hidden``: directories of it that containers must not see, such as podwire's own state.
    """

    run_dir: Path = Path("/run/podwire")
    node_name: str = ""
    socket_path: Path = Path("/run/podwire/shim.sock")
    images: Mapping[str, Path] = field(default_factory=dict)
    builtins: Mapping[str, child.Builtin] = field(default_factory=dict)
    host_root: str = "/"
    hidden: tuple[str, ...] = ()


def main(config: ShimConfig) -> NoReturn:
    """Be the node's shim, in the node's own namespaces, until SIGTERM. Never returns."""
    code = 0
    try:
        libc.set_process_name(f"shim-{config.node_name}" if config.node_name else "shim")
        child.show_command_line(("podwire-shim", config.node_name))
        _serve(config)
    except BaseException as error:
        _log.error("shim-failed", node=config.node_name, error=f"{type(error).__name__}: {error}")
        code = 1
    os._exit(code)


def _serve(config: ShimConfig) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # about eight descriptors a pod
    loop = Loop()
    listener = _listen(config.socket_path)
    layers, netns = config.run_dir / "containers", config.run_dir / "netns"
    for directory in (layers, netns):
        if directory.exists():
            shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    rootless = is_rootless()
    builtins: dict[str, child.Builtin] = {name: partial(_run, main) for name, main in config.builtins.items()}
    builtins |= {SERVER: builtin_server.main, "agnhost": builtin_server.main}
    ground = Ground(
        rootfs.observe_host(config.host_root, rootless, config.hidden, config.run_dir),
        layers,
        builtins,
        rootless,
        os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC),
    )
    catalogue = ImageCatalogue(config.images, config.builtins)
    book = Book(loop, catalogue, ground, NamespaceMaker(netns))
    loop.on_child_exit(book.reap)
    peers: dict[int, _Connection] = {}
    loop.watch(listener.fileno(), lambda _: _accept(listener, loop, book, peers))
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # what exists now is shared with every container: leave its pages alone
    _log.info("shim-ready", node=config.node_name, rootless=rootless, socket=str(config.socket_path))
    loop.run()
    book.kill_all()
    config.socket_path.unlink(missing_ok=True)


def _run(main: child.Builtin, argv: Sequence[str]) -> object:
    """Call a program of the lab's with its arguments only."""
    return main(argv[1:])


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(_BACKLOG)
    return listener


def _accept(listener: socket.socket, loop: Loop, book: Book, peers: dict[int, _Connection]) -> None:
    try:
        sock, _ = listener.accept()
    except OSError:
        return
    sock.setblocking(False)
    peers[sock.fileno()] = _Connection(sock, loop, book, peers)


class _Connection(Peer):
    """One agent."""

    def __init__(self, sock: socket.socket, loop: Loop, book: Book, peers: dict[int, _Connection]) -> None:
        self._sock, self._loop, self._book, self._peers = sock, loop, book, peers
        self._assembler = protocol.Assembler()
        self._waiting: list[tuple[bytes, list[int]]] = []
        loop.watch(sock.fileno(), self._serve)

    def send(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message and the descriptors, which are closed here."""
        if self._sock.fileno() < 0:
            for fd in fds:
                os.close(fd)
            return
        packets = protocol.encode(message)
        self._waiting += [(p, list(fds) if i == 0 else []) for i, p in enumerate(packets)]
        self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                packet, fds = self._waiting[0]
                protocol.send_packet(self._sock, packet, fds)
                del self._waiting[0]
                for fd in fds:
                    os.close(fd)
        except BlockingIOError:
            self._loop.watch(self._sock.fileno(), self._serve, READ | WRITE)
        except OSError:
            self._close()
        else:
            self._loop.watch(self._sock.fileno(), self._serve, READ)

    def _serve(self, events: int) -> None:
        if events & WRITE and self._waiting:
            self._flush()
        if not events & ~WRITE:
            return
        try:
            packet, fds = protocol.receive_packet(self._sock)
        except BlockingIOError:
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            self._close()
            return
        whole = self._assembler.feed(packet, fds)
        if whole is not None:
            self._answer(*whole)

    def _answer(self, message: protocol.Message, fds: list[int]) -> None:
        number = message.get("id")
        try:
            answer(self, self._book, message, fds)
        except MachineError as error:
            self.fail(number, error)
        except Exception as error:
            _log.error("request-failed", op=message.get("op"), error=f"{type(error).__name__}: {error}")
            self.fail(number, MachineError("node/runtime", str(message.get("op")), "", repr(error)))
        finally:
            for fd in fds:
                os.close(fd)

    def _close(self) -> None:
        if self._sock.fileno() < 0:
            return
        self._book.forget_peer(self)
        self._loop.forget(self._sock.fileno())
        self._peers.pop(self._sock.fileno(), None)
        self._sock.close()
        for _, fds in self._waiting:
            for fd in fds:
                os.close(fd)
        self._waiting.clear()
