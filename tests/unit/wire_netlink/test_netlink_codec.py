"""Netlink bytes <-> values: messages, attributes, errors with the kernel's words."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.wire import netlink as nl
from podwire.wire import rtnetlink as rt

little = pytest.mark.skipif(sys.byteorder != "little", reason="the literals are little-endian")


@little
def test_a_message_has_its_length_first():
    assert nl.encode_message(18, 5, 7, b"\x01\x02\x03") == bytes.fromhex(
        "13000000 1200 0500 07000000 00000000 010203 00"
    )


@little
def test_attributes_are_padded_to_four():
    assert nl.text(3, "eth0") == bytes.fromhex("0900 0300 6574683000 000000")
    assert nl.u8(7, 1) == bytes.fromhex("0500 0700 01 000000")
    assert nl.be16(15, 8472) == bytes.fromhex("0600 0f00 2118 0000")
    assert nl.nest(18, nl.u8(1, 2)) == bytes.fromhex("0c00 1280 0500 0100 02 000000")


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 2**32 - 1), st.binary(max_size=99))))
def test_messages_come_back_as_they_went(messages):
    packet = b"".join(nl.encode_message(t, 1, seq, body) for t, seq, body in messages)
    assert [(m.type, m.sequence, m.body) for m in nl.decode_messages(packet)] == messages


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))), st.booleans())
def test_attributes_come_back_as_they_went(pairs, nested):
    body = b"".join(nl.attribute(t | (nl.NLA_F_NESTED if nested else 0), v) for t, v in pairs)
    assert list(nl.iterate_attributes(b"head" + body, 4)) == pairs


@given(st.binary(max_size=80))
def test_rubbish_is_refused_or_ends_but_never_loops(junk):
    for decode in (nl.decode_messages, nl.iterate_attributes):
        try:
            assert len(list(decode(junk))) <= len(junk)
        except ValueError:
            pass


@pytest.mark.parametrize("junk", [b"\xff\0\0\0" + bytes(12), b"\x03\0\0\0" + bytes(12)])
def test_a_lying_length_is_refused(junk):
    with pytest.raises(ValueError, match="claims"):
        list(nl.decode_messages(junk))


def test_an_acknowledgement_is_error_zero():
    request = nl.encode_message(16, 5, 1, b"")
    ack = nl.Message(nl.NLMSG_ERROR, nl.NLM_F_CAPPED, 1, 0, struct.pack("=i", 0) + request)
    assert nl.decode_error(ack) == nl.NetlinkError(0, "")


@pytest.mark.parametrize("capped", [True, False])
def test_an_error_tells_the_extended_ack(capped):
    request = nl.encode_message(16, 5, 1, b"abcdefg")
    quoted = request[:16] if capped else request
    flags = nl.NLM_F_ACK_TLVS | (nl.NLM_F_CAPPED if capped else 0)
    body = struct.pack("=i", -22) + quoted + nl.text(nl.NLMSGERR_ATTR_MSG, "mtu greater than device maximum")
    assert nl.decode_error(nl.Message(nl.NLMSG_ERROR, flags, 1, 0, body)) == nl.NetlinkError(
        22, "mtu greater than device maximum"
    )


def test_an_error_names_a_missing_attribute():
    body = struct.pack("=i", -22) + bytes(16) + nl.u32(nl.NLMSGERR_ATTR_MISS_TYPE, 4)
    error = nl.decode_error(nl.Message(nl.NLMSG_ERROR, nl.NLM_F_ACK_TLVS | nl.NLM_F_CAPPED, 1, 0, body))
    assert error.text == "attribute 4 is missing"


def test_headers_have_the_kernel_s_sizes():
    assert (rt.IFINFO_BYTES, rt.IFADDR_BYTES, rt.RTMSG_BYTES, rt.NDMSG_BYTES) == (16, 8, 12, 12)


def test_macs():
    assert rt.decode_mac(rt.encode_mac("02:aB:00:00:00:01")) == "02:ab:00:00:00:01"
    assert rt.decode_mac(b"") == ""
    for bad in ("02:00", "not a mac", "02:00:00:00:00:00:01"):
        with pytest.raises(ValueError):
            rt.encode_mac(bad)
