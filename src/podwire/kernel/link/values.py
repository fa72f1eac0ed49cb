"""What a link is, before and after the kernel has it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Literal, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPInterface: TypeAlias = IPv4Interface | IPv6Interface
Kind = Literal["bridge", "veth", "vxlan", "dummy", "loopback", "tun", "other"]


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel shows it. ``mac`` is "" where there is none (tun)."""

    index: int
    name: str
    kind: Kind
    mac: str
    mtu_bytes: int
    up: bool
    master: int = 0  # index of the bridge it is a port of; 0: none
    peer: int = 0  # veth: index of the other end, in peer_netns_id when that is not -1
    peer_netns_id: int = -1
    alias: str = ""
    vxlan: Vxlan | None = None  # set when kind is "vxlan"
    hairpin: bool = False  # a bridge port that sends frames back where they came from


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge to make."""

    name: str
    mtu_bytes: int = 0  # 0: the kernel's default
    mac: str = ""  # "": the kernel's choice


@dataclass(frozen=True, slots=True)
class Dummy:
    """A dummy link to make."""

    name: str
    mtu_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Veth:
    """A veth pair to make: ``name`` here, ``peer`` in ``peer_netns_fd`` (None: here as well).

    With ``master``, ``hairpin`` and ``up`` the pair is made, plugged into its bridge and this side set up in
    one exchange with the kernel. The kernel cannot set the other side up as it makes it (ENOTCONN):
    ``add_addresses(peer, ..., up=True)`` does, in its namespace.
    """

    name: str
    peer: str
    peer_netns_fd: int | None = None
    mtu_bytes: int = 0
    mac: str = ""
    peer_mac: str = ""
    master: int = 0  # index of the bridge that this side becomes a port of
    hairpin: bool = False
    up: bool = False


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A VXLAN device (RFC 7348). ``nolearning`` as flannel has it."""

    name: str
    vni: int
    port: int  # destination UDP port
    local: IPAddress
    dev: int  # index of the underlay link
    learning: bool = False
    mtu_bytes: int = 0
    mac: str = ""


LinkSpec: TypeAlias = Bridge | Dummy | Veth | Vxlan


@dataclass(frozen=True, slots=True)
class Address:
    """An address on a link. ``scope``: "global", "link" or "host"."""

    link: int
    interface: IPInterface
    scope: str = "global"
    broadcast: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An ARP or NDP entry: ``ip`` is at ``mac`` on ``link``."""

    link: int
    ip: IPAddress
    mac: str
    permanent: bool = True


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """A forwarding entry: frames to ``mac`` go to ``remote`` (VXLAN) or out of port ``link``."""

    link: int
    mac: str
    remote: IPAddress | None = None
