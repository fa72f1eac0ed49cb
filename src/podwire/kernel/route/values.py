"""Routes as values."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from podwire.kernel.link.values import IPAddress

IPNetwork: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table. ``via`` None: on link. ``source``: the preferred source."""

    destination: IPNetwork
    link: int = 0  # 0: the kernel finds the link from ``via``
    via: IPAddress | None = None
    source: IPAddress | None = None
    onlink: bool = False
    protocol: int = 3  # RTPROT_BOOT, as `ip route add` writes it; 2 is RTPROT_KERNEL
    metric: int = 0
    scope_link: bool = False
    mtu_bytes: int = 0
    type: int = 1  # RTN_UNICAST; 6 blackhole, 7 unreachable
