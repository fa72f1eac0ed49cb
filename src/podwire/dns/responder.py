"""Query bytes -> answer bytes. No socket, no clock: what a DNS server decides, and nothing else.

RFC 1035; 2308 (negative answers), 6891 (EDNS), 8482 (ANY), 8914 (why), draft vixie-dnsext-dns0x20 (case).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from podwire.dns.desired import Answer
from podwire.dns.index import Index
from podwire.wire import dns as wire

OUR_UDP_BYTES = 1232  # DNS flag day 2020: fits any path unfragmented
_MAX_HOPS = 4
_MAX_KNOWN, _MAX_KNOWN_BYTES = 16384, 160
_NAMED_TYPES = frozenset(wire.TYPES.values())
_POINTER = b"\xc0\x0c"  # to the question's name
_QUESTION_ENDS = struct.Struct(">HH")
_NOT_READY, _NO_REACHABLE = 14, 22  # RFC 8914


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, understood as far as an answer needs it."""

    raw: bytes
    id: bytes
    flags: int
    question: bytes  # as sent: name, type, class
    name: bytes  # lower case
    type: int
    edns: wire.Edns | None
    limit_bytes: int  # of the answer

    @property
    def owner(self) -> bytes:
        """The name in the case in which it was asked."""
        return self.question[:-4]


@dataclass(frozen=True, slots=True)
class Forward:
    """A query that an upstream must answer: ``query`` with any id.

    ``then`` makes of the upstream's answer what the client gets, or a further query: aliases are followed and
    rewritten names are turned back there.
    """

    asked: Asked
    query: bytes
    then: Callable[[bytes], Outcome] | None = None


Outcome: TypeAlias = "bytes | Forward | None"
"""Answer bytes; a query for somebody else; None: silence."""


@dataclass(frozen=True, slots=True)
class Query:
    """What travels through the plugins: the query, how it came, and from whom ("" when nobody needs to know)."""

    asked: Asked
    protocol: str
    client: str = ""
    hops: int = 0  # how many aliases have led here


Step: TypeAlias = Callable[[Query], Outcome]
Plugin: TypeAlias = Callable[[Query, Step], Outcome]


def and_then(outcome: Outcome, act: Callable[[bytes], Outcome]) -> Outcome:
    """Return ``act`` of the answer, now or when the upstream has given it."""
    if outcome is None:
        return None
    if not isinstance(outcome, Forward):
        return act(outcome)
    before = outcome.then

    def both(raw: bytes) -> Outcome:
        return act(raw) if before is None else and_then(before(raw), act)

    return replace(outcome, then=both)


def chain(plugins: Sequence[Plugin], last: Step) -> Step:
    """Return the step that passes a query through the plugins, the first one outermost."""
    for plugin in reversed(plugins):
        last = partial(_call, plugin, last)
    return last


def _call(plugin: Plugin, next: Step, query: Query) -> Outcome:
    return plugin(query, next)


