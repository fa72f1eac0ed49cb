"""The protobuf wire format: varints, lengths, fixed widths. What the fields mean is the caller's."""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Value = int | bytes
"""An unsigned integer (varint, fixed) or the bytes of a length-delimited field."""


def read_varint(content: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned 64-bit integer and the offset behind it. Raises ValueError."""
    value = shift = 0
    try:
        while True:
            byte = content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at
            shift += 7
            if shift > 63:
                raise ValueError("varint is longer than 64 bits")
    except IndexError:
        raise ValueError("truncated varint") from None


def fields(content: bytes) -> Iterator[tuple[int, int, Value]]:
    """Yield (field number, wire type, value) in the order of the message. Raises ValueError."""
    at, end = 0, len(content)
    while at < end:
        tag, at = read_varint(content, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire_type == VARINT:
            value: Value
            value, at = read_varint(content, at)
            yield number, wire_type, value
            continue
        if wire_type == BYTES:
            length, at = read_varint(content, at)
        elif wire_type == FIXED64:
            length = 8
        elif wire_type == FIXED32:
            length = 4
        else:
            raise ValueError(f"field {number} has wire type {wire_type}, which is not in use")
        if at + length > end:
            raise ValueError(f"field {number} runs past the end of its message")
        piece = content[at : at + length]
        at += length
        yield number, wire_type, piece if wire_type == BYTES else int.from_bytes(piece, "little")


def signed(value: int) -> int:
    """Return the int64 that a varint stands for (two's complement)."""
    return value - (1 << 64) if value >= 1 << 63 else value


def write_varint(value: int) -> bytes:
    """Return the bytes of an integer; negative ones take ten bytes."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_field(number: int, value: Value) -> bytes:
    """Return one field: bytes length-delimited, integers as varints."""
    if isinstance(value, bytes):
        return write_varint(number << 3 | BYTES) + write_varint(len(value)) + value
    return write_varint(number << 3 | VARINT) + write_varint(value)


def write_double(number: int, value: float) -> bytes:
    """Return one field of eight bytes: an IEEE 754 double, little-endian."""
    return write_varint(number << 3 | FIXED64) + struct.pack("<d", value)
