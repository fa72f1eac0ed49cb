"""The frames that tell a network segment where an address has moved: ARP (RFC 826, 5227) and NDP (RFC 4861)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from podwire.wire.rtnetlink import encode_mac

ETH_ARP, ETH_IPV4, ETH_IPV6 = 0x0806, 0x0800, 0x86DD
_BROADCAST = b"\xff" * 6
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ALL_NODES = IPv6Address("ff02::1")
_ICMPV6, _NEIGHBOUR_ADVERTISEMENT = 58, 136
_OVERRIDE = 1 << 29
_TARGET_LINK_ADDRESS = 2


def encode_announcement(mac: str, address: IPv4Address | IPv6Address) -> bytes:
    """Return the Ethernet frame that says, unasked, to everybody: ``address`` is at ``mac``."""
    if isinstance(address, IPv4Address):
        return _gratuitous_arp(encode_mac(mac), address)
    return _unsolicited_advertisement(encode_mac(mac), address)


def _gratuitous_arp(mac: bytes, address: IPv4Address) -> bytes:
    """An ARP Announcement (RFC 5227 §3): a request whose sender and target address are the same."""
    ethernet = _BROADCAST + mac + struct.pack("!H", ETH_ARP)
    head = struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, 1)
    return ethernet + head + mac + address.packed + bytes(6) + address.packed


def _unsolicited_advertisement(mac: bytes, address: IPv6Address) -> bytes:
    """RFC 4861 §7.2.6: to all nodes, not solicited, overriding what they know."""
    option = struct.pack("!BB", _TARGET_LINK_ADDRESS, 1) + mac
    body = struct.pack("!I", _OVERRIDE) + address.packed + option
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", len(body) + 4, _ICMPV6)
    total = checksum(pseudo + struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, 0) + body)
    message = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, total) + body
    # Hop limit 255: a receiver MUST discard anything less, for it came through a router (§7.1.2).
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + address.packed + _ALL_NODES.packed
    return _ALL_NODES_MAC + mac + struct.pack("!H", ETH_IPV6) + header + message


def checksum(octets: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of octets."""
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
