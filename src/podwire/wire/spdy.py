"""SPDY/3.1 without I/O: what `kubectl exec` up to 1.30 and every port-forward speak.

    connection = Connection(server=True)
    for event in connection.receive(data): ...
    connection.reply(stream); connection.send(stream, b"hello"); transport.write(connection.take())

Frames (draft-mbelshe-httpbis-spdy-00, with 3.1's session window):

    control  |1| version 15 | type 16 | flags 8 | length 24 | payload
    data     |0| stream id 31         | flags 8 | length 24 | payload

Flow control is left to TCP: the one SPDY library of the Kubernetes world (moby/spdystream) neither sends
WINDOW_UPDATE nor waits for it, so a peer that did would stall after 64 KiB. Updates received are ignored.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

VERSION: Final = 3
MAX_FRAME_BYTES: Final = (1 << 24) - 1
CHUNK_BYTES: Final = 1 << 16  # data is sent in frames of at most this size

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FLAG_FIN, FLAG_UNIDIRECTIONAL = 1, 2
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL, INTERNAL_ERROR = 1, 2, 3, 5, 6

Headers: TypeAlias = Mapping[str, str]


class ProtocolError(ValueError):
    """The peer broke the framing; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """SYN_STREAM: the peer opened ``stream``. Header names are lower case."""

    stream: int
    headers: dict[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class StreamReplied:
    """SYN_REPLY: the peer accepted a stream of ours."""

    stream: int
    headers: dict[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Bytes on a stream; with ``fin`` the last ones."""

    stream: int
    data: bytes
    fin: bool = False


@dataclass(frozen=True, slots=True)
class StreamReset:
    """RST_STREAM: the peer gave the stream up."""

    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class PingReceived:
    """A PING; one of the peer's own has been answered already."""

    id: int


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """The peer opens no more streams."""

    last_stream: int


Event: TypeAlias = StreamOpened | StreamReplied | DataReceived | StreamReset | PingReceived | GoAwayReceived


def _dictionary() -> bytes:
    """Return the header dictionary of SPDY draft 3 §2.6.10.1 (1423 bytes, Adler-32 e3c6a7c2)."""
    words = (
        "options head post put delete trace accept accept-charset accept-encoding accept-language "
        "accept-ranges age allow authorization cache-control connection content-base content-encoding "
        "content-language content-length content-location content-md5 content-range content-type date "
        "etag expect expires from host if-match if-modified-since if-none-match if-range "
        "if-unmodified-since last-modified location max-forwards pragma proxy-authenticate "
        "proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
        "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url "
        "public set-cookie keep-alive origin"
    )
    counted = b"".join(struct.pack(">I", len(w)) + w.replace("_", " ").encode() for w in words.split())
    return counted + (
        b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
        b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
        b"401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
        b"503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
        b"Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
        b"application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age="
        b"gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
    )


DICTIONARY: Final = _dictionary()


class HeaderWriter:
    """One direction's header compression: a single zlib stream for the whole connection."""

    def __init__(self) -> None:
        self._zlib = zlib.compressobj(zdict=DICTIONARY)

    def encode(self, headers: Headers) -> bytes:
        """Return the compressed name/value block. Names are sent in lower case (§2.6.10: MUST)."""
        parts = [struct.pack(">I", len(headers))]
        for name, value in headers.items():
            for text in (name.lower(), value):
                raw = text.encode()
                parts += [struct.pack(">I", len(raw)), raw]
        return self._zlib.compress(b"".join(parts)) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class HeaderReader:
    """The other direction."""

    _MAX_BYTES = 1 << 20

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)

    def decode(self, block: bytes) -> dict[str, str]:
        """Return the headers, names in lower case. Raises ProtocolError."""
        try:
            raw = self._zlib.decompress(block, self._MAX_BYTES)
        except zlib.error as error:
            raise ProtocolError(f"header block: {error}") from error
        if self._zlib.unconsumed_tail:
            raise ProtocolError("header block: too large")
        if len(raw) < 4:
            raise ProtocolError("header block: truncated")
        (count,) = struct.unpack_from(">I", raw)
        headers: dict[str, str] = {}
        position = 4
        for _ in range(count):
            name, position = _counted(raw, position)
            value, position = _counted(raw, position)
            headers[name.lower()] = value
        return headers


def _counted(raw: bytes, position: int) -> tuple[str, int]:
    if position + 4 > len(raw):
        raise ProtocolError("header block: truncated")
    (length,) = struct.unpack_from(">I", raw, position)
    end = position + 4 + length
    if end > len(raw):
        raise ProtocolError("header block: truncated")
    return raw[position + 4 : end].decode("utf-8", "replace"), end


class Connection:
    """Both directions of one connection. ``receive`` bytes, act, ``take`` bytes."""

    def __init__(self, *, server: bool) -> None:
        self._next_stream = 2 if server else 1
        self._own_parity = self._next_stream % 2
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._writer, self._reader = HeaderWriter(), HeaderReader()
        self._last_peer_stream = 0

    def receive(self, data: bytes) -> list[Event]:
        """Take in bytes and return what they say, in order. Raises ProtocolError."""
        self._buffer += data
        events: list[Event] = []
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            end = 8 + (second & 0xFF_FFFF)
            if len(self._buffer) < end:
                break
            payload = bytes(self._buffer[8:end])
            del self._buffer[:end]
            flags = second >> 24
            if first >> 31:
                events += self._control(first >> 16 & 0x7FFF, first & 0xFFFF, flags, payload)
            else:
                events.append(DataReceived(first, payload, bool(flags & FLAG_FIN)))
        return events

    def take(self) -> bytes:
        """Return the bytes to send; empty when there are none."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def open(self, headers: Headers, *, fin: bool = False) -> int:
        """Open a stream and return its number."""
        stream = self._next_stream
        self._next_stream += 2
        block = self._writer.encode(headers)
        self._put(SYN_STREAM, FLAG_FIN if fin else 0, struct.pack(">IIBB", stream, 0, 0, 0) + block)
        return stream

    def reply(self, stream: int, headers: Headers | None = None, *, fin: bool = False) -> None:
        """Accept a stream of the peer."""
        block = self._writer.encode(headers or {})
        self._put(SYN_REPLY, FLAG_FIN if fin else 0, struct.pack(">I", stream) + block)

    def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        """Send bytes on a stream; with ``fin`` the last ones (``data`` may be empty then)."""
        pieces = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)] or [b""]
        for number, piece in enumerate(pieces):
            last = fin and number == len(pieces) - 1
            self._out.append(struct.pack(">II", stream, (FLAG_FIN if last else 0) << 24 | len(piece)))
            self._out.append(piece)

    def reset(self, stream: int, code: int = CANCEL) -> None:
        """Give a stream up."""
        self._put(RST_STREAM, 0, struct.pack(">II", stream, code))

    def ping(self, id: int) -> None:
        """Send a PING; the peer echoes it."""
        self._put(PING, 0, struct.pack(">I", id))

    def go_away(self, status: int = 0) -> None:
        """Say that no more streams are accepted."""
        self._put(GOAWAY, 0, struct.pack(">II", self._last_peer_stream, status))

    def _put(self, type: int, flags: int, payload: bytes) -> None:
        self._out.append(struct.pack(">HHI", 0x8000 | VERSION, type, flags << 24 | len(payload)) + payload)

    def _control(self, version: int, type: int, flags: int, payload: bytes) -> list[Event]:
        if version != VERSION:
            raise ProtocolError(f"version {version}, wanted {VERSION}")
        fin = bool(flags & FLAG_FIN)
        try:
            return self._read_control(type, fin, payload)
        except struct.error as error:
            raise ProtocolError(f"control frame {type}: truncated") from error

    def _read_control(self, type: int, fin: bool, payload: bytes) -> list[Event]:
        if type == SYN_STREAM:
            stream = struct.unpack_from(">I", payload)[0] & 0x7FFF_FFFF
            headers = self._reader.decode(payload[10:])
            if stream % 2 == self._own_parity or stream <= self._last_peer_stream:
                # §2.3.2: numbers of new streams MUST grow; an old one is a session error.
                raise ProtocolError(f"stream number {stream} after {self._last_peer_stream}")
            self._last_peer_stream = stream
            return [StreamOpened(stream, headers, fin)]
        if type in (SYN_REPLY, HEADERS):
            stream = struct.unpack_from(">I", payload)[0] & 0x7FFF_FFFF
            headers = self._reader.decode(payload[4:])
            return [StreamReplied(stream, headers, fin)] if type == SYN_REPLY else []
        if type == RST_STREAM:
            stream, code = struct.unpack_from(">II", payload)
            return [StreamReset(stream & 0x7FFF_FFFF, code)]
        if type == PING:
            (id,) = struct.unpack_from(">I", payload)
            if id % 2 != self._own_parity:
                self.ping(id)
            return [PingReceived(id)]
        if type == GOAWAY:
            return [GoAwayReceived(struct.unpack_from(">I", payload)[0] & 0x7FFF_FFFF)]
        return []  # SETTINGS, WINDOW_UPDATE, and control frames unknown to us, which MUST be ignored (§2.2.1)
