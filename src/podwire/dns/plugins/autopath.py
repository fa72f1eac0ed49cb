"""autopath [ZONE...] RESOLV-CONF|@kubernetes: the search path is walked here, in one query instead of eight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from podwire.dns.responder import Outcome, Plugin, Query, Responder, Step, and_then, asking
from podwire.dns.words import Directive, wrong
from podwire.wire import dns as wire


@dataclass(frozen=True, slots=True)
class Autopath:
    """The directive. ``source``: "@kubernetes" (the client pod's own path), or a resolv.conf."""

    zones: tuple[bytes, ...]
    source: str


def parse(d: Directive, source: str) -> Autopath:
    """Return the directive. Raises BadInput."""
    if d.block or len(d.words) < 2:
        raise wrong(source, d.words[0], "expected autopath [ZONE...] RESOLV-CONF or @kubernetes")
    last = d.words[-1]
    if last.text != "@kubernetes" and not last.text.startswith("/"):
        raise wrong(source, last, f"{last.text!r} is neither a path nor @kubernetes")
    zones = tuple(wire.encode_name(w.text).lower() for w in d.words[1:-1])
    return Autopath(zones or (wire.ROOT,), last.text)


def plugin(autopath: Autopath, search_of: Callable[[str], Sequence[bytes]], responder: Responder) -> Plugin:
    """Return what tries the client's whole search path when its first name does not exist.

    ``search_of``: a client's search domains, in order; () when its path is not known.
    """

    def walk(query: Query, next: Step) -> Outcome:
        asked = query.asked
        if asked.type not in (wire.A, wire.AAAA) or not any(wire.is_within(asked.name, z) for z in autopath.zones):
            return next(query)
        search = search_of(query.client)
        if not search or not wire.is_within(asked.name, search[0]) or asked.name == search[0]:
            return next(query)
        base = asked.name[: len(asked.name) - len(search[0])]
        rest = [base + domain for domain in (*search[1:], wire.ROOT)]
        return and_then(next(query), lambda raw: _go_on(query, raw, raw, rest, next))

    def _go_on(query: Query, first: bytes, raw: bytes, rest: list[bytes], next: Step) -> Outcome:
        if raw[3] & 15 != wire.NXDOMAIN:
            return raw if raw is first else _as_alias(query, raw)
        if not rest:
            return first
        return and_then(
            next(Query(asking(query.asked, rest[0]), query.protocol, query.client)),
            lambda raw: _go_on(query, first, raw, rest[1:], next),
        )

    def _as_alias(query: Query, raw: bytes) -> bytes:
        """The answer to another name than asked: a CNAME leads from the one to the other."""
        found = wire.decode_message(raw)
        target = found.question[0].name
        tail = wire.record_tail(wire.CNAME, min((r.ttl_s for r in found.answer), default=0), target)
        records = ((query.asked.owner + tail), *wire.encode_records(found.answer))
        return responder.assemble_records(query.asked, found, records, query.protocol)

    return walk
