"""The built-in server: what stands in for server images. One thread, one selectors loop, no execve.

It listens on the container's ports. TCP connections speak HTTP when the first bytes look like it, Redis' PING
when they look like that, else everything is echoed. UDP datagrams are answered with the server's facts, or as
agnhost does. Answers say which pod of which node spoke and which client address it saw.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from types import FrameType

from podwire.node.runtime import builtin_connect
from podwire.node.runtime.builtin_http import Answer, Facts, parse_request, respond
from podwire.node.runtime.builtin_options import Options, read_options

_METHODS = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"PATC", b"OPTI", b"TRAC", b"CONN", b"PRI ")
_MOST_HEAD_BYTES = 64 << 10
# After SIGTERM, Services need a moment to leave this pod out; till then its clients still come.
_RECENT_S = 2.0  # a server that nobody called for so long leaves at once
_LINGER_S = 0.4  # the others stay so long at least,
_QUIET_S = 0.2  # and until nobody has called for so long,
_MOST_LINGER_S = 5.0  # but no longer than this
_CHUNK_BYTES = 64 << 10


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM; return the exit code."""
    options = read_options(tuple(argv), os.environ)
    if options.connect is not None:
        return builtin_connect.main(options.connect)
    server = Server(options, _facts())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, server.leave)
    return server.run()


def _facts() -> Facts:
    raw = json.loads(os.environ.get("PODWIRE_SERVER_FACTS") or "{}")
    return Facts(
        pod=raw.get("pod", ""),
        namespace=raw.get("namespace", ""),
        node=raw.get("node", ""),
        ip=raw.get("ip", ""),
        container=raw.get("container", ""),
        hostname=os.uname().nodename,
    )


