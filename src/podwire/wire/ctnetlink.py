"""Connection tracking over nfnetlink: bytes <-> tuples (linux/netfilter/nfnetlink_conntrack.h).

Addresses, ports, ids and times are in network order, whatever the machine's.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from podwire.wire.netlink import attribute, be16, be32, decode_attributes, nest, u8, u32

CT_NEW, CT_GET, CT_DELETE = 0x100, 0x101, 0x102

CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_TIMEOUT, CTA_MARK = 1, 2, 3, 7, 8
CTA_ID, CTA_ZONE, CTA_FILTER = 12, 18, 25
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP = {4: (1, 2), 6: (3, 4)}  # source, destination
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_CTA_PROTO_ICMP_ID = {1: 4, 58: 7}  # by protocol; type and code follow it
_CTA_FILTER_ORIG_FLAGS = 1
# What a dump's filter compares of the original tuple (Linux 5.8; older kernels ignore the filter).
_FILTER_IP_DST, _FILTER_PROTO_NUM, _FILTER_DST_PORT = 1 << 1, 1 << 3, 1 << 5

_AF = {4: 2, 6: 10}
_NFGENMSG = struct.Struct("=BBH")
_ZERO4 = bytes(4)

IPAddress = IPv4Address | IPv6Address


class FlowTuple(NamedTuple):
    """One direction of a flow. Ports are 0 where the protocol has none; ICMP: its type, code and id."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    icmp: tuple[int, int, int] | None = None  # type, code, id


class Flow(NamedTuple):
    """One tracked connection. ``reply`` differs from the mirror of ``original`` where it is translated."""

    original: FlowTuple
    reply: FlowTuple
    id: int = 0
    status: int = 0
    timeout_s: int = 0
    mark: int = 0
    zone: int = 0


def encode_header(version: int = 0) -> bytes:
    """Return struct nfgenmsg for an IP version; 0 means both."""
    return _NFGENMSG.pack(_AF.get(version, 0), 0, 0)


def encode_tuple(type: int, flow: FlowTuple) -> bytes:
    """Return CTA_TUPLE_ORIG or CTA_TUPLE_REPLY."""
    source, destination = _CTA_IP[flow.source.version]
    proto = [u8(_CTA_PROTO_NUM, flow.protocol)]
    if flow.icmp is not None:
        first = _CTA_PROTO_ICMP_ID.get(flow.protocol, 4)
        kind, code, id = flow.icmp
        proto += [be16(first, id), u8(first + 1, kind), u8(first + 2, code)]
    else:
        proto.append(be16(_CTA_PROTO_SRC_PORT, flow.source_port))
        proto.append(be16(_CTA_PROTO_DST_PORT, flow.destination_port))
    return nest(
        type,
        nest(
            _CTA_TUPLE_IP,
            attribute(source, flow.source.packed),
            attribute(destination, flow.destination.packed),
        ),
        nest(_CTA_TUPLE_PROTO, *proto),
    )


def encode_delete(flow: Flow) -> bytes:
    """Return the body of CT_DELETE for exactly this flow (its id guards against a newer one)."""
    # A CT_DELETE without a tuple would flush the whole table.
    parts = [encode_header(flow.original.source.version), encode_tuple(CTA_TUPLE_ORIG, flow.original)]
    if flow.zone:
        parts.append(be16(CTA_ZONE, flow.zone))
    if flow.id:
        parts.append(be32(CTA_ID, flow.id))
    return b"".join(parts)


def encode_destination_filter(destination: IPAddress, protocol: int, port: int) -> bytes:
    """Return the body of a CT_GET dump of the flows first sent to an address, protocol and port.

    The kernel's filter may let more through: compare each flow.
    """
    flags = _FILTER_PROTO_NUM | _FILTER_DST_PORT
    if destination.version == 4:  # for IPv6 addresses Linux (6.18 still) keeps those that differ
        flags |= _FILTER_IP_DST
    blank = type(destination)(0)
    return b"".join(
        (
            encode_header(destination.version),
            encode_tuple(CTA_TUPLE_ORIG, FlowTuple(blank, destination, protocol, 0, port)),
            nest(CTA_FILTER, u32(_CTA_FILTER_ORIG_FLAGS, flags)),
        )
    )


def decode_flow(body: bytes) -> Flow | None:
    """Return the flow of a CT_NEW message; None when a tuple cannot be read. Raises ValueError."""
    found = decode_attributes(body, _NFGENMSG.size)
    original = decode_tuple(found.get(CTA_TUPLE_ORIG, b""))
    reply = decode_tuple(found.get(CTA_TUPLE_REPLY, b""))
    if original is None or reply is None:
        return None
    return Flow(
        original,
        reply,
        id=_number(found.get(CTA_ID, _ZERO4)),
        status=_number(found.get(CTA_STATUS, _ZERO4)),
        timeout_s=_number(found.get(CTA_TIMEOUT, _ZERO4)),
        mark=_number(found.get(CTA_MARK, _ZERO4)),
        zone=_number(found.get(CTA_ZONE, b"\0\0")),
    )


def decode_tuple(value: bytes) -> FlowTuple | None:
    """Return one direction; None without addresses."""
    found = decode_attributes(value)
    ip = decode_attributes(found.get(_CTA_TUPLE_IP, b""))
    proto = decode_attributes(found.get(_CTA_TUPLE_PROTO, b""))
    if 1 in ip and 2 in ip:
        source: IPAddress = IPv4Address(ip[1])
        destination: IPAddress = IPv4Address(ip[2])
    elif 3 in ip and 4 in ip:
        source, destination = IPv6Address(ip[3]), IPv6Address(ip[4])
    else:
        return None
    protocol = _number(proto.get(_CTA_PROTO_NUM, b"\0"))
    first = _CTA_PROTO_ICMP_ID.get(protocol)
    icmp = None
    if first is not None and first in proto:
        icmp = (_number(proto[first + 1]), _number(proto[first + 2]), _number(proto[first]))
    return FlowTuple(
        source,
        destination,
        protocol,
        _number(proto.get(_CTA_PROTO_SRC_PORT, b"")),
        _number(proto.get(_CTA_PROTO_DST_PORT, b"")),
        icmp,
    )


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")
