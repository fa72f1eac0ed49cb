"""The client side of grpc.health.v1.Health/Check without I/O: just as much HTTP/2 as one call needs.

    preface, SETTINGS, HEADERS(POST /grpc.health.v1.Health/Check), DATA(HealthCheckRequest)
    <- SETTINGS (acknowledged), PING (answered), HEADERS, DATA(HealthCheckResponse), HEADERS(grpc-status)

Response headers are not decoded: the answer is in DATA, and an error has none. RFC 9113; health.proto.
"""

from __future__ import annotations

import struct

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_MAX_FRAME_BYTES = 1 << 16

SERVING = 1
STATUS_NAMES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


class HealthCheck:
    """One call. Send ``start()``; feed what arrives; read ``status`` when ``finished``."""

    def __init__(self, authority: str, service: str = "") -> None:
        self._authority, self._service = authority, service
        self._buffer = b""
        self._message = b""
        self.status: int | None = None  # a HealthCheckResponse.ServingStatus; None: no answer
        self.finished = False
        self.failure = ""

    def start(self) -> bytes:
        """Return the whole request."""
        name = self._service.encode()
        message = (b"\x0a" + _varint(len(name)) + name) if name else b""
        data = b"\x00" + struct.pack(">I", len(message)) + message
        block = b"".join(
            [
                b"\x83\x86",  # static table: :method POST, :scheme http
                _literal(b":path", b"/grpc.health.v1.Health/Check"),
                _literal(b":authority", self._authority.encode()),
                _literal(b"content-type", b"application/grpc"),
                _literal(b"te", b"trailers"),
                _literal(b"user-agent", b"kube-probe/1.36"),
            ]
        )
        frames = _frame(_SETTINGS, 0, 0, b"") + _frame(_HEADERS, _END_HEADERS, 1, block)
        return _PREFACE + frames + _frame(_DATA, _END_STREAM, 1, data)

    def receive(self, data: bytes) -> bytes:
        """Take in bytes; return bytes to send back (acknowledgements), often none."""
        self._buffer += data
        answer = b""
        while len(self._buffer) >= 9 and not self.finished:
            length = int.from_bytes(self._buffer[:3], "big")
            if length > _MAX_FRAME_BYTES:
                return self._fail("not an HTTP/2 server")
            if len(self._buffer) < 9 + length:
                break
            type, flags = self._buffer[3], self._buffer[4]
            payload, self._buffer = self._buffer[9 : 9 + length], self._buffer[9 + length :]
            answer += self._act(type, flags, payload)
        return answer

    def end(self) -> None:
        """The peer closed the connection."""
        if not self.finished:
            self._fail("the connection was closed before an answer")

    def _act(self, type: int, flags: int, payload: bytes) -> bytes:
        if type == _SETTINGS and not flags & _ACK:
            return _frame(_SETTINGS, _ACK, 0, b"")
        if type == _PING and not flags & _ACK:
            return _frame(_PING, _ACK, 0, payload)
        if type == _DATA:
            if flags & _PADDED and payload:
                payload = payload[1 : len(payload) - payload[0]]
            self._message += payload
            self._read_message()
        if type in (_RST_STREAM, _GOAWAY):
            return self._fail("the server refused the call")
        if type in (_DATA, _HEADERS) and flags & _END_STREAM and not self.finished:
            return self._fail("the server does not answer grpc.health.v1.Health/Check")
        return b""

    def _read_message(self) -> None:
        """HealthCheckResponse { ServingStatus status = 1; }; absent means 0."""
        if len(self._message) < 5:
            return
        (length,) = struct.unpack_from(">I", self._message, 1)
        body = self._message[5 : 5 + length]
        if len(body) < length:
            return
        self.status = body[1] if len(body) >= 2 and body[0] == 0x08 else 0
        self.finished = True

    def _fail(self, why: str) -> bytes:
        self.failure, self.finished = why, True
        return b""


def _frame(type: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((type, flags)) + struct.pack(">I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """HPACK: literal field without indexing, new name, no Huffman (RFC 7541 §6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def _string(raw: bytes) -> bytes:
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    return b"\x7f" + _varint(len(raw) - 127) + raw


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
