"""nf_tables messages for chains, rules and sets: as much of the rule language as packet filters by address,
protocol and port need.

Source: linux/netfilter/nf_tables.h. The expressions are those that nft itself compiles such rules to, so
`nft list` turns them back into its own syntax.

Every rule ends in a verdict, and verdicts that end a packet's way are counted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, TypeAlias

from podwire.wire.nfnetlink import (
    FAMILIES,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    attribute,
    encode_verdict,
    message,
)

Field = Literal["saddr", "daddr", "dport"]
_NESTED = 0x8000
_NLM_F_APPEND = 0x800
_SUBSYS = 10 << 8
_NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE, _NEWSET, _DELSET = (_SUBSYS | n for n in (3, 5, 6, 8, 9, 11))
_META_NFPROTO, _META_L4PROTO = 15, 16
_EQ, _NEQ, _LTE, _GTE = 0, 1, 3, 5
_NETWORK, _TRANSPORT = 1, 2
_ADDRESS = {4: {"saddr": 12, "daddr": 16}, 6: {"saddr": 8, "daddr": 24}}
_ADDRESS_BYTES = {4: 4, 6: 16}
_NFPROTO = {4: 2, 6: 10}
_WORDS = {6: "tcp", 17: "udp", 132: "sctp"}
# nft's own numbers for what a set's key is made of, and the bytes that each takes.
_KINDS = {"ipv4_addr": (7, 4), "ipv6_addr": (8, 16), "inet_proto": (12, 1), "inet_service": (13, 2)}
_SET_MAP, _SET_CONCAT = 0x8, 0x80
_DATA_VERDICT = 0xFFFFFF00
_USERDATA_SET_COMMENT = 7


@dataclass(frozen=True, slots=True)
class InSet:
    """The packet's fields, joined, are an element of a set. ``version`` is that of its addresses."""

    version: int
    fields: tuple[Field, ...]
    set: str


@dataclass(frozen=True, slots=True)
class InNetwork:
    """The packet's address is in a network, or (``negated``) is IP of the same version and outside it."""

    field: Literal["saddr", "daddr"]
    network: IPv4Network | IPv6Network
    negated: bool = False


@dataclass(frozen=True, slots=True)
class OfProtocol:
    """The transport protocol, by number."""

    protocol: int


@dataclass(frozen=True, slots=True)
class ToPort:
    """The destination port is in a range, both ends included."""

    first: int
    last: int


Match: TypeAlias = InSet | InNetwork | OfProtocol | ToPort


@dataclass(frozen=True, slots=True)
class FilterRule:
    """All of ``matches``, then the verdict: "accept", "drop", "return", "jump CHAIN", "goto CHAIN"."""

    matches: tuple[Match, ...]
    verdict: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class SetKind:
    """What a set's elements are: the types of the key, joined; a verdict map if ``verdicts``."""

    types: tuple[str, ...]
    verdicts: bool = False
    comment: str = ""


# --- what nft would print


def describe_rule(rule: FilterRule) -> str:
    """Return the rule in nft's syntax, as `nft list` prints it, without the counter's numbers."""
    words: list[str] = []
    for i, match in enumerate(rule.matches):
        match match:
            case InNetwork(field, network, negated):
                length = network.prefixlen == network.max_prefixlen
                shown = str(network.network_address) if length else str(network)
                words.append(f"{_ip(network.version)} {field} {'!= ' if negated else ''}{shown}")
            case InSet(version, fields, name):
                words.append(f"{' . '.join(_field(version, f, rule) for f in fields)} @{name}")
            case OfProtocol(protocol):
                if not any(isinstance(m, ToPort) or _has_port(m) for m in rule.matches[i + 1 :]):
                    words.append(f"meta l4proto {_WORDS.get(protocol, protocol)}")
            case ToPort(first, last):
                words.append(f"{_transport(rule)} dport {first if first == last else f'{first}-{last}'}")
    if rule.verdict in ("accept", "drop"):
        words.append("counter")
    words.append(rule.verdict)
    if rule.comment:
        words.append(f'comment "{rule.comment}"')
    return " ".join(words)


