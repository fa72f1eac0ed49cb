"""The sockets: UDP and TCP on one port, both families where the machine has both."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from podwire.dns import batch
from podwire.dns.responder import Forward, Responder

_ROUNDS = 4  # batches taken in one turn of the loop
_MAX_TCP = 1000
_TCP_IDLE_S = 10.0
_TCP_PIPELINE = 64  # queries of one connection that wait for an upstream
_MAX_PENDING = 4096
_MAX_CLIENTS = 10_000

Resolve = Callable[[Forward, str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Sockets:
    """One UDP and one listening TCP socket on the same port. Whoever opened them closes them."""

    udp: socket.socket
    tcp: socket.socket

    @property
    def port(self) -> int:
        """The port of both."""
        return int(self.udp.getsockname()[1])

    def close(self) -> None:
        """Close both."""
        self.udp.close()
        self.tcp.close()


def open_sockets(port: int, host: str = "", *, shared: bool = False) -> Sockets:
    """Listen. Raises OSError when the port is taken. ``host`` "": every address; ``port`` 0: any free one.

    ``shared``: several may listen on the same port, and the kernel spreads clients over them (SO_REUSEPORT).
    """
    for attempt in range(10):
        udp = _bind(socket.SOCK_DGRAM, host, port, shared)
        try:
            tcp = _bind(socket.SOCK_STREAM, host, udp.getsockname()[1], shared)
        except OSError:
            udp.close()
            if port or attempt == 9:
                raise
            continue  # the port that UDP was given is another's in TCP
        break
    tcp.setblocking(False)  # UDP stays blocking: it is read with MSG_DONTWAIT, and a full send buffer is waited for
    return Sockets(udp, tcp)


class DnsServer:
    """Serves a responder. ``resolve`` answers what the responder forwards."""

    def __init__(self, responder: Responder, resolve: Resolve, *, batched: bool = batch.supported) -> None:
        """``batched``: many datagrams a system call."""
        self._responder, self._resolve = responder, resolve
        self._sockets: list[Sockets] = []
        self._tcp: list[asyncio.Server] = []
        self._pending: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._batch = batch.Batch() if batched else None
        self.clients: dict[bytes, int] = {}  # queries over UDP by client, as the kernel writes its address

    async def start(self, sockets: Sockets) -> None:
        """Answer on these sockets from now on."""
        self._sockets.append(sockets)
        self._tcp.append(await asyncio.start_server(self._serve_tcp, sock=sockets.tcp))
        serve = self._serve_udp if self._batch is None else self._serve_batches
        asyncio.get_running_loop().add_reader(sockets.udp, serve, sockets.udp)

    def use(self, responder: Responder) -> None:
        """Answer from another responder from now on."""
        self._responder = responder

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._sockets[0].port

    def stop_reading(self) -> None:
        """Take no further datagram: what waits in the sockets is somebody else's."""
        for sockets in self._sockets:
            asyncio.get_running_loop().remove_reader(sockets.udp)

    def close(self) -> None:
        """Stop listening."""
        loop = asyncio.get_running_loop()
        for tcp in self._tcp:
            tcp.close()
        for sockets in self._sockets:
            loop.remove_reader(sockets.udp)
            sockets.close()
        for task in self._pending:
            task.cancel()

    # --- UDP

    def _serve_batches(self, udp: socket.socket) -> None:
        made = self._batch
        assert made is not None
        fd = udp.fileno()
        for _ in range(_ROUNDS):
            try:
                count = made.receive(fd)
            except OSError:  # an ICMP error of an earlier answer
                continue
            if count:
                self._answer_batch(made, count, udp)
            if count < batch.SLOTS:
                return

    def _answer_batch(self, made: batch.Batch, count: int, udp: socket.socket) -> None:
        responder, slots, clients, size = self._responder, made.slots, self.clients, batch.SLOT_BYTES
        known = responder.known()
        names = made.client
        for slot, length in enumerate(made.lengths[:count].tolist()):
            start = slot * size
            key = bytes(slots[start + 2 : start + length])
            client = names(slot)
            who = client[4:24]
            clients[who] = clients.get(who, 0) + 1
            found = known.get(key)
            if found is not None:
                found[1][0] += 1
                made.answer(slot, found[0])
                continue
            raw = bytes(slots[start : start + length])
            address = batch.sockaddr_host(client)[0] if responder.by_client else ""
            answer = responder.respond(raw, "udp", address)
            if answer.__class__ is bytes:
                made.answer(slot, answer[2:])
                continue
            made.drop(slot)
            if isinstance(answer, Forward) and len(self._pending) < _MAX_PENDING:
                self._start(self._forward_udp(udp, answer, _destination(udp, client)))
        if len(clients) > _MAX_CLIENTS:
            clients.clear()
        made.send(udp.fileno(), count)

    def _serve_udp(self, udp: socket.socket) -> None:
        """One datagram a system call: where the machine has another layout of headers."""
        for _ in range(_ROUNDS * batch.SLOTS):
            try:
                raw, client = udp.recvfrom(batch.SLOT_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            answer = self._responder.respond(raw, "udp", client[0].removeprefix("::ffff:"))
            if isinstance(answer, Forward):
                if len(self._pending) < _MAX_PENDING:
                    self._start(self._forward_udp(udp, answer, client))
            elif answer is not None:
                with suppress(OSError):  # a full buffer or a client that is gone: UDP loses, clients repeat
                    udp.sendto(answer, client)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _forward_udp(self, udp: socket.socket, forward: Forward, client: object) -> None:
        answer = await self._resolve(forward, "udp")
        with suppress(OSError):
            udp.sendto(answer, client)  # type: ignore[call-overload]

    # --- TCP

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Queries may be pipelined; answers go out as they are ready (RFC 7766 §6.2.1.1 allows any order)."""
        if self._connections >= _MAX_TCP:
            writer.close()
            return
        self._connections += 1
        waiting = asyncio.Semaphore(_TCP_PIPELINE)
        peer = writer.get_extra_info("peername") or ("",)
        client = peer[0].removeprefix("::ffff:")
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    async with asyncio.timeout(_TCP_IDLE_S):
                        size = struct.unpack(">H", await reader.readexactly(2))[0]
                        raw = await reader.readexactly(size)
                    answer = self._responder.respond(raw, "tcp", client)
                    if answer is None:
                        break
                    if isinstance(answer, Forward):
                        await waiting.acquire()
                        group.create_task(self._forward_tcp(answer, writer, waiting))
                        continue
                    writer.write(struct.pack(">H", len(answer)) + answer)
                    await writer.drain()
        except* (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections -= 1
            writer.close()

    async def _forward_tcp(self, forward: Forward, writer: asyncio.StreamWriter, waiting: asyncio.Semaphore) -> None:
        try:
            answer = await self._resolve(forward, "tcp")
            writer.write(struct.pack(">H", len(answer)) + answer)
            await writer.drain()
        finally:
            waiting.release()


def _destination(udp: socket.socket, client: bytes) -> tuple[str, int]:
    host, port = batch.sockaddr_host(client)
    return ("::ffff:" + host if udp.family == socket.AF_INET6 and ":" not in host else host), port


def _bind(kind: socket.SocketKind, host: str, port: int, shared: bool) -> socket.socket:
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return _listen(socket.socket(family, kind), (host, port), kind, shared)
    if socket.has_ipv6:
        both = socket.socket(socket.AF_INET6, kind)
        try:
            both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            return _listen(both, ("::", port), kind, shared)
        except OSError as error:
            both.close()
            if error.errno not in (97, 99):  # EAFNOSUPPORT, EADDRNOTAVAIL: IPv6 is switched off
                raise
    return _listen(socket.socket(socket.AF_INET, kind), ("", port), kind, shared)


def _listen(sock: socket.socket, address: tuple[str, int], kind: socket.SocketKind, shared: bool) -> socket.socket:
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)  # cut by net.core.rmem_max
    try:
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock
