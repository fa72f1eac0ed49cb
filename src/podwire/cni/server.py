"""The agent's end of the executable podwire-cni: requests over a unix socket, answered by the plugin.

The protocol is described in ``native/podwire-cni.c``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

from podwire.cni.invoke import InProcess
from podwire.cni.spec import (
    DECODING_FAILURE,
    LATEST_VERSION,
    MACHINE_FAILURE,
    SUPPORTED_VERSIONS,
    CniError,
    parse_request,
)
from podwire.runtime.logging import Log

HELLO = b"podwire-cni/1\n"
_REQUEST_LIMIT_BYTES = 4 << 20
_PATIENCE_S = 30.0


class CniServer:
    """Answers the executables of one node. ``serve`` runs until cancelled."""

    def __init__(self, path: Path, plugin: InProcess) -> None:
        self._path, self._plugin = path, plugin
        self._log = Log("cni")

    async def serve(self, ready: asyncio.Event | None = None) -> None:
        """Listen at the path, replacing a socket that a killed agent left, and answer.

        ``ready`` is set once connections are taken. Only the owner of the socket may connect (0600).
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        scratch = f"{self._path}.{os.getpid()}"
        try:
            Path(scratch).unlink(missing_ok=True)
            listener.bind(scratch)
            os.chmod(scratch, 0o600)
            listener.listen(128)
            os.rename(scratch, self._path)
            if ready is not None:
                ready.set()
            async with asyncio.TaskGroup() as group:
                loop = asyncio.get_running_loop()
                while True:
                    peer, _ = await loop.sock_accept(listener)
                    group.create_task(self._answer(peer))
        finally:
            listener.close()

    async def _answer(self, peer: socket.socket) -> None:
        fds: list[int] = []
        try:
            async with asyncio.timeout(_PATIENCE_S):
                raw = await _receive(peer, fds)
            reply = await self._execute(raw, fds[0] if fds else -1)
            await asyncio.get_running_loop().sock_sendall(peer, reply)
        except (OSError, TimeoutError) as error:
            self._log.warning("client lost", error=error)
        finally:
            for fd in fds:
                os.close(fd)
            peer.close()

    async def _execute(self, raw: bytes, netns_fd: int) -> bytes:
        version = LATEST_VERSION
        try:
            env, config = _decode(raw)
            said = config.get("cniVersion") if isinstance(config, dict) else None
            version = said if said in SUPPORTED_VERSIONS else version
            answer = await self._plugin(parse_request(env, config, netns_fd))
            return b"0\n" + (json.dumps(answer).encode() + b"\n" if answer is not None else b"")
        except CniError as error:
            return b"1\n" + json.dumps(error.render(version)).encode() + b"\n"
        except Exception as error:  # a bug must reach the caller as an error, not as silence
            self._log.error("request failed", error=repr(error))
            failure = CniError(MACHINE_FAILURE, "the agent failed", repr(error))
            return b"1\n" + json.dumps(failure.render(version)).encode() + b"\n"


async def _receive(peer: socket.socket, fds: list[int]) -> bytes:
    """Return the whole request; descriptors that came with it are put into ``fds``."""
    peer.setblocking(False)
    parts: list[bytes] = []
    size = 0
    while True:
        part = await _receive_part(peer, fds)
        if not part:
            return b"".join(parts)
        size += len(part)
        if size > _REQUEST_LIMIT_BYTES:
            raise OSError(f"a request of more than {_REQUEST_LIMIT_BYTES} bytes")
        parts.append(part)


async def _receive_part(peer: socket.socket, fds: list[int]) -> bytes:
    while True:
        try:
            part, received, _, _ = socket.recv_fds(peer, 65536, 4, socket.MSG_CMSG_CLOEXEC)
            fds += received
            return part
        except BlockingIOError:
            await _readable(peer)


async def _readable(peer: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    loop.add_reader(peer, wake)
    try:
        await done
    finally:
        loop.remove_reader(peer)


def _decode(raw: bytes) -> tuple[dict[str, str], object]:
    if not raw.startswith(HELLO):
        raise CniError(DECODING_FAILURE, "the executable speaks another protocol; install the agent's own")
    head, end, body = raw[len(HELLO) :].partition(b"\0\0")
    if not end and raw[len(HELLO) : len(HELLO) + 1] == b"\0":
        head, body = b"", raw[len(HELLO) + 1 :]  # no variable at all
    pairs = (os.fsdecode(entry).partition("=") for entry in head.split(b"\0") if entry)
    env = {name: value for name, _, value in pairs}
    try:
        return env, json.loads(body) if body.strip() else {}
    except ValueError as error:
        raise CniError(DECODING_FAILURE, f"standard input is not JSON: {error}") from None
