"""SPDY/3.1 framing: known bytes, round trips, split anywhere."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.wire import spdy

_TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


def test_dictionary_is_the_protocols():
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


def test_bytes_of_plain_frames():
    c = spdy.Connection(server=True)
    c.send(5, b"hi", fin=True)
    assert c.take() == bytes.fromhex("00000005 01000002") + b"hi"
    c.reset(5, spdy.CANCEL)
    assert c.take() == bytes.fromhex("80030003 00000008 00000005 00000005")
    c.ping(2)
    assert c.take() == bytes.fromhex("80030006 00000004 00000002")


def test_first_header_block_names_the_dictionary():
    block = spdy.HeaderWriter().encode({"streamType": "error"})
    assert block[1] & 0x20  # FDICT
    assert block[2:6] == bytes.fromhex("e3c6a7c2")
    assert spdy.HeaderReader().decode(block) == {"streamtype": "error"}


def test_peers_ping_is_answered_and_ours_is_not():
    server = spdy.Connection(server=True)
    client = spdy.Connection(server=False)
    client.ping(1)
    assert server.receive(client.take()) == [spdy.PingReceived(1)]
    assert client.receive(server.take()) == [spdy.PingReceived(1)]
    assert client.take() == b""


def test_unknown_and_window_frames_are_ignored():
    server = spdy.Connection(server=True)
    update = struct.pack(">HHIII", 0x8003, spdy.WINDOW_UPDATE, 8, 1, 65536)
    assert server.receive(update + struct.pack(">HHI", 0x8003, 77, 0)) == []


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack(">HHI", 0x8002, 1, 0),  # SPDY/2
        struct.pack(">HHI", 0x8003, 1, 2) + b"ab",  # truncated SYN_STREAM
        struct.pack(">HHIIIBB", 0x8003, 1, 14, 1, 0, 0, 0) + b"junk",  # not zlib
    ],
)
def test_broken_framing_is_refused(raw: bytes):
    with pytest.raises(spdy.ProtocolError):
        spdy.Connection(server=True).receive(raw)


def test_stream_numbers_must_grow():
    server, client = spdy.Connection(server=True), spdy.Connection(server=False)
    client.open({})
    first = client.take()
    server.receive(first)
    with pytest.raises(spdy.ProtocolError, match="stream number"):
        server._control(3, spdy.SYN_STREAM, 0, struct.pack(">IIBB", 1, 0, 0, 0) + client._writer.encode({}))


_ACT = st.one_of(
    st.tuples(st.just("open"), st.dictionaries(_TEXT.map(str.lower), _TEXT, max_size=4), st.booleans()),
    st.tuples(st.just("send"), st.binary(max_size=200_000), st.booleans()),
    st.tuples(st.just("reset"), st.integers(1, 11), st.none()),
)


@given(st.lists(_ACT, max_size=12), st.lists(st.integers(1, 70_000), min_size=1, max_size=5))
def test_what_is_sent_arrives_however_it_is_split(acts, cuts):
    client, server = spdy.Connection(server=False), spdy.Connection(server=True)
    wanted: list[object] = []
    for verb, value, fin in acts:
        if verb == "open":
            wanted.append(spdy.StreamOpened(client.open(value, fin=fin), value, fin))
        elif verb == "send":
            client.send(1, value, fin=fin)
            wanted.append(("data", value, fin))
        else:
            client.reset(1, value)
            wanted.append(spdy.StreamReset(1, value))
    raw, events, turn = client.take(), [], 0
    while raw:
        cut = cuts[turn % len(cuts)]
        turn += 1
        events += server.receive(raw[:cut])
        raw = raw[cut:]
    assert _joined(events) == _joined(wanted)


def _joined(events):
    """Consecutive data of one stream as one, since frames may be cut."""
    out: list[object] = []
    for e in events:
        if isinstance(e, spdy.DataReceived):
            e = ("data", e.data, e.fin)
        if isinstance(e, tuple) and out and isinstance(out[-1], tuple) and not out[-1][2]:
            e = ("data", out.pop()[1] + e[1], e[2])
        out.append(e)
    return out
