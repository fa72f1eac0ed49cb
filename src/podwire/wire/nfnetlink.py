"""nf_tables messages: batches of set elements, generation queries, and the kernel's answers.

Source: linux/netfilter/nfnetlink.h and nf_tables.h. Netlink headers are in host byte order, nf_tables
integers and lengths of nested values in network order.

    BATCH_BEGIN | NEWSETELEM / DELSETELEM ... | BATCH_END      one batch = one transaction
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_MULTI = 0x2
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLM_F_ACK_TLVS = 0x200
NLM_F_CAPPED = 0x100

_SUBSYS_NFTABLES = 10 << 8
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
NEWSETELEM = _SUBSYS_NFTABLES | 12
GETSETELEM = _SUBSYS_NFTABLES | 13
DELSETELEM = _SUBSYS_NFTABLES | 14
NEWGEN = _SUBSYS_NFTABLES | 15
GETGEN = _SUBSYS_NFTABLES | 16

_NESTED = 0x8000
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEM = 1
_KEY, _DATA, _FLAGS, _TIMEOUT, _USERDATA, _KEY_END = 1, 2, 3, 4, 6, 10
_VALUE, _VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_GEN_ID, _GEN_PID = 1, 2
_ERR_MESSAGE, _ERR_OFFSET = 1, 2

_CODES = {"drop": 0, "accept": 1, "continue": -1, "jump": -3, "goto": -4, "return": -5}
_VERDICTS = {code: word for word, code in _CODES.items()}
_COMMENT_MAX_BYTES = 127
# The list of elements is one attribute, whose 16-bit length caps a message at 64 KiB.
_MESSAGE_ROOM_BYTES = 60_000

_header = struct.Struct("=IHHII")
_attr = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set or map. ``key`` and ``value`` are raw bytes; fields of a concatenation are padded
    to 4 bytes each, a lone field is bare.

    ``value`` None: a set's element. ``verdict`` makes it a verdict map's: "accept", "drop", "goto CHAIN",
    "jump CHAIN". ``comment`` appears in `nft list`. ``key_end``: the last key of a range, for sets of
    concatenated intervals.
    """

    key: bytes
    value: bytes | None = None
    verdict: str = ""
    comment: str = ""
    timeout_s: float = 0.0
    key_end: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of the kernel. ``error`` is a positive errno, 0 for an acknowledgement."""

    kind: int
    sequence: int
    payload: bytes
    error: int = 0
    words: str = ""
    offset: int = 0  # of the attribute that the kernel refused, from the message's start; 0: not said
    interrupted: bool = False  # the ruleset changed during this dump: it may be inconsistent


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one netlink attribute, padded to 4 bytes."""
    size = 4 + len(payload)
    return _attr.pack(size, kind) + payload + b"\0" * (-size & 3)


def message(kind: int, flags: int, sequence: int, family: int, payload: bytes, resource: int = 0) -> bytes:
    """Return one nfnetlink message."""
    size = 20 + len(payload)
    return (
        _header.pack(size, kind, flags, sequence, 0) + struct.pack("=BB", family, 0)
        + struct.pack(">H", resource) + payload
    )  # fmt: skip


def ask_acknowledgement(sent: bytes) -> bytes:
    """Return the message with the flag that asks for an acknowledgement."""
    size, kind, flags, sequence, port = _header.unpack_from(sent)
    return _header.pack(size, kind, flags | NLM_F_ACK, sequence, port) + sent[_header.size :]


def batch(messages: Iterable[bytes], sequence: int) -> bytes:
    """Return the messages as one transaction. ``sequence`` numbers the frame's own two messages."""
    begin = message(_BATCH_BEGIN, NLM_F_REQUEST, sequence, 0, b"", 10)
    end = message(_BATCH_END, NLM_F_REQUEST, sequence, 0, b"", 10)
    return b"".join((begin, *messages, end))


BATCH_FRAME_BYTES = 40


def encode_verdict(verdict: str) -> bytes:
    """Return the payload of a data attribute that carries a verdict. Raises ValueError."""
    word, _, chain = verdict.partition(" ")
    if word not in _CODES or bool(chain) != (word in ("jump", "goto")):
        raise ValueError(f"not a verdict: {verdict!r}")
    inner = attribute(_VERDICT_CODE, struct.pack(">i", _CODES[word]))
    if chain:
        inner += attribute(_VERDICT_CHAIN, chain.encode() + b"\0")
    return attribute(_VERDICT | _NESTED, inner)


