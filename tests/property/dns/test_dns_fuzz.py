"""400,000 hostile packets through the whole responder, every plugin switched on: no crash, no growth, sane answers."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import dns.message
import dnsworld
import pytest

from podwire.dns.responder import Forward, Responder
from podwire.wire import dns as wire

STRUCTURED, RANDOM = 300_000, 100_000
CLIENTS = ("10.244.1.101", "10.244.9.9", "127.0.0.1", "203.0.113.1", "fd00::7")


def seeds() -> list[bytes]:
    made = []
    for case in dnsworld.SCENARIOS:
        for q in dnsworld.questions(case):
            made.append(dns.message.make_query(q.name, q.type, use_edns=False).to_wire())
            made.append(dns.message.make_query(q.name, q.type, use_edns=0, payload=4096, want_dnssec=True).to_wire())
    return made


def structured(rng: random.Random, count: int) -> Iterator[bytes]:
    """Queries with a few things wrong: flipped octets, lying counts, odd types, cut ends, pointers, doubled parts."""
    good = seeds()
    for _ in range(count):
        raw = bytearray(rng.choice(good))
        match rng.randrange(7):
            case 0:
                for _ in range(rng.randrange(1, 6)):
                    raw[rng.randrange(len(raw))] = rng.randrange(256)
            case 1:
                struct.pack_into(">H", raw, rng.choice((4, 6, 8, 10)), rng.choice((0, 1, 2, 3, 65535)))
            case 2:
                del raw[rng.randrange(len(raw)) :]
            case 3:
                end = 12 + raw[12:].index(0)
                struct.pack_into(">HH", raw, end + 1, rng.randrange(65536), rng.choice((1, 3, 254, 255)))
            case 4:
                at = rng.randrange(12, len(raw))
                raw[at:at] = bytes((0xC0 | rng.randrange(64), rng.randrange(256)))
            case 5:
                raw += raw[12 : rng.randrange(12, len(raw))]
            case _:
                label = bytes(rng.randrange(256) for _ in range(rng.randrange(64)))
                raw[12:12] = bytes((len(label),)) + label
        yield bytes(raw)


def feed(responder: Responder, rng: random.Random, packets: Iterator[bytes]) -> int:
    """Return how many were answered; fail on an answer that is none."""
    answered = 0
    for raw in packets:
        protocol = "udp" if rng.random() < 0.8 else "tcp"
        answer = responder.respond(raw, protocol, rng.choice(CLIENTS))
        if answer is None or isinstance(answer, Forward):
            continue
        answered += 1
        assert answer[:2] == raw[:2]
        assert answer[2] & 0x80
        assert len(answer) <= (1232 if protocol == "udp" else 65535)
        if not answered % 8:
            wire.decode_message(answer)
        if not answered % 64:
            dns.message.from_wire(answer)
    return answered


@pytest.mark.parametrize("case", ["services", "headless", "plugins", "clients", "zone-file"])
def test_hostile_packets(case: str) -> None:
    responder = dnsworld.responder(next(c for c in dnsworld.SCENARIOS if c.name == case))
    rng = random.Random(case)
    answered = feed(responder, rng, structured(rng, STRUCTURED // 5))
    assert answered > STRUCTURED // 5 // 4  # it is queries that are fed, and not only noise
    feed(responder, rng, (rng.randbytes(rng.randrange(0, 300)) for _ in range(RANDOM // 5)))
    assert len(responder.counts) < 200  # strangers cannot make rows
    assert all(len(kept) <= 16385 for kept in responder._known.values())
