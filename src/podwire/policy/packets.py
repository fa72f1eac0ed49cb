"""A small world of namespaces in which packets are judged by the kernel: two nodes, pods, strangers.

    outside  192.168.71.1 ── bridge ─┬─ node-0 192.168.71.10 ── cni0 10.244.0.1 ── pods 10.244.0.10 ...
    203.0.113.7, 198.51.100.9        └─ node-1 192.168.71.11 ── cni0 10.244.1.1 ── pods 10.244.1.11 ...

Probes are raw packets, each with a source port of its own; every place where one may arrive is watched. A packet
that is dropped is known to be once the world is quiet: nobody waits for a timeout. Everything is in namespaces made
here; nothing has a way out.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeVar

from podwire.kernel.conntrack.real import RealConntrack
from podwire.kernel.link.real import RealLinks
from podwire.kernel.link.values import Bridge, Veth
from podwire.kernel.netns.real import RealNetns
from podwire.kernel.nft.real import RealNft
from podwire.kernel.route.real import RealRoutes
from podwire.kernel.route.values import Route
from podwire.kernel.sysctl.real import RealSysctl
from podwire.policy import fuzz
from podwire.policy.rules import IPAddress

_T = TypeVar("_T")
_QUIET_S = 0.003
_FIRST_PORT, _LAST_PORT = 20000, 60000
ETH_P_ALL = 3
OUTGOING = 4
NUMBERS = {"TCP": 6, "UDP": 17, "ICMP": 1, "ICMPv6": 58}


@dataclass(frozen=True, slots=True)
class Sent:
    """One packet to send."""

    source: IPAddress
    destination: IPAddress
    protocol: str
    port: int


class PacketWorld:
    """Namespaces, wired up. ``close`` lets go of them."""

    def __init__(self) -> None:
        self._netns = RealNetns()
        self._fds: dict[str, int] = {}
        self._senders: dict[tuple[str, int], socket.socket] = {}
        self._watchers: dict[int, tuple[str, socket.socket]] = {}
        self._places: dict[IPAddress, str] = {}
        self._serial = _FIRST_PORT
        self._build()
        self.nft = {name: self.within(name, RealNft) for name in fuzz.NODES}
        self._conntrack = {name: self.within(name, RealConntrack) for name in fuzz.NODES}

    def within(self, place: str, act: Callable[[], _T]) -> _T:
        """Return what ``act`` returns in a node or pod."""
        return self._netns.within(self._fds[place], act)

    def close(self) -> None:
        """Let go of the namespaces: the kernel ends them."""
        for sock in (*self._senders.values(), *(s for _, s in self._watchers.values())):
            sock.close()
        for name in fuzz.NODES:
            self.nft[name].close()
            self._conntrack[name].close()
        for fd in self._fds.values():
            os.close(fd)

    def forget_connections(self) -> None:
        """Let the nodes forget every connection."""
        for table in self._conntrack.values():
            table.flush()

    def deliver(self, probes: Sequence[Sent]) -> list[bool]:
        """Send the packets; return which of them arrived, in order."""
        marks: dict[tuple[int, IPAddress], int] = {}
        arrived: set[int] = set()
        for index, probe in enumerate(probes):
            self._serial = self._serial + 1 if self._serial < _LAST_PORT else _FIRST_PORT
            marks[self._serial, probe.destination] = index
            sender = self._senders[self._places[probe.source], probe.source.version]
            sender.sendto(encode_packet(probe, self._serial), (str(probe.destination), 0))
            if index % 64 == 63:
                self._collect(marks, arrived, 0.0)
        self._collect(marks, arrived, _QUIET_S)
        return [n in arrived for n in range(len(probes))]

    def _collect(self, marks: dict[tuple[int, IPAddress], int], arrived: set[int], quiet_s: float) -> None:
        while True:
            ready, _, _ = select.select(list(self._watchers), [], [], quiet_s)
            if not ready:
                return
            for fd in ready:
                self._drain(fd, marks, arrived)

    def _drain(self, fd: int, marks: dict[tuple[int, IPAddress], int], arrived: set[int]) -> None:
        place, sock = self._watchers[fd]
        while True:
            try:
                frame, address = sock.recvfrom(256)
            except BlockingIOError:
                return
            seen = decode_packet(frame) if address[2] != OUTGOING else None
            # Between the nodes a packet can be seen on its way; it has arrived where its destination is.
            if seen is not None and seen in marks and self._places[seen[1]] == place:
                arrived.add(marks[seen])

    # --- wiring

    def _build(self) -> None:
        for place in ("outside", *fuzz.NODES, *(f"slot-{n}" for n in range(fuzz.SLOTS))):
            self._fds[place] = self._netns.make()
            self.within(place, _calm)
        self.within("outside", self._build_outside)
        for number, name in enumerate(fuzz.NODES):
            self.within(name, lambda n=number: self._build_node(n))  # type: ignore[misc]
        for number in range(fuzz.SLOTS):
            self._build_slot(number)

    def _build_outside(self) -> None:
        links, routes = RealLinks(), RealRoutes()
        bridge = links.create(Bridge("br0"))
        links.add_addresses(bridge.index, [ip_interface("192.168.71.1/24"), ip_interface("fd00:71::1/64")], up=True)
        lo = links.find("lo")
        assert lo is not None
        strangers = [ip_address(a) for v in (4, 6) for a in fuzz.STRANGERS[v]]
        links.add_addresses(lo.index, [ip_interface(str(a)) for a in strangers])
        for number, name in enumerate(fuzz.NODES):
            links.create(Veth(f"n{number}", "eth0", self._fds[name], master=bridge.index, up=True))
            for cidr, via in _node_routes(number):
                routes.replace(Route(ip_network(cidr), via=ip_address(via)))
        self._places.update(dict.fromkeys(strangers, "outside"))
        self._watch("outside")
        links.close()
        routes.close()

    def _build_node(self, number: int) -> None:
        links, routes, sysctl = RealLinks(), RealRoutes(), RealSysctl()
        eth0 = links.find("eth0")
        assert eth0 is not None
        mine = [f"192.168.71.{10 + number}/24", f"fd00:71::{10 + number}/64"]
        links.add_addresses(eth0.index, [ip_interface(a) for a in mine], up=True)
        bridge = links.create(Bridge("cni0", mac=f"0a:58:0a:f4:{number:02x}:01"))
        gateways = [ip_interface(f"10.244.{number}.1/24"), ip_interface(f"fd00:10:244:{number}::1/64")]
        links.add_addresses(bridge.index, gateways, up=True)
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", *(f"bridge/bridge-nf-call-{t}" for t in _TABLES)):
            sysctl.set(f"net/{name}", "1")
        for via, anywhere in (("192.168.71.1", "0.0.0.0/0"), ("fd00:71::1", "::/0")):
            routes.replace(Route(ip_network(anywhere), via=ip_address(via)))
        for cidr, gateway in _node_routes(1 - number):
            routes.replace(Route(ip_network(cidr), via=ip_address(gateway)))
        links.close()
        routes.close()

    def _build_slot(self, number: int) -> None:
        place, node = f"slot-{number}", number % len(fuzz.NODES)
        addresses = [ip_address(a) for a in fuzz.slot_addresses(number, dual=True)]

        def plug() -> None:
            links = RealLinks()
            bridge = links.find("cni0")
            assert bridge is not None
            pair = Veth(f"veth{number}", "eth0", self._fds[place], master=bridge.index, hairpin=True, up=True)
            links.create(pair)
            links.close()

        def configure() -> None:
            links, routes = RealLinks(), RealRoutes()
            eth0 = links.find("eth0")
            assert eth0 is not None
            links.add_addresses(
                eth0.index, [ip_interface(f"{a}/{24 if a.version == 4 else 64}") for a in addresses], up=True
            )
            for via, anywhere in ((f"10.244.{node}.1", "0.0.0.0/0"), (f"fd00:10:244:{node}::1", "::/0")):
                routes.replace(Route(ip_network(anywhere), via=ip_address(via)))
            self._watch(place)
            links.close()
            routes.close()

        self.within(fuzz.slot_node(number), plug)
        self.within(place, configure)
        self._places.update(dict.fromkeys(addresses, place))

    def _watch(self, place: str) -> None:
        """Listen to what arrives, and open what sends. Called inside the namespace."""
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._watchers[sock.fileno()] = (place, sock)
        for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
            self._senders[place, version] = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)


_TABLES = ("iptables", "ip6tables")


def _node_routes(number: int) -> Iterable[tuple[str, str]]:
    yield f"10.244.{number}.0/24", f"192.168.71.{10 + number}"
    yield f"fd00:10:244:{number}::/64", f"fd00:71::{10 + number}"


def _calm() -> None:
    """No duplicate address detection, no limit on what is answered. Called inside a namespace."""
    sysctl = RealSysctl()
    for which in ("all", "default"):
        sysctl.set(f"net/ipv6/conf/{which}/accept_dad", "0")
        sysctl.set(f"net/ipv4/conf/{which}/rp_filter", "0")


# --- packets


def _sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def encode_packet(probe: Sent, mark: int) -> bytes:
    """Return the packet, IP header first, that opens a connection from port ``mark`` (ICMP: with this id)."""
    six = probe.source.version == 6
    protocol = NUMBERS["ICMPv6" if six and probe.protocol == "ICMP" else probe.protocol]
    match probe.protocol:
        case "TCP":
            body = struct.pack(">HHIIBBHHH", mark, probe.port, 1, 0, 5 << 4, 2, 1024, 0, 0)
            at = 16
        case "UDP":
            body, at = struct.pack(">HHHH", mark, probe.port, 8, 0), 6
        case _:
            body, at = struct.pack(">BBHHH", 128 if six else 8, 0, 0, mark, 1), 2
    ends = probe.source.packed + probe.destination.packed
    pseudo = ends + (struct.pack(">II", len(body), protocol) if six else struct.pack(">HH", protocol, len(body)))
    checksum = _sum(body if protocol == 1 else pseudo + body) or 0xFFFF
    body = body[:at] + struct.pack(">H", checksum) + body[at + 2 :]
    if six:
        return struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + ends + body
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + ends + body


def decode_packet(frame: bytes) -> tuple[int, IPAddress] | None:
    """Return (mark, destination) of a probe in an Ethernet frame; None when it is something else."""
    kind, packet = frame[12:14], frame[14:]
    if kind == b"\x08\x00" and len(packet) >= 28:
        protocol, destination, body = packet[9], ip_address(packet[16:20]), packet[20:]
    elif kind == b"\x86\xdd" and len(packet) >= 48:
        protocol, destination, body = packet[6], ip_address(packet[24:40]), packet[40:]
    else:
        return None
    if protocol in (1, 58):
        return (int.from_bytes(body[4:6], "big"), destination) if body[0] in (8, 128) else None
    return (int.from_bytes(body[0:2], "big"), destination) if protocol in (6, 17) else None
