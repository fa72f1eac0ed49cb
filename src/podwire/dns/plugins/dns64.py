"""dns64 [PREFIX] { prefix P; translate_all; allow_ipv4 }: AAAA out of A for clients without IPv4 (RFC 6147)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv6Network

from podwire.dns.responder import Outcome, Plugin, Query, Responder, Step, and_then, retyped
from podwire.dns.words import Directive, Word, argument, wrong
from podwire.wire import dns as wire

_LENGTHS = (32, 40, 48, 56, 64, 96)


_WELL_KNOWN = IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1


@dataclass(frozen=True, slots=True)
class Dns64:
    """The directive."""

    prefix: IPv6Network = _WELL_KNOWN
    translate_all: bool = False
    allow_ipv4: bool = False


def parse(d: Directive, source: str) -> Dns64:
    """Return the directive. Raises BadInput."""
    made = Dns64()
    if len(d.words) > 1:
        made = replace(made, prefix=_parse_prefix(argument(d.words, source), source))
    for line in d.block:
        if line[0].text == "prefix":
            made = replace(made, prefix=_parse_prefix(argument(line, source), source))
        elif line[0].text in ("translate_all", "allow_ipv4") and len(line) == 1:
            made = replace(made, **{line[0].text: True})  # type: ignore[arg-type]
        else:
            raise wrong(source, line[0], "expected prefix PREFIX, translate_all or allow_ipv4")
    return made


def _parse_prefix(word: Word, source: str) -> IPv6Network:
    try:
        prefix = IPv6Network(word.text)
    except ValueError:
        prefix = None
    if prefix is None or prefix.prefixlen not in _LENGTHS:
        raise wrong(
            source, word, f"{word.text!r}: an IPv6 prefix of length {', '.join(map(str, _LENGTHS))} is expected"
        )
    return prefix


def embed(prefix: IPv6Network, address: bytes) -> bytes:
    """Return the IPv6 address that stands for an IPv4 one (RFC 6052 §2.2: octet 8 stays zero)."""
    before = prefix.prefixlen // 8
    if prefix.prefixlen == 96:
        return prefix.network_address.packed[:12] + address
    room = 8 - before
    return (prefix.network_address.packed[:before] + address[:room] + b"\0" + address[room:]).ljust(16, b"\0")


def plugin(dns64: Dns64, responder: Responder) -> Plugin:
    """Return what looks for A where there is no AAAA."""

    def translate(query: Query, next: Step) -> Outcome:
        asked = query.asked
        if asked.type != wire.AAAA or (not dns64.allow_ipv4 and ":" not in query.client):
            return next(query)

        def judge(raw: bytes) -> Outcome:
            if raw[3] & 15 != wire.NOERROR:
                return raw  # a name that is not there has no address of any family
            if not dns64.translate_all and any(r.type == wire.AAAA for r in wire.decode_message(raw).answer):
                return raw
            plain = next(replace(query, asked=retyped(asked, wire.A)))
            return and_then(plain, lambda found: synthesize(query, raw, found))

        return and_then(next(query), judge)

    def synthesize(query: Query, empty: bytes, raw: bytes) -> bytes:
        found = wire.decode_message(raw)
        if not any(r.type == wire.A for r in found.answer):
            return empty
        records = tuple(
            replace(r, type=wire.AAAA, rdata=embed(dns64.prefix, r.rdata)) if r.type == wire.A else r
            for r in found.answer
        )
        return responder.assemble_records(query.asked, found, wire.encode_records(records), query.protocol)

    return translate