def _has_port(match: Match) -> bool:
    return isinstance(match, InSet) and "dport" in match.fields


def _field(version: int, field: Field, rule: FilterRule) -> str:
    return f"{_transport(rule)} dport" if field == "dport" else f"{_ip(version)} {field}"


def _ip(version: int) -> str:
    return "ip6" if version == 6 else "ip"


def _transport(rule: FilterRule) -> str:
    return next((_WORDS[m.protocol] for m in rule.matches if isinstance(m, OfProtocol)), "th")


# --- expressions


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


@lru_cache(4096)
def _expression(name: str, body: bytes) -> bytes:
    inner = attribute(1, name.encode() + b"\0") + attribute(2 | _NESTED, body)
    return attribute(1 | _NESTED, inner)


def _meta(key: int) -> bytes:
    return _expression("meta", _u32(2, key) + _u32(1, 1))


def _payload(register: int, base: int, offset: int, length: int) -> bytes:
    return _expression("payload", _u32(1, register) + _u32(2, base) + _u32(3, offset) + _u32(4, length))


def _compare(operation: int, value: bytes) -> bytes:
    return _expression("cmp", _u32(1, 1) + _u32(2, operation) + attribute(3 | _NESTED, attribute(1, value)))


def _lookup(name: str) -> bytes:
    return _expression("lookup", attribute(1, name.encode() + b"\0") + _u32(2, 1))


def _mask(mask: bytes) -> bytes:
    zero = attribute(1, bytes(len(mask)))
    body = _u32(1, 1) + _u32(2, 1) + _u32(3, len(mask))
    return _expression("bitwise", body + attribute(4 | _NESTED, attribute(1, mask)) + attribute(5 | _NESTED, zero))


def _of_version(version: int) -> bytes:
    return _meta(_META_NFPROTO) + _compare(_EQ, bytes([_NFPROTO[version]]))


@lru_cache(4096)
def encode_match(match: Match) -> bytes:
    """Return the expressions of one condition, without those on the IP version."""
    match match:
        case InSet(version, fields, name):
            return b"".join(_load_fields(version, fields)) + _lookup(name)
        case InNetwork(field, network, negated):
            version = network.version
            load = _payload(1, _NETWORK, _ADDRESS[version][field], _ADDRESS_BYTES[version])
            masked = b"" if network.prefixlen == network.max_prefixlen else _mask(network.netmask.packed)
            return load + masked + _compare(_NEQ if negated else _EQ, network.network_address.packed)
        case OfProtocol(protocol):
            return _meta(_META_L4PROTO) + _compare(_EQ, bytes([protocol]))
        case ToPort(first, last):
            load = _payload(1, _TRANSPORT, 2, 2)
            if first == last:
                return load + _compare(_EQ, struct.pack(">H", first))
            return load + _compare(_GTE, struct.pack(">H", first)) + _compare(_LTE, struct.pack(">H", last))


def _load_fields(version: int, fields: tuple[Field, ...]) -> Iterator[bytes]:
    """Load the fields side by side: the first into register 1, the others into the 4-byte ones after it."""
    words = 0
    for field in fields:
        register = 1 if words == 0 else 8 + words
        if field == "dport":
            yield _payload(register, _TRANSPORT, 2, 2)
            words += 1
        else:
            yield _payload(register, _NETWORK, _ADDRESS[version][field], _ADDRESS_BYTES[version])
            words += _ADDRESS_BYTES[version] // 4


def _version_of(match: Match) -> int:
    """Return the IP version that a condition supposes; 0: none."""
    if isinstance(match, InNetwork):
        return match.network.version
    return match.version if isinstance(match, InSet) else 0