class Responder:
    """Answers from an index. ``synced`` False: SERVFAIL for the cluster's names, for NXDOMAIN would be a lie."""

    def __init__(
        self,
        index: Index,
        *,
        serve_cluster: bool = True,
        fallthrough: Sequence[str] = ("in-addr.arpa", "ip6.arpa"),
        rotate: bool = True,
        by_client: bool = False,
        udp_bytes: int = OUR_UDP_BYTES,
    ) -> None:
        """``fallthrough``: zones of the index whose unknown names are forwarded. ``by_client``: answers may
        depend on who asks, or are to be seen one by one: none is reused."""
        self.index = index
        self.synced = False
        self.has_upstream = False
        self.by_client = by_client
        self.counts: dict[tuple[str, int, int], list[int]] = {}  # (protocol, type, rcode): [how many]
        self.plugin_revision = 0  # grows when a plugin's data change, as a hosts file
        self._fallthrough = tuple(wire.encode_name(zone).lower() for zone in fallthrough)
        self._rotate, self._turn, self._udp_bytes = rotate, 0, udp_bytes
        self._serve_cluster = serve_cluster
        self._step: Step = self.look_up
        self._known: dict[str, dict[bytes, tuple[bytes, list[int]]]] = {"udp": {}, "tcp": {}}
        self._known_revision = (-1, -1)
        self._turned = False  # whether the last answer depends on whose turn it is

    def compose(self, plugins: Sequence[Plugin]) -> None:
        """Have queries pass these plugins, the first one outermost, before the index is asked."""
        self._step = chain(plugins, self.look_up)

    def serves(self, name: bytes) -> bool:
        """Return whether a lower-case name is the index's to answer."""
        index = self.index
        return self._serve_cluster and (wire.is_within(name, index.zone.origin) or index.is_reverse(name))

    def known(self) -> dict[bytes, tuple[bytes, list[int]]]:
        """Return the UDP answers that may be sent again as they are: query without id -> (answer without id,
        counter). Stub resolvers send the same bytes, but for the id, again and again. Ask anew after any await.
        """
        revision = (self.index.revision, self.plugin_revision)
        udp = self._known["udp"]
        if self._known_revision != revision or len(udp) > _MAX_KNOWN:
            udp.clear()
            self._known["tcp"].clear()
            self._known_revision = revision
        return udp

    def respond(self, raw: bytes, protocol: str = "udp", client: str = "") -> Outcome:
        """Return the answer; None: say nothing; Forward: ask an upstream. Never raises, whatever ``raw`` is."""
        self.known()
        known = self._known[protocol].get(raw[2:])
        if known is not None:
            known[1][0] += 1
            return raw[:2] + known[0]
        if len(raw) < 12 or raw[2] & 0x80:  # no header, or an answer: answering answers makes loops
            return None
        try:
            asked = parse_query(raw, protocol, self._udp_bytes)
        except wire.Malformed:
            asked = wire.FORMERR
        if isinstance(asked, int):
            self.count(protocol, 0, asked)
            return _bare(raw, asked)
        if asked.edns is not None and asked.edns.version:
            self.count(protocol, asked.type, wire.BADVERS)
            return self.refuse(asked, wire.BADVERS, protocol)
        if asked.type in (wire.AXFR, wire.IXFR) or asked.question[-2:] != b"\0\1":
            self.count(protocol, asked.type, wire.REFUSED)
            return self.refuse(asked, wire.REFUSED, protocol)
        return self._answer(asked, protocol, client)

    def _answer(self, asked: Asked, protocol: str, client: str) -> Outcome:
        self._turned = False
        answer = self._step(Query(asked, protocol, client))
        if answer is None or isinstance(answer, Forward):
            return answer
        row = self._counter(protocol, asked.type, answer[3] & 15)
        row[0] += 1
        if self.synced and not self._turned and not self.by_client and len(asked.raw) <= _MAX_KNOWN_BYTES:
            self._known[protocol][asked.raw[2:]] = answer[2:], row
        return answer

    def look_up(self, query: Query) -> Outcome:
        """Answer from the index: the plugin `kubernetes`, and what lies behind it."""
        asked, protocol, index = query.asked, query.protocol, self.index
        if not self.serves(asked.name):
            return Forward(asked, asked.raw)
        if not self.synced:
            return self.refuse(asked, wire.SERVFAIL, protocol, (_NOT_READY, "waiting for the Kubernetes API"))
        if asked.type == wire.ANY:
            hinfo = wire.record_tail(wire.HINFO, index.zone.ttl_s, wire.txt_data("RFC8482", ""))
            return self.encode(asked, Answer((hinfo,)), protocol)
        found = index.find(asked.name, asked.type)
        if found.answer is not None:
            if found.away and self.has_upstream and asked.type != wire.CNAME and query.hops < _MAX_HOPS:
                return self._follow(query, found.answer, found.away)
            return self.encode(asked, found.answer, protocol)
        if not found.exists and self.has_upstream and self._falls_through(asked.name):
            return Forward(asked, asked.raw)
        # Nobody else can be asked, and nobody else would know these addresses (RFC 6303).
        owner = index.zone.origin if wire.is_within(asked.name, index.zone.origin) else asked.name
        return self._negative(asked, wire.NOERROR if found.exists else wire.NXDOMAIN, owner, protocol)

    def _falls_through(self, name: bytes) -> bool:
        return any(wire.is_within(name, zone) for zone in self._fallthrough)

    def _follow(self, query: Query, so_far: Answer, target: bytes) -> Outcome:
        """Ask ourselves for what an alias leads to, outside the zone, and put it behind the alias."""
        asked = query.asked

        def combine(raw: bytes) -> bytes:
            try:
                tails = wire.encode_records(wire.decode_message(raw).answer)
            except wire.Malformed:
                tails = ()
            return self.encode(asked, Answer(so_far.own, so_far.more + tails), query.protocol)

        onward = replace(query, asked=asking(asked, target), hops=query.hops + 1)
        return and_then(self._step(onward), combine)

    def _counter(self, protocol: str, type: int, rcode: int) -> list[int]:
        # Types that have no name share one row: a stranger must not be able to make rows.
        return self.counts.setdefault((protocol, type if type in _NAMED_TYPES else 0, rcode), [0])

    def count(self, protocol: str, type: int, rcode: int) -> None:
        """Count one answer."""
        self._counter(protocol, type, rcode)[0] += 1

    def _negative(self, asked: Asked, rcode: int, owner: bytes, protocol: str) -> bytes:
        authority = owner + self.index.soa_tail
        return self._assemble(asked, wire.AA | rcode, b"", 0, authority, 1, b"", 0, protocol)

    def refuse(self, asked: Asked, rcode: int, protocol: str, why: tuple[int, str] | None = None) -> bytes:
        """Return an answer without records; with EDNS it may say why."""
        options = (wire.extended_error(*why),) if why is not None else ()
        opt = _opt(asked, rcode >> 4, options)
        flags = wire.QR | asked.flags & (wire.RD | wire.CD | wire.OPCODE) | rcode & 15
        return asked.id + struct.pack(">HHHHH", flags, 1, 0, 0, 1 if opt else 0) + asked.question + opt

    def truncate(self, asked: Asked, protocol: str) -> bytes:
        """Return an empty answer with TC: ask again over TCP."""
        return self._assemble(asked, wire.TC | wire.RA, b"", 0, b"", 0, b"", 0, protocol)

    def encode(self, asked: Asked, answer: Answer, protocol: str) -> bytes:
        """Return the answer's bytes: plain where that fits, else with pointers, else cut, with TC."""
        own = answer.own
        if self._rotate and len(own) > 1:
            self._turned = True
            self._turn += 1
            turn = self._turn % len(own)
            own = own[turn:] + own[:turn]
        room = asked.limit_bytes - 12 - len(asked.question) - 11 - 40
        owner = asked.owner
        body = b"".join([owner + tail for tail in own])
        more, extra = b"".join(answer.more), b"".join(answer.extra)
        if len(body) + len(more) > room:
            body = b"".join([_POINTER + tail for tail in own])
        if len(body) + len(more) > room:
            return self._truncated(asked, own, room, protocol)
        extras = len(answer.extra)
        if len(body) + len(more) + len(extra) > room:  # glue is a courtesy: it goes first, without TC
            extra, extras = b"", 0
        count = len(own) + len(answer.more)
        return self._assemble(asked, wire.AA, body + more, count, b"", 0, extra, extras, protocol)

    def _truncated(self, asked: Asked, own: tuple[bytes, ...], room: int, protocol: str) -> bytes:
        fitting: list[bytes] = []
        for tail in own:
            room -= len(tail) + 2
            if room < 0:
                break
            fitting.append(_POINTER + tail)
        return self._assemble(asked, wire.AA | wire.TC, b"".join(fitting), len(fitting), b"", 0, b"", 0, protocol)

    def _assemble(
        self, asked: Asked, flags: int, body: bytes, count: int, authority: bytes, authorities: int,
        extra: bytes, extras: int, protocol: str,
    ) -> bytes:  # fmt: skip
        opt = _opt(asked, 0, ())
        head = struct.pack(
            ">HHHHH", wire.QR | asked.flags & (wire.RD | wire.CD) | flags, 1, count, authorities,
            extras + (1 if opt else 0),
        )  # fmt: skip
        return b"".join((asked.id, head, asked.question, body, authority, extra, opt))

    def assemble_records(self, asked: Asked, message: wire.Message, records: Sequence[bytes], protocol: str) -> bytes:
        """Return a message made over: our question, these whole answer records, the rest as it is, cut to fit."""
        authority = b"".join(wire.encode_records(message.authority))
        extra = b"".join(wire.encode_records(message.additional))
        flags = message.flags & (wire.AA | wire.RA | wire.AD) | message.flags & 15
        room = asked.limit_bytes - 12 - len(asked.question) - 11 - 40
        body, extras = b"".join(records), len(message.additional)
        if len(body) + len(authority) + len(extra) > room:
            extra, extras = b"", 0
        if len(body) + len(authority) > room:
            return self.truncate(asked, protocol)
        counts = len(message.authority)
        return self._assemble(asked, flags, body, len(records), authority, counts, extra, extras, protocol)


