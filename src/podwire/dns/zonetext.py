"""Zone files and single records as text (RFC 1035 §5) -> records. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address

from podwire.model.errors import BadInput, Problem
from podwire.wire import dns as wire

_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s;()"]+)|([()])|;.*')
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_seconds(text: str) -> int | None:
    """Return the seconds of "3600" or "1h30m"; None when the text is no duration."""
    if text.isdigit():
        return int(text)
    if not re.fullmatch(r"(\d+[smhdw])+", text.lower()):
        return None
    return sum(int(n) * _UNITS[u] for n, u in re.findall(r"(\d+)([smhdw])", text.lower()))


def absolute(text: str, origin: bytes) -> bytes:
    """Return a name: as it stands with a final dot, else below ``origin``; "@" is the origin. Raises Malformed."""
    if text == "@":
        return origin
    name = wire.encode_name(text)
    if text.endswith(".") and not text.endswith("\\."):
        return name
    if len(name) + len(origin) - 1 > 255:
        raise wire.Malformed(f"name of more than 255 octets: {text!r}")
    return name[:-1] + origin


def parse_record(text: str, origin: bytes = wire.ROOT, ttl_s: int = 3600) -> wire.Record:
    """Return the record that "web 30 IN A 10.0.0.1" describes. Raises Malformed."""
    words = [m[1] if m[1] is not None else m[2] for m in _TOKEN.finditer(text) if m[1] is not None or m[2]]
    if len(words) < 3:
        raise wire.Malformed(f"expected NAME [TTL] [CLASS] TYPE DATA, not {text!r}")
    return _record(absolute(words[0], origin), words[1:], origin, ttl_s)


def _record(name: bytes, words: Sequence[str], origin: bytes, ttl_s: int) -> wire.Record:
    rest = list(words)
    while rest and rest[0].upper() not in _DATA:
        seconds = parse_seconds(rest[0])
        if seconds is not None:
            ttl_s = seconds
        elif rest[0].upper() != "IN":
            raise wire.Malformed(f"{rest[0]!r} is neither a TTL, a class nor one of {', '.join(_DATA)}")
        rest.pop(0)
    if len(rest) < 2:
        raise wire.Malformed("expected TYPE DATA")
    kind = rest[0].upper()
    try:
        return wire.Record(name, wire.TYPES[kind], ttl_s, _DATA[kind](rest[1:], origin))
    except (ValueError, IndexError) as error:
        raise wire.Malformed(f"{kind} {' '.join(rest[1:])}: {error or 'too few values'}") from None


def _srv(words: Sequence[str], origin: bytes) -> bytes:
    return wire.srv_data(int(words[0]), int(words[1]), int(words[2]), absolute(words[3], origin))


def _soa(words: Sequence[str], origin: bytes) -> bytes:
    numbers = [parse_seconds(w) for w in words[2:7]]
    if len(numbers) != 5 or None in numbers:
        raise ValueError("five numbers are expected")
    serial, refresh, retry, expire, minimum = (n or 0 for n in numbers)
    return wire.soa_data(
        absolute(words[0], origin), absolute(words[1], origin), serial, refresh, retry, expire, minimum
    )


def _name(words: Sequence[str], origin: bytes) -> bytes:
    return absolute(words[0], origin)


_DATA: dict[str, Callable[[Sequence[str], bytes], bytes]] = {
    "A": lambda w, o: IPv4Address(w[0]).packed,
    "AAAA": lambda w, o: IPv6Address(w[0]).packed,
    "CNAME": _name, "NS": _name, "PTR": _name,
    "MX": lambda w, o: int(w[0]).to_bytes(2, "big") + absolute(w[1], o),
    "TXT": lambda w, o: wire.txt_data(*w),
    "HINFO": lambda w, o: wire.txt_data(w[0], w[1]),
    "SRV": _srv, "SOA": _soa,
}  # fmt: skip


def parse_zone(text: str, origin: str, source: str) -> list[wire.Record]:
    """Return the records of a zone file: $ORIGIN, $TTL, parentheses, comments, inherited owners. Raises BadInput."""
    at, ttl_s, owner = wire.encode_name(origin), 3600, wire.encode_name(origin)
    records: list[wire.Record] = []
    for number, indented, words in _lines(text):
        try:
            if words[0] == "$ORIGIN":
                at = absolute(words[1], at)
            elif words[0] == "$TTL":
                seconds = parse_seconds(words[1])
                if seconds is None:
                    raise wire.Malformed(f"{words[1]!r} is not a TTL")
                ttl_s = seconds
            elif words[0].startswith("$"):
                raise wire.Malformed(f"{words[0]} is not supported")
            else:
                if not indented:
                    owner, words = absolute(words[0], at), words[1:]
                records.append(_record(owner, words, at, ttl_s))
        except (wire.Malformed, IndexError) as error:
            raise BadInput(Problem(source, f"line {number}", str(error) or "a value is missing")) from None
    return records


def _lines(text: str) -> list[tuple[int, bool, list[str]]]:
    """Return (line number, whether it begins with a blank, words); parentheses join lines."""
    found: list[tuple[int, bool, list[str]]] = []
    words: list[str] = []
    depth, start, indented = 0, 0, False
    for number, line in enumerate(text.splitlines(), 1):
        if not depth:
            words, start, indented = [], number, line[:1].isspace()
        for m in _TOKEN.finditer(line):
            if m[3]:
                depth = max(0, depth + (1 if m[3] == "(" else -1))
            elif m[1] is not None or m[2]:
                words.append(m[1] if m[1] is not None else m[2])
        if words and not depth:
            found.append((start, indented, words))
    if depth:
        found.append((start, indented, [*words, ")"]))
    return found
