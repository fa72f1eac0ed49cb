"""Route values <-> rtnetlink messages. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Network, IPv6Network

from podwire.kernel.link.codec import family_of
from podwire.kernel.link.values import IPAddress
from podwire.kernel.netlink import Request
from podwire.kernel.route.values import Route
from podwire.wire import rtnetlink as rt
from podwire.wire.netlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Message,
    attribute,
    decode_attributes,
    decode_u32,
    nest,
    u32,
)

_IPV6_DEFAULT_METRIC = 1024  # what the kernel makes of metric 0
_RTNEXTHOP = struct.Struct("=HBBi")


def route_request(type: int, route: Route) -> Request:
    """Return the request that replaces (RTM_NEWROUTE) or removes (RTM_DELROUTE) a route of the main table."""
    scope = rt.SCOPES["link"] if route.scope_link and route.destination.version == 4 else rt.SCOPES["global"]
    adding = type == rt.RTM_NEWROUTE
    if not adding:
        scope = rt.SCOPES["nowhere"]  # matches every scope
    header = rt.RtMsg(
        family=rt.AF_INET if route.destination.version == 4 else rt.AF_INET6,
        destination_bits=route.destination.prefixlen,
        source_bits=0,
        tos=0,
        table=rt.RT_TABLE_MAIN,
        protocol=route.protocol if adding else 0,
        scope=scope,
        type=route.type if adding or route.type != rt.RTN_UNICAST else 0,
        flags=rt.RTNH_F_ONLINK if route.onlink and adding else 0,
    )
    parts = [rt.encode_rtmsg(header)]
    if route.destination.prefixlen:
        parts.append(attribute(rt.RTA_DST, route.destination.network_address.packed))
    parts += _next_hop(route)
    if route.metric:
        parts.append(u32(rt.RTA_PRIORITY, route.metric))
    if route.mtu_bytes and adding:
        parts.append(nest(rt.RTA_METRICS, u32(rt.RTAX_MTU, route.mtu_bytes), flag=False))
    return Request(type, NLM_F_CREATE | NLM_F_REPLACE if adding else 0, b"".join(parts))


def _next_hop(route: Route) -> list[bytes]:
    parts = []
    if route.via is not None and route.via.version == route.destination.version:
        parts.append(attribute(rt.RTA_GATEWAY, route.via.packed))
    elif route.via is not None:  # RFC 5549: an IPv4 route through an IPv6 gateway
        value = struct.pack("=H", family_of(route.via)) + route.via.packed
        parts.append(attribute(rt.RTA_VIA, value))
    if route.link:
        parts.append(u32(rt.RTA_OIF, route.link))
    if route.source is not None:
        parts.append(attribute(rt.RTA_PREFSRC, route.source.packed))
    return parts


def list_body(family: int) -> bytes:
    """Return the body of a dump of the main table."""
    header = rt.RtMsg(family, 0, 0, 0, 0, 0, 0, 0, 0)
    return rt.encode_rtmsg(header) + u32(rt.RTA_TABLE, rt.RT_TABLE_MAIN)


def lookup_request(destination: IPAddress) -> Request:
    """Return the request for the table's entry that a packet to ``destination`` takes."""
    bits = destination.max_prefixlen
    header = rt.RtMsg(family_of(destination), bits, 0, 0, 0, 0, 0, 0, rt.RTM_F_FIB_MATCH)
    body = rt.encode_rtmsg(header) + attribute(rt.RTA_DST, destination.packed)
    return Request(rt.RTM_GETROUTE, 0, body)


def decode_route(message: Message) -> tuple[int, Route] | None:
    """Return (table, route) of an RTM_*ROUTE message; None for clones and other families.

    Of a multipath route the first hop is told. IPv6's default metric 1024 reads as 0, as it was asked for.
    """
    header = rt.decode_rtmsg(message.body)
    if header.flags & rt.RTM_F_CLONED or header.family not in (rt.AF_INET, rt.AF_INET6):
        return None
    found = decode_attributes(message.body, rt.RTMSG_BYTES)
    flags = header.flags
    if rt.RTA_MULTIPATH in found:
        _, flags, _, first = _RTNEXTHOP.unpack_from(found[rt.RTA_MULTIPATH])
        hop = decode_attributes(found[rt.RTA_MULTIPATH], _RTNEXTHOP.size)
        found = {**hop, **found, rt.RTA_OIF: struct.pack("=i", first)}
    bits = header.destination_bits
    destination: IPv4Network | IPv6Network
    if header.family == rt.AF_INET:
        destination = IPv4Network((found.get(rt.RTA_DST, bytes(4)), bits))
    else:
        destination = IPv6Network((found.get(rt.RTA_DST, bytes(16)), bits))
    table = decode_u32(found[rt.RTA_TABLE]) if rt.RTA_TABLE in found else header.table
    metric = decode_u32(found.get(rt.RTA_PRIORITY, bytes(4)))
    metrics = decode_attributes(found.get(rt.RTA_METRICS, b""))
    link = decode_u32(found.get(rt.RTA_OIF, bytes(4)))
    if header.type in (rt.RTN_BLACKHOLE, rt.RTN_UNREACHABLE, rt.RTN_PROHIBIT):
        link = 0  # IPv6 says "lo", IPv4 nothing
    return table, Route(
        destination=destination,
        link=link,
        via=_gateway(found),
        source=rt.decode_ip(found[rt.RTA_PREFSRC]) if rt.RTA_PREFSRC in found else None,
        onlink=bool(flags & rt.RTNH_F_ONLINK),
        protocol=header.protocol,
        metric=0 if header.family == rt.AF_INET6 and metric == _IPV6_DEFAULT_METRIC else metric,
        scope_link=header.family == rt.AF_INET and header.scope == rt.SCOPES["link"],
        mtu_bytes=decode_u32(metrics.get(rt.RTAX_MTU, bytes(4))),
        type=header.type,
    )


def _gateway(found: dict[int, bytes]) -> IPAddress | None:
    if rt.RTA_GATEWAY in found:
        return rt.decode_ip(found[rt.RTA_GATEWAY])
    if rt.RTA_VIA in found:
        return rt.decode_ip(found[rt.RTA_VIA][2:])
    return None
