"""The codec: round trips, dnspython as an independent reader, and bytes that mean harm."""

from __future__ import annotations

import random
import struct

import dns.message
import dns.name
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.wire import dns as wire

LABEL = st.binary(min_size=1, max_size=20)
NAME = st.lists(LABEL, max_size=6).map(lambda ls: b"".join(bytes([len(x)]) + x for x in ls) + b"\0")
TTL = st.integers(0, 2**31 - 1)


@st.composite
def records(draw: st.DrawFn) -> wire.Record:
    kind = draw(st.sampled_from([wire.A, wire.AAAA, wire.CNAME, wire.PTR, wire.NS, wire.SRV, wire.TXT, wire.SOA]))
    u16 = st.integers(0, 65535)
    data = {
        wire.A: lambda: draw(st.binary(min_size=4, max_size=4)),
        wire.AAAA: lambda: draw(st.binary(min_size=16, max_size=16)),
        wire.SRV: lambda: wire.srv_data(draw(u16), draw(u16), draw(u16), draw(NAME)),
        wire.TXT: lambda: wire.txt_data(draw(st.text("abc é", max_size=50))),
        wire.SOA: lambda: wire.soa_data(draw(NAME), draw(NAME), draw(TTL), 1, 2, 3, draw(TTL)),
    }.get(kind, lambda: draw(NAME))()
    return wire.Record(draw(NAME), kind, draw(TTL), data)


EDNS = st.builds(
    wire.Edns,
    st.integers(0, 65535),
    st.integers(0, 255),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=30)), max_size=3).map(tuple),
    st.integers(0, 255),
)
MESSAGE = st.builds(
    wire.Message,
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.lists(st.builds(wire.Question, NAME, st.integers(0, 65535), st.integers(0, 65535)), max_size=2).map(tuple),
    st.lists(records(), max_size=4).map(tuple),
    st.lists(records(), max_size=2).map(tuple),
    st.lists(records(), max_size=2).map(tuple),
    st.none() | EDNS,
)


@given(MESSAGE)
@settings(max_examples=200, deadline=None)
def test_messages_come_back(message: wire.Message) -> None:
    assert wire.decode_message(wire.encode_message(message)) == message


@given(NAME)
def test_names_come_back_through_text(name: bytes) -> None:
    assert wire.encode_name(wire.name_text(name)) == name
    assert dns.name.from_wire(name, 0)[0].to_wire() == name


@pytest.mark.parametrize("text", ["a..b", ".a", "x" * 64, ".".join(["y" * 60] * 5), "a\\", "a\\25", "a\\999"])
def test_bad_names_are_refused(text: str) -> None:
    with pytest.raises(wire.Malformed):
        wire.encode_name(text)


def test_dnspython_and_we_read_compression_alike() -> None:
    answer = dns.message.from_text(
        "id 7\nopcode QUERY\nrcode NOERROR\nflags QR AA RD\n;QUESTION\n_h._tcp.web.default.svc.cluster.local. IN SRV\n"
        ";ANSWER\n_h._tcp.web.default.svc.cluster.local. 30 IN SRV 0 100 80 web.default.svc.cluster.local.\n"
        "web.default.svc.cluster.local. 30 IN CNAME x.default.svc.cluster.local.\n"
        ";AUTHORITY\ncluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 2 3 4 5\n"
        ";ADDITIONAL\nweb.default.svc.cluster.local. 30 IN A 10.96.0.1\n"
    )
    raw = answer.to_wire()
    assert b"\xc0\x0c" in raw  # it did compress
    ours = wire.decode_message(raw)
    assert wire.name_text(ours.answer[0].rdata[6:]) == "web.default.svc.cluster.local."
    again = dns.message.from_wire(wire.encode_message(ours))
    assert again.answer == answer.answer
    assert again.authority == answer.authority
    assert again.additional == answer.additional


@pytest.mark.parametrize(
    "name",
    [b"\xc0\x0c", b"\x01a\xc0\x0c", b"\xc0\xff", b"\x40a", b"\x05ab", b"\xc0", b"\x01a", b""],
    ids=["self", "loop", "beyond", "type-01", "short", "half-pointer", "no-end", "empty"],
)
def test_evil_names_are_malformed(name: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.decode_name(b"\0" * 12 + name, 12)


@given(st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_message_or_malformed(raw: bytes) -> None:
    for read in (wire.decode_message, wire.ttl_positions):
        try:
            read(raw)
        except wire.Malformed:
            pass


def test_flipped_bits_never_crash_the_reader() -> None:
    rng = random.Random(7)
    good = bytearray(
        wire.encode_message(
            wire.Message(
                1, 0x8180, (wire.Question(wire.encode_name("a.b"), 1),),
                (wire.Record(wire.encode_name("a.b"), wire.CNAME, 5, wire.encode_name("c.d")),),
                edns=wire.Edns(options=((10, b"x" * 8),)),
            )
        )
    )  # fmt: skip
    for _ in range(5000):
        raw = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        try:
            wire.decode_message(bytes(raw[: rng.randrange(len(raw) + 1)]))
        except wire.Malformed:
            pass


def test_ttls_are_found_and_opt_is_left_alone() -> None:
    message = wire.Message(
        1, 0x8180, (wire.Question(b"\x01a\0", 1),), (wire.Record(b"\x01a\0", wire.A, 77, b"\x01\x02\x03\x04"),),
        edns=wire.Edns(dnssec_ok=True),
    )  # fmt: skip
    raw = wire.encode_message(message)
    ((at, ttl_s),) = wire.ttl_positions(raw)
    assert (ttl_s, struct.unpack_from(">I", raw, at)[0]) == (77, 77)


@pytest.mark.parametrize(
    ("name", "zone", "inside"),
    [("a.cluster.local", "cluster.local", True), ("cluster.local", "cluster.local", True),
     ("xcluster.local", "cluster.local", False), ("local", "cluster.local", False)],
)  # fmt: skip
def test_within(name: str, zone: str, inside: bool) -> None:
    assert wire.is_within(wire.encode_name(name), wire.encode_name(zone)) is inside