def _bare(raw: bytes, rcode: int) -> bytes:
    """An answer to what could not be understood: the header alone."""
    flags = struct.unpack_from(">H", raw, 2)[0]
    kept = flags & (wire.OPCODE | wire.RD)
    return raw[:2] + struct.pack(">HHHHH", wire.QR | kept | rcode, 0, 0, 0, 0)


def asking(asked: Asked, name: bytes) -> Asked:
    """Return the query with another name in its question."""
    rest = asked.raw[12 + len(asked.question) :]
    question = name + asked.question[-4:]
    return replace(asked, raw=asked.raw[:12] + question + rest, question=question, name=name.lower())


def retyped(asked: Asked, type: int) -> Asked:
    """Return the query with another type in its question."""
    rest = asked.raw[12 + len(asked.question) :]
    question = asked.owner + struct.pack(">H", type) + asked.question[-2:]
    return replace(asked, raw=asked.raw[:12] + question + rest, question=question, type=type)


def parse_query(raw: bytes, protocol: str, udp_bytes: int = OUR_UDP_BYTES) -> Asked | int:
    """Return the query, or the rcode to answer with. Raises Malformed."""
    flags, questions, answers, authorities, additionals = struct.unpack_from(">HHHHH", raw, 2)
    if flags & wire.OPCODE:
        return wire.NOTIMP
    if questions != 1 or answers or authorities or additionals > 2:
        return wire.FORMERR
    end = _question_end(raw)
    type, _ = _QUESTION_ENDS.unpack_from(raw, end)
    edns = _parse_additional(raw, end + 4, additionals)
    limit = 65535
    if protocol == "udp":
        limit = min(max(edns.udp_bytes, wire.MAX_UDP_BYTES), udp_bytes) if edns is not None else 512
    question = raw[12 : end + 4]
    return Asked(raw, raw[:2], flags, question, question[:-4].lower(), type, edns, limit)


