"""What a resolver asks for one name, in order, and why each question is answered as it is. Pure.

The resolver's part is resolv.conf(5): names with fewer than ndots dots try the search path first, others last.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from podwire.dns.responder import Forward, Responder
from podwire.wire import dns as wire

_TYPES = {number: word for word, number in wire.TYPES.items()}


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What a resolver works by."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1


@dataclass(frozen=True, slots=True)
class Answered:
    """One question: what came back ("NOERROR", "NODATA", "NXDOMAIN", "FORWARDED" ...), the records, and why."""

    name: str
    verdict: str
    records: tuple[str, ...]
    why: str


def parse_resolv_conf(text: str) -> ResolvConf:
    """Return what a resolv.conf says; the last `search` counts."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for words in (line.split() for line in text.splitlines()):
        match words:
            case ["nameserver", address, *_]:
                servers.append(address)
            case ["search" | "domain", *domains]:
                search = tuple(domains)
            case ["options", *options]:
                numbers = [o.removeprefix("ndots:") for o in options if o.startswith("ndots:")]
                ndots = int(numbers[-1]) if numbers and numbers[-1].isdigit() else ndots
    return ResolvConf(tuple(servers), search, ndots)


def candidates(name: str, resolver: ResolvConf) -> list[str]:
    """Return the names that a resolver tries, in order, each with its final dot."""
    if name.endswith("."):
        return [name]
    searched = [f"{name}.{domain.rstrip('.')}." for domain in resolver.search]
    absolute = [name + "."]
    return absolute + searched if name.count(".") >= resolver.ndots else searched + absolute


def walk(name: str, type: str, resolver: ResolvConf, responder: Responder) -> list[Answered]:
    """Return the questions up to the first that has an answer, or fails. Raises Malformed for an impossible name."""
    steps: list[Answered] = []
    for candidate in candidates(name, resolver):
        step = _ask(candidate, wire.TYPES[type], responder)
        steps.append(step)
        if step.verdict not in ("NXDOMAIN", "NODATA"):
            break
    return steps


def _ask(name: str, type: int, responder: Responder) -> Answered:
    encoded = wire.encode_name(name)
    raw = b"\0\0\x01\0\0\1\0\0\0\0\0\0" + encoded + struct.pack(">HH", type, wire.IN)
    outcome = responder.respond(raw, "tcp")
    if outcome is None:
        return Answered(name, "DROPPED", (), "a rule of the Corefile drops it (acl)")
    if isinstance(outcome, Forward):
        target = wire.name_text(wire.decode_name(outcome.query, 12)[0])
        return Answered(
            name, "FORWARDED", (), f"not a name of the cluster: {target} is asked of the upstream resolvers"
        )
    message = wire.decode_message(outcome)
    verdict = wire.RCODES.get(message.rcode, str(message.rcode))
    if verdict == "NOERROR" and not message.answer:
        verdict = "NODATA"
    why = responder.index.explain(encoded.lower(), type)
    return Answered(name, verdict, tuple(map(record_text, message.answer)), why)


def record_text(record: wire.Record) -> str:
    """Return a record as dig shows it, without owner and class."""
    data = record.rdata
    match record.type:
        case wire.A | wire.AAAA:
            text = str(ip_address(data))
        case wire.CNAME | wire.PTR | wire.NS:
            text = wire.name_text(data)
        case wire.SRV:
            priority, weight, port = struct.unpack_from(">HHH", data)
            text = f"{priority} {weight} {port} {wire.name_text(data[6:])}"
        case wire.TXT:
            text = data[1:].decode("latin-1")
        case _:
            text = data.hex()
    return f"{_TYPES.get(record.type, f'TYPE{record.type}')} {text}"
