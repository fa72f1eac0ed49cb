"""DNS messages: bytes <-> values. RFC 1035, 2782 (SRV), 3596 (AAAA), 6891 (EDNS), 8914 (extended errors).

A name is its uncompressed wire form (``b"\\x03web\\x07default\\x00"``): it needs no escaping, compares after
``lower()`` and is ready to be sent. Length octets are at most 63, so ``bytes.lower`` never touches them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, OPT = 1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 41
IXFR, AXFR, ANY = 251, 252, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE = 0x7800
COOKIE_OPTION, EXTENDED_ERROR_OPTION = 10, 15
TYPES = {
    "A": A, "NS": NS, "CNAME": CNAME, "SOA": SOA, "PTR": PTR, "HINFO": HINFO, "MX": MX, "TXT": TXT,
    "AAAA": AAAA, "SRV": SRV, "OPT": OPT, "IXFR": IXFR, "AXFR": AXFR, "ANY": ANY,
}  # fmt: skip
RCODES = {
    NOERROR: "NOERROR", FORMERR: "FORMERR", SERVFAIL: "SERVFAIL", NXDOMAIN: "NXDOMAIN", NOTIMP: "NOTIMP",
    REFUSED: "REFUSED", BADVERS: "BADVERS",
}  # fmt: skip
ROOT = b"\0"
_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")
MAX_UDP_BYTES = 512  # without EDNS


class Malformed(ValueError):
    """The bytes are no DNS message."""


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record. ``rdata`` holds uncompressed names."""

    name: bytes
    type: int
    ttl_s: int
    rdata: bytes
    cls: int = IN


@dataclass(frozen=True, slots=True)
class Edns:
    """The OPT pseudo-record. ``options`` are (code, payload)."""

    udp_bytes: int = 1232
    version: int = 0
    dnssec_ok: bool = False
    options: tuple[tuple[int, bytes], ...] = ()
    extended_rcode: int = 0  # the upper eight bits


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. ``name`` keeps the case in which it was asked."""

    name: bytes
    type: int
    cls: int = IN


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message, sections in order. ``edns`` is taken out of the additional section."""

    id: int
    flags: int
    question: tuple[Question, ...] = ()
    answer: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    edns: Edns | None = None

    @property
    def rcode(self) -> int:
        """The response code, with EDNS' upper bits."""
        return (self.flags & 15) | ((self.edns.extended_rcode << 4) if self.edns else 0)


# --- names


def encode_name(text: str) -> bytes:
    """Return the wire form of "web.default.svc". Raises Malformed: empty or long labels, long name, bad escape."""
    if text in ("", "."):
        return ROOT
    labels: list[bytearray] = [bytearray()]
    at, raw = 0, text.encode()
    while at < len(raw):
        c = raw[at]
        if c == 0x5C:  # backslash: \DDD or the next character as it is
            digits = raw[at + 1 : at + 4]
            if len(digits) == 3 and digits.isdigit() and int(digits) < 256:
                labels[-1].append(int(digits))
                at += 4
                continue
            if at + 1 >= len(raw) or digits[:1].isdigit():
                raise Malformed(f"bad escape in name {text!r}")
            labels[-1].append(raw[at + 1])
            at += 2
            continue
        if c == 0x2E:
            labels.append(bytearray())
        else:
            labels[-1].append(c)
        at += 1
    if not labels[-1]:
        labels.pop()
    if any(not 0 < len(label) < 64 for label in labels):
        raise Malformed(f"labels of 1 to 63 octets wanted in name {text!r}")
    wire = b"".join(bytes((len(label),)) + label for label in labels) + ROOT
    if len(wire) > 255:
        raise Malformed(f"name of more than 255 octets: {text!r}")
    return wire


def labels_of(name: bytes) -> tuple[bytes, ...]:
    """Return the labels of a wire name, without the root."""
    labels, at = [], 0
    while name[at]:
        labels.append(name[at + 1 : at + 1 + name[at]])
        at += 1 + name[at]
    return tuple(labels)


def name_text(name: bytes) -> str:
    """Return a wire name as text with a final dot; what is not printable is escaped."""
    return "".join(_label_text(label) + "." for label in labels_of(name)) or "."


def _label_text(label: bytes) -> str:
    return "".join(
        f"\\{c:03d}" if not 0x21 <= c <= 0x7E else "\\" + chr(c) if c in b'."\\();@$' else chr(c) for c in label
    )


