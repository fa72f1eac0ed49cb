"""Query bytes -> answer bytes. No socket, no clock: what a DNS server decides, and nothing else.

RFC 1035; 2308 (negative answers), 6891 (EDNS), 8482 (ANY), 8914 (why), draft vixie-dnsext-dns0x20 (case).
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass

from podwire.dns.desired import Answer
from podwire.dns.index import Index
from podwire.wire import dns as wire

OUR_UDP_BYTES = 1232  # DNS flag day 2020: fits any path unfragmented
_MAX_KNOWN, _MAX_KNOWN_BYTES = 4096, 128
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
    """A query that an upstream must answer. ``so_far``: aliases already found, whose target is ``name``."""

    asked: Asked
    name: bytes
    so_far: Answer | None = None


class Responder:
    """Answers from an index. ``synced`` False: SERVFAIL for the cluster's names, for NXDOMAIN would be a lie."""

    def __init__(
        self, index: Index, *, reverse_falls_through: bool = True, rotate: bool = True, log: bool = False
    ) -> None:
        self.index = index
        self.synced = False
        self.has_upstream = False
        self.counts: Counter[tuple[str, int, int]] = Counter()  # (protocol, type, rcode)
        self._falls_through, self._rotate, self._turn = reverse_falls_through, rotate, 0
        self._known: dict[tuple[str, bytes], tuple[bytes, tuple[str, int, int]]] = {}
        self._known_revision = -1
        self._turned = False  # whether the last answer depends on whose turn it is

    def respond(self, raw: bytes, protocol: str = "udp") -> bytes | Forward | None:
        """Return the answer; None: say nothing; Forward: ask an upstream. Never raises, whatever ``raw`` is.

        Stub resolvers send the same bytes, but for the id, again and again: then the former answer is sent,
        as long as nothing in the index has changed.
        """
        if self._known_revision != self.index.revision or len(self._known) > _MAX_KNOWN:
            self._known.clear()
            self._known_revision = self.index.revision
        known = self._known.get((protocol, raw[2:]))
        if known is not None:
            self.counts[known[1]] += 1
            return raw[:2] + known[0]
        if len(raw) < 12 or raw[2] & 0x80:  # no header, or an answer: answering answers makes loops
            return None
        try:
            asked = parse_query(raw, protocol)
        except wire.Malformed:
            return self._bare(raw, wire.FORMERR, protocol)
        if isinstance(asked, int):
            return self._bare(raw, asked, protocol)
        if asked.edns is not None and asked.edns.version:
            return self.refuse(asked, wire.BADVERS, protocol)
        if asked.type in (wire.AXFR, wire.IXFR) or asked.question[-2:] != b"\0\1":
            return self.refuse(asked, wire.REFUSED, protocol)
        answer = self._look_up(asked, protocol)
        if self.synced and answer.__class__ is bytes and len(raw) <= _MAX_KNOWN_BYTES and not self._turned:
            self._known[protocol, raw[2:]] = answer[2:], (protocol, asked.type, answer[3] & 15)
        return answer

    def _look_up(self, asked: Asked, protocol: str) -> bytes | Forward:
        index = self.index
        inside = wire.is_within(asked.name, index.zone.origin)
        reverse = not inside and index.is_reverse(asked.name)
        if not inside and not reverse:
            return Forward(asked, asked.name)
        if not self.synced:
            return self.refuse(asked, wire.SERVFAIL, protocol, (_NOT_READY, "waiting for the Kubernetes API"))
        if asked.type == wire.ANY:
            hinfo = wire.record_tail(wire.HINFO, index.zone.ttl_s, wire.txt_data("RFC8482", ""))
            return self.encode(asked, Answer((hinfo,)), protocol)
        found = index.find(asked.name, asked.type)
        if found.answer is not None:
            if found.away and self.has_upstream and asked.type in (wire.A, wire.AAAA):
                return Forward(asked, found.away, found.answer)
            return self.encode(asked, found.answer, protocol)
        if reverse:
            if found.exists:
                return self._negative(asked, wire.NOERROR, asked.name, protocol)
            if self._falls_through and self.has_upstream:
                return Forward(asked, asked.name)
            # Nobody else can be asked, and nobody else would know these addresses (RFC 6303).
            return self._negative(asked, wire.NXDOMAIN, asked.name, protocol)
        rcode = wire.NOERROR if found.exists else wire.NXDOMAIN
        return self._negative(asked, rcode, index.zone.origin, protocol)

    def _negative(self, asked: Asked, rcode: int, owner: bytes, protocol: str) -> bytes:
        self._turned = False
        authority = owner + self.index.soa_tail()
        return self._assemble(asked, wire.AA | rcode, b"", 0, authority, 1, b"", 0, protocol)

    def refuse(self, asked: Asked, rcode: int, protocol: str, why: tuple[int, str] | None = None) -> bytes:
        """Return an answer without records; with EDNS it may say why."""
        self.counts[protocol, asked.type, rcode] += 1
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
        self._turned = self._rotate and len(own) > 1
        if self._turned:
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
        self.counts[protocol, asked.type, flags & 15] += 1
        opt = _opt(asked, 0, ())
        head = struct.pack(
            ">HHHHH", wire.QR | asked.flags & (wire.RD | wire.CD) | flags, 1, count, authorities,
            extras + (1 if opt else 0),
        )  # fmt: skip
        return b"".join((asked.id, head, asked.question, body, authority, extra, opt))

    def _bare(self, raw: bytes, rcode: int, protocol: str) -> bytes:
        """An answer to what could not be understood: the header alone."""
        self.counts[protocol, 0, rcode] += 1
        flags = struct.unpack_from(">H", raw, 2)[0]
        kept = flags & (wire.OPCODE | wire.RD)
        return raw[:2] + struct.pack(">HHHHH", wire.QR | kept | rcode, 0, 0, 0, 0)


def parse_query(raw: bytes, protocol: str) -> Asked | int:
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
        limit = min(max(edns.udp_bytes, wire.MAX_UDP_BYTES), OUR_UDP_BYTES) if edns is not None else 512
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
