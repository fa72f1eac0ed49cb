"""The fixed headers and the numbers of rtnetlink (rtnetlink(7), include/uapi/linux/rtnetlink.h ...).

Links (ifinfomsg), addresses (ifaddrmsg), routes (rtmsg), neighbours and FDB entries (ndmsg).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

RTNLGRP_LINK, RTNLGRP_NEIGH = 1, 3
RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE = 5, 7
RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE = 9, 11

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10

IFF_UP = 0x1
ARPHRD_LOOPBACK = 772

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_PROTINFO, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_GROUP, IFLA_NET_NS_FD = 12, 18, 20, 27, 28
IFLA_EXT_MASK, IFLA_LINK_NETNSID = 29, 37
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_INFO_PEER = 1
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33

IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING = 1, 3, 4, 7
IFLA_VXLAN_PORT, IFLA_VXLAN_LOCAL6, IFLA_VXLAN_UDP_CSUM = 15, 17, 18
IFLA_VXLAN_UDP_ZERO_CSUM6_TX, IFLA_VXLAN_UDP_ZERO_CSUM6_RX = 19, 20

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 0x02
SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
SCOPE_NAMES = {number: name for name, number in SCOPES.items()}

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 6, 7, 8
RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 9, 15, 18
RTAX_MTU = 2
RTNH_F_ONLINK = 4
RTM_F_CLONED = 0x200
RTM_F_FIB_MATCH = 0x2000
RT_TABLE_MAIN = 254
RTN_UNICAST, RTN_LOCAL, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 1, 2, 6, 7, 8

NDA_DST, NDA_LLADDR, NDA_IFINDEX = 1, 2, 8
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF, NTF_MASTER = 0x02, 0x04

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
IFINFO_BYTES, IFADDR_BYTES = _IFINFO.size, _IFADDR.size
RTMSG_BYTES, NDMSG_BYTES = _RTMSG.size, _NDMSG.size


class IfInfo(NamedTuple):
    """struct ifinfomsg."""

    family: int
    type: int
    link: int
    flags: int
    change: int


class IfAddr(NamedTuple):
    """struct ifaddrmsg."""

    family: int
    prefix: int
    flags: int
    scope: int
    link: int


class RtMsg(NamedTuple):
    """struct rtmsg."""

    family: int
    destination_bits: int
    source_bits: int
    tos: int
    table: int
    protocol: int
    scope: int
    type: int
    flags: int


class NdMsg(NamedTuple):
    """struct ndmsg."""

    family: int
    link: int
    state: int
    flags: int
    type: int


def encode_ifinfo(index: int = 0, flags: int = 0, change: int = 0, family: int = AF_UNSPEC) -> bytes:
    """Return struct ifinfomsg."""
    return _IFINFO.pack(family, 0, index, flags, change)


def decode_ifinfo(body: bytes) -> IfInfo:
    """Return the header of an RTM_*LINK message."""
    return IfInfo(*_IFINFO.unpack_from(body))


def encode_ifaddr(family: int, prefix: int = 0, scope: int = 0, index: int = 0, flags: int = 0) -> bytes:
    """Return struct ifaddrmsg."""
    return _IFADDR.pack(family, prefix, flags, scope, index)


def decode_ifaddr(body: bytes) -> IfAddr:
    """Return the header of an RTM_*ADDR message."""
    return IfAddr(*_IFADDR.unpack_from(body))


def encode_rtmsg(message: RtMsg) -> bytes:
    """Return struct rtmsg."""
    return _RTMSG.pack(*message)


def decode_rtmsg(body: bytes) -> RtMsg:
    """Return the header of an RTM_*ROUTE message."""
    return RtMsg(*_RTMSG.unpack_from(body))


def encode_ndmsg(family: int, index: int = 0, state: int = 0, flags: int = 0) -> bytes:
    """Return struct ndmsg."""
    return _NDMSG.pack(family, index, state, flags, 0)


def decode_ndmsg(body: bytes) -> NdMsg:
    """Return the header of an RTM_*NEIGH message."""
    return NdMsg(*_NDMSG.unpack_from(body))


def encode_mac(mac: str) -> bytes:
    """Return the six bytes of "02:00:00:00:00:01". Raises ValueError."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"{mac!r} is not a MAC address")
    return raw


def decode_mac(value: bytes) -> str:
    """Return a hardware address as text; "" when there is none."""
    return value.hex(":") if value else ""


def decode_ip(value: bytes) -> IPv4Address | IPv6Address:
    """Return the address in an attribute of 4 or 16 bytes. Raises ValueError."""
    if len(value) == 4:
        return IPv4Address(value)
    return IPv6Address(value)
