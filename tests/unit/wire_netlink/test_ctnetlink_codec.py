"""Flows come back from bytes as they went."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from podwire.wire import ctnetlink as wire
from podwire.wire.netlink import be32

UDP4 = wire.FlowTuple(ip_address("10.244.0.2"), ip_address("10.96.0.10"), 17, 4321, 53)
UDP6 = wire.FlowTuple(ip_address("fd00::2"), ip_address("fd00:96::a"), 17, 4321, 53)
PING = wire.FlowTuple(ip_address("10.0.0.1"), ip_address("10.0.0.2"), 1, icmp=(8, 0, 77))
PING6 = wire.FlowTuple(ip_address("fd00::1"), ip_address("fd00::2"), 58, icmp=(128, 0, 77))


@pytest.mark.parametrize("flow", [UDP4, UDP6, PING, PING6])
def test_tuples_come_back(flow):
    body = wire.encode_header(flow.source.version) + wire.encode_tuple(wire.CTA_TUPLE_ORIG, flow)
    body += wire.encode_tuple(wire.CTA_TUPLE_REPLY, flow) + be32(wire.CTA_ID, 99) + be32(wire.CTA_TIMEOUT, 30)
    assert wire.decode_flow(body) == wire.Flow(flow, flow, id=99, timeout_s=30)


def test_a_flow_without_tuples_is_none():
    assert wire.decode_flow(wire.encode_header(4)) is None


def test_a_delete_always_names_a_tuple():
    """Without one, the kernel would flush its whole table."""
    body = wire.encode_delete(wire.Flow(UDP4, UDP4, id=5, zone=3))
    assert wire.encode_tuple(wire.CTA_TUPLE_ORIG, UDP4) in body
    assert be32(wire.CTA_ID, 5) in body