def decode_name(raw: bytes, at: int) -> tuple[bytes, int]:
    """Return the uncompressed name at ``at`` and the position after it. Raises Malformed.

    A pointer must point before the name it ends, so chains end (RFC 1035 §4.1.4: "a prior occurrence").
    """
    parts: list[bytes] = []
    size, after, limit = 1, -1, at
    while True:
        if at >= len(raw):
            raise Malformed("name runs past the message")
        length = raw[at]
        if length >= 0xC0:
            if at + 1 >= len(raw):
                raise Malformed("pointer runs past the message")
            target = (length & 0x3F) << 8 | raw[at + 1]
            if after < 0:
                after = at + 2
            if target >= limit:
                raise Malformed("pointer does not point backwards")
            at = limit = target
            continue
        if length >= 0x40:
            raise Malformed("label of unknown type")
        if length == 0:
            return b"".join(parts) + ROOT, after if after >= 0 else at + 1
        if at + 1 + length > len(raw):
            raise Malformed("label runs past the message")
        parts.append(raw[at : at + 1 + length])
        size += 1 + length
        if size > 255:
            raise Malformed("name of more than 255 octets")
        at += 1 + length


def parent(name: bytes) -> bytes:
    """Return the name without its first label; the root's parent is the root."""
    return name[1 + name[0] :] if name[0] else name


def is_within(name: bytes, zone: bytes) -> bool:
    """Return whether a lower-case name is the zone or below it."""
    if not name.endswith(zone):
        return False
    at = 0
    while len(name) - at > len(zone):
        at += 1 + name[at]
    return len(name) - at == len(zone)


def reversed_address(name: bytes) -> bytes:
    """Return the packed address that a lower-case name under in-addr.arpa or ip6.arpa spells; b"" for none."""
    labels = labels_of(name)
    try:
        if len(labels) == 6 and labels[4:] == (b"in-addr", b"arpa"):
            octets = [int(label) for label in labels[3::-1] if label.isdigit()]
            return bytes(octets) if len(octets) == 4 else b""
        if len(labels) == 34 and labels[32:] == (b"ip6", b"arpa"):
            digits = b"".join(labels[31::-1])
            return bytes.fromhex(digits.decode("ascii")) if len(digits) == 32 else b""
    except ValueError:
        pass
    return b""


# --- record data


def address_data(address: IPv4Address | IPv6Address) -> bytes:
    """Return the data of an A or AAAA record."""
    return address.packed


def srv_data(priority: int, weight: int, port: int, target: bytes) -> bytes:
    """Return the data of an SRV record (RFC 2782: the target is not compressed)."""
    return struct.pack(">HHH", priority, weight, port) + target


def txt_data(*texts: str) -> bytes:
    """Return the data of a TXT record; each text at most 255 octets."""
    return b"".join(bytes((len(t.encode()),)) + t.encode() for t in texts)


def soa_data(
    server: bytes, mailbox: bytes, serial: int, refresh_s: int, retry_s: int, expire_s: int, minimum_s: int
) -> bytes:
    """Return the data of an SOA record."""
    return server + mailbox + struct.pack(">IIIII", serial & 0xFFFFFFFF, refresh_s, retry_s, expire_s, minimum_s)


def record_tail(type: int, ttl_s: int, rdata: bytes, cls: int = IN) -> bytes:
    """Return a record without its owner's name."""
    return _RECORD.pack(type, cls, ttl_s, len(rdata)) + rdata


# --- messages


def encode_edns(edns: Edns) -> bytes:
    """Return the OPT record."""
    options = b"".join(struct.pack(">HH", code, len(data)) + data for code, data in edns.options)
    flags = edns.extended_rcode << 24 | edns.version << 16 | (0x8000 if edns.dnssec_ok else 0)
    return ROOT + struct.pack(">HHIH", OPT, edns.udp_bytes, flags, len(options)) + options


def encode_message(message: Message) -> bytes:
    """Return the message, uncompressed."""
    additional = len(message.additional) + (message.edns is not None)
    parts = [
        _HEADER.pack(
            message.id, message.flags, len(message.question), len(message.answer), len(message.authority), additional
        )
    ]
    parts += (q.name + struct.pack(">HH", q.type, q.cls) for q in message.question)
    for section in (message.answer, message.authority, message.additional):
        parts += encode_records(section)
    if message.edns is not None:
        parts.append(encode_edns(message.edns))
    return b"".join(parts)


