"""Answers for addresses with the kernel's own ARP and NDP.

The addresses lie on a link of their own, ``podwire-lb``, which leads nowhere: everything on it is ours, and
removing it removes all. Linux answers ARP for an address of any of its links (arp_ignore 0). It answers NDP
only for addresses of the asked link, so IPv6 ones are entered there as proxy neighbours as well. On the
segment's own link they would become source addresses of the node's traffic; here they do not.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_interface

from podwire.kernel.announce.port import IPAddress
from podwire.kernel.link.real import RealLinks
from podwire.kernel.link.values import Bridge, Dummy, Link
from podwire.kernel.netlink import Request, machine_error
from podwire.kernel.sysctl.port import SysctlPort
from podwire.model.errors import MachineError
from podwire.wire import rtnetlink as rt
from podwire.wire.neighbours import encode_announcement
from podwire.wire.netlink import NLM_F_CREATE, attribute

LINK = "podwire-lb"
_ROOM = "kernel/announce"
_NTF_PROXY = 0x08


class RealAnnounce:
    """Bound to the network namespace in which it is made, and to the link that carries ``node_addresses``."""

    def __init__(self, node_addresses: Sequence[IPAddress], sysctl: SysctlPort) -> None:
        self._node_addresses, self._sysctl = tuple(node_addresses), sysctl
        self._links = RealLinks()

    def held(self) -> frozenset[IPAddress]:
        """Return the addresses on our link."""
        link = self._links.find(LINK)
        if link is None:
            return frozenset()
        found = (a.interface for a in self._links.addresses(link.index))
        return frozenset(i.ip for i in found if not i.ip.is_link_local)

    def hold(self, addresses: Iterable[IPAddress]) -> None:
        """Add the addresses to our link; IPv6 ones as proxy neighbours to the segment's."""
        wanted = tuple(addresses)
        if not wanted:
            return
        link, segment = self._ensure_link(), self._segment()
        for address in wanted:
            self._links.add_address(link.index, ip_interface(f"{address}/{address.max_prefixlen}"))
            if isinstance(address, IPv6Address):
                self._let_proxy(segment.name)
                self._proxy(rt.RTM_NEWNEIGH, segment, address)

    def release(self, addresses: Iterable[IPAddress]) -> None:
        """Take the addresses away."""
        link = self._links.find(LINK)
        if link is None:
            return
        for address in addresses:
            if isinstance(address, IPv6Address):
                self._proxy(rt.RTM_DELNEIGH, self._segment(), address)
            self._links.delete_address(link.index, ip_interface(f"{address}/{address.max_prefixlen}"))

    def shout(self, addresses: Iterable[IPAddress]) -> None:
        """Send gratuitous ARP and unsolicited neighbour advertisements."""
        frames = tuple(addresses)
        if not frames:
            return
        segment = self._segment()
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as sender:
                sender.bind((segment.name, 0))
                for address in frames:
                    sender.send(encode_announcement(segment.mac, address))
        except OSError as error:
            raise machine_error(_ROOM, "announce on", segment.name, error.errno or errno.EIO) from error

    def _segment(self) -> Link:
        """Return the link that carries the node's own address."""
        carrying = {a.link for a in self._links.addresses() if a.interface.ip in self._node_addresses}
        for link in self._links.links():
            if link.index in carrying:
                return link
        names = " ".join(map(str, self._node_addresses))
        raise MachineError(_ROOM, "find the link of", names, "no link has the node's address")

    def _ensure_link(self) -> Link:
        link = self._links.find(LINK)
        if link is None:
            link = self._create_link()
        if not link.up:
            self._links.set_up(link.index)
        return link

    def _create_link(self) -> Link:
        try:
            return self._links.create(Dummy(LINK))
        except MachineError:  # a kernel without dummy links: a bridge without ports does as well
            return self._links.create(Bridge(LINK))

    def _let_proxy(self, segment: str) -> None:
        self._sysctl.set(f"net/ipv6/conf/{segment}/proxy_ndp", "1")
        self._sysctl.set(f"net/ipv6/neigh/{segment}/proxy_delay", "0")  # no other machine answers, why wait

    def _proxy(self, type: int, segment: Link, address: IPAddress) -> None:
        body = rt.encode_ndmsg(rt.AF_INET6, segment.index, 0, _NTF_PROXY) + attribute(rt.NDA_DST, address.packed)
        error = self._links.socket.transact([Request(type, NLM_F_CREATE, body)])[0].error
        if error is not None and error.errno not in (errno.ENOENT, errno.EEXIST):
            raise machine_error(_ROOM, "proxy neighbour", f"{address} on {segment.name}", error.errno, error.text)