class Server:
    """Listeners and connections of one container."""

    def __init__(self, options: Options, facts: Facts) -> None:
        self._options, self._facts = options, facts
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        self._streams: set[_Stream] = set()
        self._delayed: list[tuple[float, _Stream]] = []
        self._leaving = False
        self._called_at = float("-inf")  # when somebody last called
        wake, self._waker = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._selector.register(wake, selectors.EVENT_READ, lambda _: os.read(wake, 64))

    def leave(self, number: int, frame: FrameType | None) -> None:
        """Finish what is in flight, then leave: a container's SIGTERM."""
        self._leaving = True

    def run(self) -> int:
        """Serve; return 0, or 1 when a port cannot be had."""
        for port in self._options.tcp:
            if not self._listen(port, socket.SOCK_STREAM):
                return 1
        for port in self._options.udp:
            if not self._listen(port, socket.SOCK_DGRAM):
                return 1
        if self._options.tcp or self._options.udp:
            ports = [f"{p}/tcp" for p in self._options.tcp] + [f"{p}/udp" for p in self._options.udp]
            os.write(1, f"podwire built-in server: listening on {' '.join(ports)}\n".encode())
        while not self._leaving:
            self._turn()
        self._linger()
        for listener in self._listeners:
            self._selector.unregister(listener)
            listener.close()
        deadline = time.monotonic() + 30
        while any(s.busy for s in self._streams) and time.monotonic() < deadline:
            self._turn()
        return 0

    def _linger(self) -> None:
        """Serve on until Services have had time to send their clients elsewhere."""
        began = time.monotonic()
        if began - self._called_at > _RECENT_S:
            return
        while (now := time.monotonic()) - began < _MOST_LINGER_S:
            if now - began >= _LINGER_S and now - self._called_at >= _QUIET_S:
                return
            self._turn()

    def _turn(self) -> None:
        timeout = max(0.0, min(d for d, _ in self._delayed) - time.monotonic()) if self._delayed else None
        if self._leaving:
            timeout = min(timeout if timeout is not None else 0.1, 0.1)
        for key, events in self._selector.select(timeout):
            key.data(events)
        now = time.monotonic()
        due = [s for moment, s in self._delayed if moment <= now]
        if due:
            self._delayed = [(m, s) for m, s in self._delayed if m > now]
            for stream in due:
                stream.release()

    def _listen(self, port: int, kind: socket.SocketKind) -> bool:
        sock = _bind(port, kind)
        if isinstance(sock, OSError):
            # the words that nginx would use
            word = "0.0.0.0" if kind == socket.SOCK_STREAM else "udp 0.0.0.0"
            message = f"bind() to {word}:{port} failed ({sock.errno}: {os.strerror(sock.errno or 0)})\n"
            os.write(2, message.encode())
            return False
        sock.setblocking(False)
        self._listeners.append(sock)
        if kind == socket.SOCK_STREAM:
            sock.listen(511)
            self._selector.register(sock, selectors.EVENT_READ, lambda _: self._accept(sock, port))
        else:
            self._selector.register(sock, selectors.EVENT_READ, lambda _: self._datagram(sock))
        return True

    def _accept(self, listener: socket.socket, port: int) -> None:
        for _ in range(64):
            try:
                sock, address = listener.accept()
            except OSError:
                return
            sock.setblocking(False)
            self._called_at = time.monotonic()
            stream = _Stream(self, sock, _plain(address[0]), address[1], port)
            self._streams.add(stream)
            self._selector.register(sock, selectors.EVENT_READ, stream.serve)

    def _datagram(self, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                packet, address = sock.recvfrom(65535)
            except OSError:
                return
            client = f"{_plain(address[0])}:{address[1]}"
            try:
                sock.sendto(self._answer_datagram(packet, client), address)
            except OSError:
                continue

    def _answer_datagram(self, packet: bytes, client: str) -> bytes:
        words = packet.strip().split(None, 1)
        first = words[0].lower() if words else b""
        if first == b"hostname":
            return self._facts.hostname.encode()
        if first == b"clientip":
            return client.encode()
        if first == b"echo" and len(words) > 1:
            return words[1]
        facts = self._facts
        head = f"{facts.namespace}/{facts.pod} on {facts.node} ({facts.ip}) saw {client}: "
        return head.encode() + packet

    def watch(self, stream: _Stream, events: int) -> None:
        """Wait for these events of a stream; 0: for none."""
        try:
            self._selector.unregister(stream.socket)
        except KeyError:
            pass
        if events:
            self._selector.register(stream.socket, events, stream.serve)

    def delay(self, stream: _Stream, seconds: float) -> None:
        """Let the stream go on after ``seconds``."""
        self._delayed.append((time.monotonic() + seconds, stream))

    def drop(self, stream: _Stream) -> None:
        """Close a stream."""
        self.watch(stream, 0)
        self._delayed = [(m, s) for m, s in self._delayed if s is not stream]
        self._streams.discard(stream)
        stream.socket.close()

    def respond(self, head: bytes, body: bytes, client: str, client_port: int, port: int) -> Answer:
        """Return the answer to a request, and log it in nginx' words."""
        self._called_at = time.monotonic()
        request = parse_request(head, body, client, client_port, port)
        answer = respond(request, self._facts, self._options.text, self._options.hostname_only)
        moment = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
        agent = request.headers.get("user-agent", "-")
        line = f'{client} - - [{moment}] "{request.line}" {answer.status} {len(answer.body)} "-" "{agent}"\n'
        os.write(1, line.encode("utf-8", "replace"))
        if self._leaving:
            answer.keep_alive = False
        return answer


def _bind(port: int, kind: socket.SocketKind) -> socket.socket | OSError:
    """Return a socket for both families, or for IPv4 where there is no IPv6; an OSError when neither works."""
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        try:
            sock = socket.socket(family, kind)
        except OSError:
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((address, port))
        except OSError as error:
            sock.close()
            last = error
            if family == socket.AF_INET:
                return error
        else:
            return sock
    return last


def _plain(address: str) -> str:
    """Return an IPv4-mapped IPv6 address as IPv4."""
    return address.removeprefix("::ffff:") if "." in address else address


class _Stream:
    """One TCP connection."""

    def __init__(self, server: Server, sock: socket.socket, client: str, client_port: int, port: int) -> None:
        self.socket, self._server = sock, server
        self._client, self._client_port, self._port = client, client_port, port
        self._in, self._out = bytearray(), bytearray()
        self._kind = ""
        self._close_after = False
        self._held: Answer | None = None

    @property
    def busy(self) -> bool:
        """Whether an answer is still owed."""
        return bool(self._out) or self._held is not None

    def serve(self, events: int) -> None:
        """Read, answer, write."""
        try:
            if events & selectors.EVENT_READ:
                chunk = self.socket.recv(_CHUNK_BYTES)
                if not chunk:
                    self._close_after = True
                    if not self.busy:
                        self._server.drop(self)
                        return
                self._in += chunk
                self._answer()
            self._flush()
        except BlockingIOError:
            return
        except OSError:
            self._server.drop(self)

    def release(self) -> None:
        """Send the answer that was held back (/delay)."""
        if self._held is not None:
            answer, self._held = self._held, None
            self._out += answer.encode()
            self._close_after |= not answer.keep_alive
            try:
                self._answer()
                self._flush()
            except OSError:
                self._server.drop(self)

    def _answer(self) -> None:
        if not self._kind and self._in:
            self._kind = _recognise(bytes(self._in[:4]))
        if self._kind == "http":
            while self._held is None and self._answer_request():
                pass
        elif self._kind == "redis":
            while b"\r\n" in self._in:
                line, _, rest = bytes(self._in).partition(b"\r\n")
                self._in[:] = rest
                if line.upper() == b"PING":
                    self._out += b"+PONG\r\n"
        else:
            self._out += self._in
            self._in.clear()

    def _answer_request(self) -> bool:
        """Answer one whole request in the buffer; return whether there was one."""
        end = self._in.find(b"\r\n\r\n")
        if end < 0:
            if len(self._in) > _MOST_HEAD_BYTES:
                raise ConnectionAbortedError
            return False
        head = bytes(self._in[:end])
        length, expects = _body_length(head)
        if expects and len(self._in) == end + 4:
            self._out += b"HTTP/1.1 100 Continue\r\n\r\n"
        if len(self._in) < end + 4 + length:
            return False
        body = bytes(self._in[end + 4 : end + 4 + length])
        del self._in[: end + 4 + length]
        answer = self._server.respond(head, body, self._client, self._client_port, self._port)
        if answer.delay_s > 0:
            self._held = answer
            self._server.delay(self, answer.delay_s)
        else:
            self._out += answer.encode()
            self._close_after |= not answer.keep_alive
        return True

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self.socket.send(self._out[: 1 << 20])
            except BlockingIOError:
                self._server.watch(self, selectors.EVENT_WRITE)
                return
            del self._out[:sent]
        if self._close_after and self._held is None:
            self._server.drop(self)
        else:
            self._server.watch(self, selectors.EVENT_READ if self._held is None else 0)


def _recognise(first: bytes) -> str:
    if any(m.startswith(first) or first.startswith(m) for m in _METHODS):
        return "http"
    return "redis" if first.upper().startswith((b"PING", b"*1\r\n")) else "echo"


def _body_length(head: bytes) -> tuple[int, bool]:
    """Return Content-Length (0 without one) and whether the client waits for "100 Continue"."""
    length, expects = 0, False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            length = min(int(value), 64 << 20)
        elif name.lower() == b"expect" and value.strip().lower() == b"100-continue":
            expects = True
    return length, expects