def encode_expressions(rule: FilterRule) -> bytes:
    """Return the expressions of a rule: dependencies, conditions, counter, verdict."""
    versions = {_version_of(m) for m in rule.matches} - {0}
    parts = [_of_version(v) for v in sorted(versions)]
    parts += [encode_match(m) for m in rule.matches]
    if rule.verdict in ("accept", "drop"):
        parts.append(_expression("counter", b""))
    parts.append(_expression("immediate", _u32(1, 0) + attribute(2 | _NESTED, encode_verdict(rule.verdict))))
    return b"".join(parts)


# --- messages. None asks for an acknowledgement: thousands of them would not fit a socket's buffer in a user
# namespace. Refusals are told all the same; who sends a batch asks for one acknowledgement at its end.


def _name(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _request(kind: int, family: str, sequence: int, body: bytes, flags: int = 0) -> bytes:
    return message(kind, NLM_F_REQUEST | flags, sequence, FAMILIES[family], body)


def new_chain(family: str, table: str, chain: str, sequence: int) -> bytes:
    """Return the message that makes a chain, if it is not there."""
    return _request(_NEWCHAIN, family, sequence, _name(1, table) + _name(3, chain), NLM_F_CREATE)


def delete_chain(family: str, table: str, chain: str, sequence: int) -> bytes:
    """Return the message that deletes a chain; its rules must be gone, and whatever leads to it."""
    return _request(_DELCHAIN, family, sequence, _name(1, table) + _name(3, chain))


def flush_chain(family: str, table: str, chain: str, sequence: int) -> bytes:
    """Return the message that deletes all rules of a chain."""
    return _request(_DELRULE, family, sequence, _name(1, table) + _name(2, chain))


def new_rule(family: str, table: str, chain: str, rule: FilterRule, sequence: int) -> bytes:
    """Return the message that adds a rule at the end of a chain."""
    body = _name(1, table) + _name(2, chain) + attribute(4 | _NESTED, encode_expressions(rule))
    if rule.comment:
        text = rule.comment.encode()[:_COMMENT_MAX_BYTES].decode("utf-8", "ignore").encode() + b"\0"
        body += attribute(7, struct.pack("BB", 0, len(text)) + text)
    return _request(_NEWRULE, family, sequence, body, NLM_F_CREATE | _NLM_F_APPEND)


_COMMENT_MAX_BYTES = 127


def new_set(family: str, table: str, name: str, kind: SetKind, sequence: int) -> bytes:
    """Return the message that makes a set or a verdict map, if it is not there."""
    type_number, length = 0, 0
    for word in kind.types:
        number, size = _KINDS[word]
        type_number = type_number << 6 | number
        length += (size + 3) & ~3 if len(kind.types) > 1 else size
    flags = (_SET_MAP if kind.verdicts else 0) | (_SET_CONCAT if len(kind.types) > 1 else 0)
    body = _name(1, table) + _name(2, name) + _u32(3, flags) + _u32(4, type_number) + _u32(5, length)
    if kind.verdicts:
        body += _u32(6, _DATA_VERDICT) + _u32(7, 0)
    body += _u32(10, sequence)
    if len(kind.types) > 1:
        lengths = b"".join(attribute(1 | _NESTED, _u32(1, _KINDS[w][1])) for w in kind.types)
        body += attribute(9 | _NESTED, attribute(2 | _NESTED, lengths))
    if kind.comment:
        text = kind.comment.encode()[:_COMMENT_MAX_BYTES].decode("utf-8", "ignore").encode() + b"\0"
        body += attribute(13, struct.pack("BB", _USERDATA_SET_COMMENT, len(text)) + text)
    return _request(_NEWSET, family, sequence, body, NLM_F_CREATE)


def delete_set(family: str, table: str, name: str, sequence: int) -> bytes:
    """Return the message that deletes a set with its elements; no rule may use it."""
    return _request(_DELSET, family, sequence, _name(1, table) + _name(2, name))
