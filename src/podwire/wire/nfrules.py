"""nf_tables rules as bytes, for what `nft` cannot write: expressions over registers (linux/netfilter/nf_tables.h).

Registers are numbered by 4 bytes, 0 to 15. Integers of nf_tables are in network order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from podwire.wire.nfnetlink import FAMILIES, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, attribute, message

NEWRULE = 10 << 8 | 6
_NLM_F_APPEND = 0x800
_NESTED = 0x8000
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_LIST_ELEM, _EXPR_NAME, _EXPR_DATA = 1, 1, 2
_REGISTER_0 = 8  # NFT_REG32_00

CT_PROTO_DST, CT_SRC_IP6, CT_DST_IP6 = 12, 21, 22
META_L4PROTO = 16
NETWORK, TRANSPORT = 1, 2
_ORIGINAL = 0
_DYNSET_UPDATE = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule to append to a chain: encoded expressions, worked off in order."""

    family: str
    table: str
    chain: str
    expressions: tuple[bytes, ...]


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _expression(name: str, *attributes: bytes) -> bytes:
    inner = attribute(_EXPR_NAME, name.encode() + b"\0") + attribute(_EXPR_DATA | _NESTED, b"".join(attributes))
    return attribute(_LIST_ELEM | _NESTED, inner)


def load_original(key: int, register: int) -> bytes:
    """Return the expression that loads CT_SRC_IP6 ... of a flow's original direction."""
    direction = attribute(3, bytes([_ORIGINAL]))
    return _expression("ct", _number(1, _REGISTER_0 + register), _number(2, key), direction)


def load_meta(key: int, register: int) -> bytes:
    """Return the expression that loads META_L4PROTO ..."""
    return _expression("meta", _number(2, key), _number(1, _REGISTER_0 + register))


def load_payload(base: int, offset: int, size: int, register: int) -> bytes:
    """Return the expression that loads bytes of the NETWORK or TRANSPORT header."""
    return _expression(
        "payload", _number(1, _REGISTER_0 + register), _number(2, base), _number(3, offset), _number(4, size)
    )


def update_map(name: str, key_register: int, value_register: int, timeout_s: int) -> bytes:
    """Return the expression that puts key and value into a map, or refreshes the key's timeout."""
    return _expression(
        "dynset",
        attribute(1, name.encode() + b"\0"),
        _number(3, _DYNSET_UPDATE),
        _number(4, _REGISTER_0 + key_register),
        _number(5, _REGISTER_0 + value_register),
        attribute(6, struct.pack(">Q", timeout_s * 1000)),
    )


def encode_rule(rule: Rule, sequence: int) -> bytes:
    """Return the message that appends the rule and asks for an acknowledgement."""
    body = (
        attribute(_RULE_TABLE, rule.table.encode() + b"\0")
        + attribute(_RULE_CHAIN, rule.chain.encode() + b"\0")
        + attribute(_RULE_EXPRESSIONS | _NESTED, b"".join(rule.expressions))
    )
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | _NLM_F_APPEND
    return message(NEWRULE, flags, sequence, FAMILIES[rule.family], body)