def encode_records(records: Iterable[Record]) -> tuple[bytes, ...]:
    """Return each record's bytes, its owner in front, uncompressed."""
    return tuple(r.name + record_tail(r.type, r.ttl_s, r.rdata, r.cls) for r in records)


def decode_message(raw: bytes) -> Message:
    """Return the message, names uncompressed. Raises Malformed; octets after the last record are one reason."""
    if len(raw) < 12:
        raise Malformed("shorter than a header")
    id, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(raw)
    at = 12
    asked: list[Question] = []
    for _ in range(questions):
        name, at = decode_name(raw, at)
        if at + 4 > len(raw):
            raise Malformed("question runs past the message")
        asked.append(Question(name, *struct.unpack_from(">HH", raw, at)))
        at += 4
    sections: list[tuple[Record, ...]] = []
    edns: Edns | None = None
    for count in (answers, authorities, additionals):
        records: list[Record] = []
        for _ in range(count):
            record, at = _decode_record(raw, at)
            if record.type != OPT:
                records.append(record)
                continue
            if edns is not None or record.name != ROOT or len(sections) < 2:
                raise Malformed("OPT where it may not be")  # RFC 6891 §6.1.1
            edns = _decode_edns(record)
        sections.append(tuple(records))
    if at != len(raw):
        raise Malformed("octets after the last record")
    return Message(id, flags, tuple(asked), sections[0], sections[1], sections[2], edns)


def _decode_record(raw: bytes, at: int) -> tuple[Record, int]:
    name, at = decode_name(raw, at)
    if at + 10 > len(raw):
        raise Malformed("record runs past the message")
    type, cls, ttl_s, size = _RECORD.unpack_from(raw, at)
    at += 10
    if at + size > len(raw):
        raise Malformed("record data run past the message")
    return Record(name, type, ttl_s, _expand(raw, at, size, type), cls), at + size


def _expand(raw: bytes, at: int, size: int, type: int) -> bytes:
    """Return record data with the names in it uncompressed (RFC 3597 §4 lists the types)."""
    end = at + size
    if type in (NS, CNAME, PTR):
        name, after = decode_name(raw, at)
    elif type in (MX, SRV):
        fixed = 2 if type == MX else 6
        name, after = decode_name(raw, at + fixed)
        name = raw[at : at + fixed] + name
    elif type == SOA:
        server, after = decode_name(raw, at)
        mailbox, after = decode_name(raw, after)
        name, after = server + mailbox + raw[after : after + 20], after + 20
    else:
        return raw[at:end]
    if after != end:
        raise Malformed("record data are longer or shorter than said")
    return name


def _decode_edns(record: Record) -> Edns:
    options, at, raw = [], 0, record.rdata
    while at < len(raw):
        if at + 4 > len(raw):
            raise Malformed("EDNS option runs past its record")
        code, size = struct.unpack_from(">HH", raw, at)
        if at + 4 + size > len(raw):
            raise Malformed("EDNS option runs past its record")
        options.append((code, raw[at + 4 : at + 4 + size]))
        at += 4 + size
    ttl = record.ttl_s
    return Edns(record.cls, ttl >> 16 & 0xFF, bool(ttl & 0x8000), tuple(options), ttl >> 24)


def ttl_positions(raw: bytes) -> tuple[tuple[int, int], ...]:
    """Return (position, seconds) of every TTL in a message but OPT's: to age a cached answer. Raises Malformed."""
    if len(raw) < 12:
        raise Malformed("shorter than a header")
    _, _, questions, *counts = _HEADER.unpack_from(raw)
    at = 12
    for _ in range(questions):
        at = decode_name(raw, at)[1] + 4
    found = []
    for _ in range(sum(counts)):
        at = decode_name(raw, at)[1]
        if at + 10 > len(raw):
            raise Malformed("record runs past the message")
        type, _, ttl_s, size = _RECORD.unpack_from(raw, at)
        if type != OPT:
            found.append((at + 4, ttl_s))
        at += 10 + size
    return tuple(found)


def extended_error(code: int, text: str) -> tuple[int, bytes]:
    """Return the EDNS option that says why (RFC 8914)."""
    return EXTENDED_ERROR_OPTION, struct.pack(">H", code) + text.encode()
