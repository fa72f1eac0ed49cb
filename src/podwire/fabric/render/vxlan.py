"""VXLAN (RFC 7348), as flannel lays it out.

    pod 10.244.0.5 -> cni0 -> route 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink
                           -> neighbour 10.244.1.0 lladdr PEER-MAC
                           -> FDB PEER-MAC dst PEER-PUBLIC-IP -> UDP 8472 on the underlay

The kernel learns nothing (``nolearning``): every entry is written, so no packet waits for an answer.
"""

from __future__ import annotations

import hashlib

from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Entries, Home, Path
from podwire.kernel.link.values import FdbEntry, Neighbour, Vxlan
from podwire.kernel.route.values import Route

# Outer Ethernet 14 + UDP 8 + VXLAN 8 + outer IP: 20 for IPv4, 40 for IPv6.
OVERHEAD_BYTES = {4: 50, 6: 70}


def device_name(vni: int, version: int) -> str:
    """Return "flannel.1", or "flannel-v6.1" for the IPv6 overlay."""
    return f"flannel.{vni}" if version == 4 else f"flannel-v6.{vni}"


def derive_mac(node_name: str, vni: int, version: int) -> str:
    """Return the MAC of a node's device: the same after every restart, so peers never hold a stale one."""
    digest = hashlib.sha256(f"{node_name}/{vni}/{version}".encode()).digest()
    first = digest[0] & 0xFC | 0x02  # locally administered, unicast
    return bytes((first, *digest[1:6])).hex(":")


def mtu_bytes(config: FabricConfig, home: Home) -> int:
    """Return the device's MTU: what the underlay carries less the encapsulation."""
    return (config.mtu_bytes or home.underlay_mtu_bytes) - OVERHEAD_BYTES[home.version]


def render_device(config: FabricConfig, home: Home, mac: str) -> Vxlan:
    """Return the device that carries one family."""
    return Vxlan(
        name=device_name(config.vni, home.version),
        vni=config.vni,
        port=config.port,
        local=home.public_ip,
        dev=home.underlay,
        learning=config.learning,
        mtu_bytes=mtu_bytes(config, home),
        mac=mac,
    )


def render_path(path: Path, link: int) -> Entries:
    """Return what the device ``link`` needs to reach a peer."""
    gateway = path.subnet.network_address
    return Entries(
        frozenset({Route(path.subnet, link, gateway, onlink=True)}),
        frozenset({Neighbour(link, gateway, path.mac)}),
        frozenset({FdbEntry(link, path.mac, path.public_ip)}),
    )