@lru_cache(maxsize=256)
def _layout(key: int, value: int, comment: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what stands before the key, the value and the comment, and at the end, for these lengths.

    All elements of a set look alike; only the contents differ. The lengths of key and value are padded ones.
    """
    inner = _attr.pack(8 + key, _KEY | _NESTED) + _attr.pack(4 + key, _VALUE)
    middle = _attr.pack(8 + value, _DATA | _NESTED) + _attr.pack(4 + value, _VALUE)
    tail = _attr.pack(7 + comment, _USERDATA) + struct.pack("BB", 0, comment + 1)
    end = b"\0" * (1 + (-(7 + comment) & 3))
    size = 4 + len(inner) + key + len(middle) + value + len(tail) + comment + len(end)
    return _attr.pack(size, _LIST_ELEM | _NESTED) + inner, middle, tail, end


@lru_cache(maxsize=64)
def _cut_comment(comment: str) -> bytes:
    return comment.encode()[:_COMMENT_MAX_BYTES].decode("utf-8", "ignore").encode()


def encode_element(element: Element) -> bytes:
    """Return one element of a NEWSETELEM message."""
    key, value = element.key, element.value
    if (
        value is not None and element.comment and not element.verdict and not element.timeout_s
        and element.key_end is None and not (len(key) | len(value)) & 3
    ):  # fmt: skip
        text = _cut_comment(element.comment)
        head, middle, tail, end = _layout(len(key), len(value), len(text))
        return b"".join((head, key, middle, value, tail, text, end))
    parts = [attribute(_KEY | _NESTED, attribute(_VALUE, element.key))]
    if element.key_end is not None:
        parts.append(attribute(_KEY_END | _NESTED, attribute(_VALUE, element.key_end)))
    if element.verdict:
        parts.append(attribute(_DATA | _NESTED, encode_verdict(element.verdict)))
    elif element.value is not None:
        parts.append(attribute(_DATA | _NESTED, attribute(_VALUE, element.value)))
    if element.timeout_s:
        parts.append(attribute(_TIMEOUT, struct.pack(">Q", round(element.timeout_s * 1000))))
    if element.comment:
        text = _cut_comment(element.comment) + b"\0"
        parts.append(attribute(_USERDATA, struct.pack("BB", 0, len(text)) + text))
    return attribute(_LIST_ELEM | _NESTED, b"".join(parts))


def encode_key(element: Element) -> bytes:
    """Return one element of a DELSETELEM message: the key alone."""
    inner = attribute(_KEY | _NESTED, attribute(_VALUE, element.key))
    if element.key_end is not None:
        inner += attribute(_KEY_END | _NESTED, attribute(_VALUE, element.key_end))
    return attribute(_LIST_ELEM | _NESTED, inner)


def element_messages(
    kind: int, family: str, table: str, set: str, encoded: Sequence[bytes], sequence: int
) -> Iterator[tuple[bytes, int]]:
    """Yield the messages that carry ``encoded`` elements, each with the number of elements in it.

    Sequence numbers count up from ``sequence``; every message asks for an acknowledgement.
    """
    names = attribute(_LIST_TABLE, table.encode() + b"\0") + attribute(_LIST_SET, set.encode() + b"\0")
    flags = NLM_F_REQUEST | NLM_F_ACK | (NLM_F_CREATE if kind == NEWSETELEM else 0)
    start = 0
    while start < len(encoded):
        end, room = start, _MESSAGE_ROOM_BYTES
        while end < len(encoded) and (room := room - len(encoded[end])) >= 0:
            end += 1
        end = max(end, start + 1)
        body = names + attribute(_LIST_ELEMENTS | _NESTED, b"".join(encoded[start:end]))
        yield message(kind, flags, sequence, FAMILIES[family], body), end - start
        sequence, start = sequence + 1, end


def refused_element(sent: bytes, offset: int) -> int:
    """Return which element of a message the kernel's ``offset`` points into; -1 when into none.

    ``sent`` is a message of ``element_messages``.
    """
    position = 20
    while position + 4 <= len(sent):
        size, kind = _attr.unpack_from(sent, position)
        if kind & 0x3FFF == _LIST_ELEMENTS:
            return _nth_attribute(sent, position + 4, position + size, offset)
        position += (size + 3) & ~3
    return -1


def _nth_attribute(sent: bytes, start: int, end: int, offset: int) -> int:
    index = 0
    while start + 4 <= end:
        size = (_attr.unpack_from(sent, start)[0] + 3) & ~3
        if size < 4:
            return -1
        if start <= offset < start + size:
            return index
        start, index = start + size, index + 1
    return -1


def dump_elements(family: str, table: str, set: str, sequence: int) -> bytes:
    """Return the request for every element of a set or map."""
    body = attribute(_LIST_TABLE, table.encode() + b"\0") + attribute(_LIST_SET, set.encode() + b"\0")
    return message(GETSETELEM, NLM_F_REQUEST | NLM_F_DUMP, sequence, FAMILIES[family], body)


def query_generation(sequence: int) -> bytes:
    """Return the request for the ruleset's generation."""
    return message(GETGEN, NLM_F_REQUEST, sequence, 0, b"")


def parse_replies(raw: bytes) -> Iterator[Reply]:
    """Yield the messages of one datagram. Stops at a truncated one."""
    position = 0
    while position + 16 <= len(raw):
        size, kind, flags, sequence, _ = _header.unpack_from(raw, position)
        if size < 16 or position + size > len(raw):
            return
        body = raw[position + 16 : position + size]
        if kind in (NLMSG_ERROR, NLMSG_DONE) and len(body) >= 4:
            yield _parse_error(kind, flags, sequence, body)
        else:
            yield Reply(kind, sequence, body[4:], interrupted=bool(flags & NLM_F_DUMP_INTR))
        position += (size + 3) & ~3


def _parse_error(kind: int, flags: int, sequence: int, body: bytes) -> Reply:
    error = -struct.unpack_from("=i", body)[0]
    words, offset = "", 0
    if kind == NLMSG_ERROR and flags & NLM_F_ACK_TLVS and len(body) >= 20:
        echoed = 16 if flags & NLM_F_CAPPED else struct.unpack_from("=I", body, 4)[0]
        for attr, payload in parse_attributes(body[4 + ((echoed + 3) & ~3) :]):
            if attr == _ERR_MESSAGE:
                words = payload.rstrip(b"\0").decode("utf-8", "replace")
            elif attr == _ERR_OFFSET and len(payload) == 4:
                offset = struct.unpack("=I", payload)[0]
    return Reply(kind, sequence, b"", error, words, offset)


def parse_attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, payload) of each attribute. Stops at a truncated one."""
    position = 0
    while position + 4 <= len(raw):
        size, kind = _attr.unpack_from(raw, position)
        if size < 4 or position + size > len(raw):
            return
        yield kind & 0x3FFF, raw[position + 4 : position + size]
        position += (size + 3) & ~3


def parse_elements(payload: bytes) -> Iterator[Element]:
    """Yield the elements of one NEWSETELEM message, as a dump sends them."""
    for kind, body in parse_attributes(payload):
        if kind == _LIST_ELEMENTS:
            for _, element in parse_attributes(body):
                found = _parse_element(dict(parse_attributes(element)))
                if found is not None:
                    yield found


def _parse_element(fields: dict[int, bytes]) -> Element | None:
    if _KEY not in fields:  # the catch-all element
        return None
    value, verdict = None, ""
    if _DATA in fields:
        value, verdict = _parse_data(fields[_DATA])
    comment = ""
    if _USERDATA in fields and len(fields[_USERDATA]) > 2 and fields[_USERDATA][0] == 0:
        comment = fields[_USERDATA][2:].rstrip(b"\0").decode("utf-8", "replace")
    timeout_s = struct.unpack(">Q", fields[_TIMEOUT])[0] / 1000 if _TIMEOUT in fields else 0.0
    key_end = dict(parse_attributes(fields[_KEY_END])).get(_VALUE) if _KEY_END in fields else None
    key = dict(parse_attributes(fields[_KEY])).get(_VALUE, b"")
    return Element(key, value, verdict, comment, timeout_s, key_end)


def _parse_data(raw: bytes) -> tuple[bytes | None, str]:
    inner = dict(parse_attributes(raw))
    if _VERDICT not in inner:
        return inner.get(_VALUE), ""
    fields = dict(parse_attributes(inner[_VERDICT]))
    word = _VERDICTS.get(struct.unpack(">i", fields[_VERDICT_CODE])[0], "unknown")
    chain = fields.get(_VERDICT_CHAIN, b"").rstrip(b"\0").decode()
    return None, f"{word} {chain}".rstrip()


def parse_generation(payload: bytes) -> tuple[int, int]:
    """Return the generation's number and the process that made it."""
    fields = dict(parse_attributes(payload))
    number = struct.unpack(">I", fields[_GEN_ID])[0]
    return number, struct.unpack(">I", fields[_GEN_PID])[0] if _GEN_PID in fields else 0