def _question_end(raw: bytes) -> int:
    """Return where the name ends. A pointer in a question has nothing to point to."""
    at, size = 12, len(raw)
    while at < size:
        length = raw[at]
        if length == 0:
            if at + 5 > size:
                break
            if at - 12 > 254:
                raise wire.Malformed("name of more than 255 octets")
            return at + 1
        if length > 63:
            raise wire.Malformed("pointer in a question")
        at += 1 + length
    raise wire.Malformed("question runs past the message")


def _parse_additional(raw: bytes, at: int, count: int) -> wire.Edns | None:
    if not count:
        return None
    # Decoded on their own: the header is rewritten to hold only what is left.
    rest = wire.decode_message(struct.pack(">HHHHHH", 0, 0, 0, 0, 0, count) + raw[at:])
    return rest.edns


def _opt(asked: Asked, extended_rcode: int, options: tuple[tuple[int, bytes], ...]) -> bytes:
    """Return our OPT record; b"" when the client sent none (RFC 6891 §6.1.1: only then MUST there be none).

    The client's cookie is sent back as it came, which `dig` shows as "(echoed)", as CoreDNS does.
    """
    edns = asked.edns
    if edns is None:
        return b""
    if not edns.options and not options and not extended_rcode:
        return _OPT_DO if edns.dnssec_ok else _OPT_PLAIN
    echoed = tuple(o for o in edns.options if o[0] == wire.COOKIE_OPTION and len(o[1]) <= 40)[:1]
    return wire.encode_edns(wire.Edns(OUR_UDP_BYTES, 0, edns.dnssec_ok, echoed + options, extended_rcode))


_OPT_PLAIN = wire.encode_edns(wire.Edns(OUR_UDP_BYTES))
_OPT_DO = wire.encode_edns(wire.Edns(OUR_UDP_BYTES, dnssec_ok=True))
