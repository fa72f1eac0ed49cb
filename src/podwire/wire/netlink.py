"""Netlink messages and attributes: bytes <-> values (netlink(7), RFC 3549, include/uapi/linux/netlink.h).

    +--------+------+-------+-----+------+ +-------------------+-----------------------+
    | length | type | flags | seq | port | | family's header   | attributes ...        |
    +--------+------+-------+-----+------+ +-------------------+-----------------------+
       u32     u16    u16    u32    u32      ifinfomsg, rtmsg     (length u16, type u16,
                                                                   value, padded to 4)

Everything is in the machine's byte order, but for values whose meaning is the network's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4

NLM_F_REQUEST = 0x001
NLM_F_MULTI = 0x002
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_ROOT = 0x100
NLM_F_MATCH = 0x200
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_CAPPED = 0x100  # in an error: the request is not quoted in full
NLM_F_ACK_TLVS = 0x200  # in an error: attributes follow

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

NLMSGERR_ATTR_MSG = 1
NLMSGERR_ATTR_OFFS = 2
NLMSGERR_ATTR_MISS_TYPE = 5

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_I32 = struct.Struct("=i")
HEADER_BYTES = _HEADER.size


class Message(NamedTuple):
    """One netlink message without its header."""

    type: int
    flags: int
    sequence: int
    port: int
    body: bytes


class NetlinkError(NamedTuple):
    """What an NLMSG_ERROR says: ``errno`` 0 is an acknowledgement; ``text`` is the extended ack, or ""."""

    errno: int
    text: str = ""


Attributes = dict[int, bytes]


def encode_message(type: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return a whole message, padded to 4 bytes; its port 0 means the kernel."""
    padding = -len(body) % 4
    return _HEADER.pack(HEADER_BYTES + len(body), type, flags, sequence, 0) + body + bytes(padding)


def decode_messages(packet: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram. Raises ValueError on a length that cannot be."""
    offset, end = 0, len(packet)
    while end - offset >= HEADER_BYTES:
        length, type, flags, sequence, port = _HEADER.unpack_from(packet, offset)
        if length < HEADER_BYTES or offset + length > end:
            raise ValueError(f"netlink message at byte {offset} claims {length} of {end - offset} bytes")
        yield Message(type, flags, sequence, port, packet[offset + HEADER_BYTES : offset + length])
        offset += (length + 3) & ~3


def attribute(type: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(value), type) + value + bytes(-len(value) % 4)


def u8(type: int, value: int) -> bytes:
    """Return an attribute of one byte."""
    return attribute(type, bytes((value,)))


def u16(type: int, value: int) -> bytes:
    """Return an attribute of two bytes in the machine's order."""
    return attribute(type, struct.pack("=H", value))


def be16(type: int, value: int) -> bytes:
    """Return an attribute of two bytes in the network's order."""
    return attribute(type, value.to_bytes(2, "big"))


def u32(type: int, value: int) -> bytes:
    """Return an attribute of four bytes in the machine's order."""
    return attribute(type, struct.pack("=I", value))


def be32(type: int, value: int) -> bytes:
    """Return an attribute of four bytes in the network's order."""
    return attribute(type, value.to_bytes(4, "big"))


def text(type: int, value: str) -> bytes:
    """Return an attribute that holds a string with its terminating zero."""
    return attribute(type, value.encode() + b"\0")


def nest(type: int, *children: bytes, flag: bool = True) -> bytes:
    """Return an attribute that holds attributes; strict families want the nested ``flag`` set."""
    return attribute(type | NLA_F_NESTED if flag else type, b"".join(children))


def decode_attributes(body: bytes, offset: int = 0) -> Attributes:
    """Return the attributes from ``offset`` on, by type; of a repeated type the last one.

    Use ``iterate_attributes`` for lists, whose elements share a type. Raises ValueError when cut short.
    """
    return dict(iterate_attributes(body, offset))


def iterate_attributes(body: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (type without flags, value) from ``offset`` on. Raises ValueError when cut short."""
    end = len(body)
    while end - offset >= 4:
        length, type = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4 or offset + length > end:
            raise ValueError(f"netlink attribute at byte {offset} claims {length} of {end - offset} bytes")
        yield type & NLA_TYPE_MASK, body[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def decode_u32(value: bytes) -> int:
    """Return the number in a four-byte attribute."""
    return int(struct.unpack_from("=I", value)[0])


def decode_i32(value: bytes) -> int:
    """Return the signed number in a four-byte attribute."""
    return int(_I32.unpack_from(value)[0])


def decode_text(value: bytes) -> str:
    """Return the string in an attribute, without its terminating zero."""
    return value.split(b"\0", 1)[0].decode(errors="replace")


def decode_error(message: Message) -> NetlinkError:
    """Return what an NLMSG_ERROR or NLMSG_DONE says, extended acknowledgement included.

    Layout: errno i32, the request's header, the request's body unless NLM_F_CAPPED, then attributes.
    """
    if len(message.body) < 4:
        return NetlinkError(0)
    errno = -_I32.unpack_from(message.body)[0]
    if not message.flags & NLM_F_ACK_TLVS:
        return NetlinkError(errno)
    offset = 4
    if message.type == NLMSG_ERROR:
        offset += HEADER_BYTES
        if not message.flags & NLM_F_CAPPED:
            quoted = _HEADER.unpack_from(message.body, 4)[0]
            offset += (quoted - HEADER_BYTES + 3) & ~3
    found = decode_attributes(message.body, offset)
    said = decode_text(found.get(NLMSGERR_ATTR_MSG, b""))
    if not said and NLMSGERR_ATTR_MISS_TYPE in found:
        said = f"attribute {decode_u32(found[NLMSGERR_ATTR_MISS_TYPE])} is missing"
    return NetlinkError(errno, said)
