"""The sockets: UDP and TCP on one port, both families where the machine has both."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from podwire.dns.responder import Forward, Responder

_BURST = 64  # datagrams taken in one turn of the loop
_MAX_TCP = 1000
_TCP_IDLE_S = 10.0
_MAX_PENDING = 4096

Resolve = Callable[[Forward, str], Awaitable[bytes]]


class DnsServer:
    """Serves a responder. ``resolve`` answers what the responder forwards."""

    def __init__(self, responder: Responder, resolve: Resolve) -> None:
        self._responder, self._resolve = responder, resolve
        self._sockets: list[socket.socket] = []
        self._tcp: list[asyncio.Server] = []
        self._pending: set[asyncio.Task[None]] = set()
        self._connections = 0

    async def start(self, port: int, host: str = "") -> None:
        """Listen. Raises OSError when the port is taken. ``host`` "": every address; ``port`` 0: any free one."""
        for attempt in range(10):
            udp = _bind(socket.SOCK_DGRAM, host, port)
            try:
                tcp = _bind(socket.SOCK_STREAM, host, udp.getsockname()[1])
            except OSError:
                udp.close()
                if port or attempt == 9:
                    raise
                continue  # the port that UDP was given is another's in TCP
            break
        udp.setblocking(False)
        tcp.setblocking(False)
        self._sockets.append(udp)
        self._tcp.append(await asyncio.start_server(self._serve_tcp, sock=tcp))
        asyncio.get_running_loop().add_reader(udp, self._serve_udp, udp)

    def use(self, responder: Responder) -> None:
        """Answer from another responder from now on."""
        self._responder = responder

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stop listening."""
        loop = asyncio.get_running_loop()
        for udp in self._sockets:
            loop.remove_reader(udp)
            udp.close()
        for tcp in self._tcp:
            tcp.close()
        for task in self._pending:
            task.cancel()

    def _serve_udp(self, udp: socket.socket) -> None:
        respond = self._responder.respond
        for _ in range(_BURST):
            try:
                raw, client = udp.recvfrom(4096)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP error of an earlier answer
                continue
            answer = respond(raw)
            if answer.__class__ is bytes:
                with suppress(OSError):  # a full buffer or a client that is gone: UDP loses, clients repeat
                    udp.sendto(answer, client)
            elif isinstance(answer, Forward) and len(self._pending) < _MAX_PENDING:
                self._start(self._forward_udp(udp, answer, client))

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _forward_udp(self, udp: socket.socket, forward: Forward, client: object) -> None:
        answer = await self._resolve(forward, "udp")
        with suppress(OSError):
            udp.sendto(answer, client)  # type: ignore[call-overload]

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Queries may be pipelined; answers keep their order (RFC 7766 allows any)."""
        if self._connections >= _MAX_TCP:
            writer.close()
            return
        self._connections += 1
        try:
            while True:
                async with asyncio.timeout(_TCP_IDLE_S):
                    size = struct.unpack(">H", await reader.readexactly(2))[0]
                    raw = await reader.readexactly(size)
                answer = self._responder.respond(raw, "tcp")
                if isinstance(answer, Forward):
                    answer = await self._resolve(answer, "tcp")
                if answer is None:
                    break
                writer.write(struct.pack(">H", len(answer)) + answer)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections -= 1
            writer.close()


def _bind(kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return _listen(socket.socket(family, kind), (host, port), kind)
    if socket.has_ipv6:
        both = socket.socket(socket.AF_INET6, kind)
        try:
            both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            return _listen(both, ("::", port), kind)
        except OSError as error:
            both.close()
            if error.errno not in (97, 99):  # EAFNOSUPPORT, EADDRNOTAVAIL: IPv6 is switched off
                raise
    return _listen(socket.socket(socket.AF_INET, kind), ("", port), kind)


def _listen(sock: socket.socket, address: tuple[str, int], kind: socket.SocketKind) -> socket.socket:
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    try:
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock
