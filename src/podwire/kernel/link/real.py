"""Links over rtnetlink, in the namespace in which the object was made."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Sequence

from podwire.kernel.link import codec
from podwire.kernel.link.values import (
    Address,
    FdbEntry,
    IPAddress,
    IPInterface,
    Link,
    LinkSpec,
    Neighbour,
)
from podwire.kernel.netlink import NetlinkSocket, Request, machine_error
from podwire.model.errors import MachineError
from podwire.wire import rtnetlink as rt
from podwire.wire.netlink import Message, attribute, text, u32

_ROOM = "kernel/link"
_GONE = (errno.ENODEV, errno.ENOENT, errno.ENXIO)
_NO_ADDRESS = (*_GONE, errno.EADDRNOTAVAIL)


class RealLinks:
    """See ``kernel.link.port``. Give it a ``socket`` to share one with RealRoutes."""

    def __init__(self, socket: NetlinkSocket | None = None) -> None:
        self.socket = socket or NetlinkSocket()

    def close(self) -> None:
        """Close the netlink socket."""
        self.socket.close()

    def links(self) -> tuple[Link, ...]:
        """Return every link, by index."""
        body = rt.encode_ifinfo() + u32(rt.IFLA_EXT_MASK, rt.RTEXT_FILTER_SKIP_STATS)
        messages = self._dump("list", "links", rt.RTM_GETLINK, body)
        return tuple(sorted((codec.decode_link(m) for m in messages), key=lambda link: link.index))

    def find(self, name: str) -> Link | None:
        """Return the link of this name, or None."""
        reply = self.socket.transact([codec.find_request(name)])[0]
        if reply.error is not None:
            if reply.error.errno == errno.ENODEV:
                return None
            raise machine_error(_ROOM, "find", name, reply.error.errno, reply.error.text)
        return codec.decode_link(reply.messages[0])

    def create(self, spec: LinkSpec) -> Link:
        """Make a link and return it, in one exchange with the kernel."""
        replies = self.socket.transact(codec.create_requests(spec))
        for number, reply in enumerate(replies):
            if reply.error is None:
                continue
            if number:  # half-made: a link that nobody was told of must not stay
                self._remove_half_made(spec.name)
            raise machine_error(_ROOM, "create", spec.name, reply.error.errno, reply.error.text)
        return codec.decode_link(replies[-1].messages[0])

    def _remove_half_made(self, name: str) -> None:
        body = rt.encode_ifinfo() + text(rt.IFLA_IFNAME, name)
        self.socket.transact([Request(rt.RTM_DELLINK, 0, body)])

    def delete(self, index: int) -> None:
        """Remove a link; absent: no error."""
        self._do("delete", f"link {index}", Request(rt.RTM_DELLINK, 0, rt.encode_ifinfo(index)), _GONE)

    def delete_all(self, indexes: Sequence[int]) -> None:
        """Remove several links in one act of the kernel; absent ones: no error.

        They become a group of their own (a number that nobody else draws: 31 random bits) and the
        group is deleted (`ip link delete group N`).
        """
        if len(indexes) < 2:
            for index in indexes:
                self.delete(index)
            return
        group = u32(rt.IFLA_GROUP, secrets.randbits(31) | 1)
        for index, reply in zip(
            indexes, self.socket.transact([codec.link_request(i, group) for i in indexes]), strict=True
        ):
            if reply.error is not None and reply.error.errno not in _GONE:
                raise machine_error(_ROOM, "group", f"link {index}", reply.error.errno, reply.error.text)
        self._do("delete", f"links {indexes}", Request(rt.RTM_DELLINK, 0, rt.encode_ifinfo() + group), _GONE)

    def set_up(self, index: int, up: bool = True) -> None:
        """Set a link up or down."""
        flags = rt.IFF_UP if up else 0
        act = "set up" if up else "set down"
        self._do(act, f"link {index}", codec.link_request(index, flags=flags, change=rt.IFF_UP))

    def set_mtu(self, index: int, mtu_bytes: int) -> None:
        """Set the MTU."""
        self._do(f"set MTU {mtu_bytes} of", f"link {index}", codec.link_request(index, codec.mtu(mtu_bytes)))

    def set_mac(self, index: int, mac: str) -> None:
        """Set the hardware address."""
        value = attribute(rt.IFLA_ADDRESS, rt.encode_mac(mac))
        self._do(f"set address {mac} of", f"link {index}", codec.link_request(index, value))

    def set_master(self, index: int, master: int) -> None:
        """Make the link a port of a bridge; 0 takes it out."""
        request = codec.link_request(index, u32(rt.IFLA_MASTER, master))
        self._do(f"set master {master} of", f"link {index}", request)

    def set_bridge_port(self, index: int, *, hairpin: bool | None = None, isolated: bool | None = None) -> None:
        """Set flags of a bridge port; None leaves a flag alone."""
        if hairpin is None and isolated is None:
            return
        value = codec.port_flags(hairpin=hairpin, isolated=isolated)
        self._do("set bridge port flags of", f"link {index}", codec.link_request(index, value))

    def rename(self, index: int, name: str) -> None:
        """Rename a link."""
        request = codec.link_request(index, text(rt.IFLA_IFNAME, name))
        self._do("rename", f"link {index} to {name}", request)

    def move(self, index: int, netns_fd: int) -> None:
        """Move a link into another network namespace; it arrives down."""
        request = codec.link_request(index, u32(rt.IFLA_NET_NS_FD, netns_fd))
        self._do("move", f"link {index}", request)

    def addresses(self, index: int | None = None) -> tuple[Address, ...]:
        """Return the addresses of one link, or of all; IPv4 before IPv6."""
        found: list[Address] = []
        for family in (rt.AF_INET, rt.AF_INET6):
            body = rt.encode_ifaddr(family, index=index or 0)
            try:
                messages = self.socket.dump(rt.RTM_GETADDR, body)
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                    continue  # the link is gone, or this kernel has no such family
                raise self._error("list", "addresses", error) from None
            found += (codec.decode_address(m) for m in messages)
        return tuple(a for a in found if index is None or a.link == index)

    def add_address(self, index: int, interface: IPInterface, *, scope: str = "global", nodad: bool = True) -> None:
        """Add an address. Present already: no error."""
        request = codec.address_request(rt.RTM_NEWADDR, index, interface, scope, nodad)
        self._do("add", f"address {interface} to link {index}", request, (errno.EEXIST,))

    def add_addresses(self, index: int, interfaces: Sequence[IPInterface], *, up: bool = False) -> None:
        """Add global addresses without duplicate detection, and with ``up`` set the link up, in one exchange."""
        requests = [codec.address_request(rt.RTM_NEWADDR, index, i, "global", True) for i in interfaces]
        subjects = [f"address {i} to link {index}" for i in interfaces]
        if up:
            requests.insert(0, codec.link_request(index, flags=rt.IFF_UP, change=rt.IFF_UP))
            subjects.insert(0, f"state up to link {index}")
        for subject, reply in zip(subjects, self.socket.transact(requests), strict=True):
            if reply.error is not None and reply.error.errno != errno.EEXIST:
                raise machine_error(_ROOM, "add", subject, reply.error.errno, reply.error.text)

    def delete_address(self, index: int, interface: IPInterface) -> None:
        """Remove an address; absent: no error."""
        request = codec.address_request(rt.RTM_DELADDR, index, interface, "global", False)
        self._do("delete", f"address {interface} of link {index}", request, _NO_ADDRESS)

    def neighbours(self, index: int) -> tuple[Neighbour, ...]:
        """Return the permanent neighbour entries of a link, by address."""
        body = rt.encode_ndmsg(rt.AF_UNSPEC) + u32(rt.NDA_IFINDEX, index)
        found = [codec.decode_neighbour(m) for m in self._dump_neighbours(index, body)]
        entries = [n for n in found if isinstance(n, Neighbour) and n.link == index and n.permanent]
        return tuple(sorted(entries, key=lambda n: (n.ip.version, n.ip.packed)))

    def replace_neighbour(self, entry: Neighbour) -> None:
        """Add or overwrite a permanent neighbour entry."""
        what = f"neighbour {entry.ip} on link {entry.link}"
        self._do("set", what, codec.neighbour_request(rt.RTM_NEWNEIGH, entry))

    def delete_neighbour(self, index: int, ip: IPAddress) -> None:
        """Remove a neighbour entry; absent: no error."""
        request = codec.neighbour_request(rt.RTM_DELNEIGH, Neighbour(index, ip, ""))
        self._do("delete", f"neighbour {ip} of link {index}", request, _GONE)

    def fdb(self, index: int) -> tuple[FdbEntry, ...]:
        """Return the FDB entries of a VXLAN device, by MAC address."""
        body = rt.encode_ndmsg(rt.AF_BRIDGE) + u32(rt.NDA_IFINDEX, index)
        found = [codec.decode_neighbour(m) for m in self._dump_neighbours(index, body)]
        entries = [e for e in found if isinstance(e, FdbEntry) and e.link == index and e.remote is not None]
        return tuple(sorted(entries, key=lambda e: (e.mac, str(e.remote))))

    def replace_fdb(self, entry: FdbEntry) -> None:
        """Add or overwrite a FDB entry."""
        what = f"FDB entry {entry.mac} on link {entry.link}"
        self._do("set", what, codec.fdb_request(rt.RTM_NEWNEIGH, entry))

    def delete_fdb(self, entry: FdbEntry) -> None:
        """Remove a FDB entry; absent: no error."""
        what = f"FDB entry {entry.mac} of link {entry.link}"
        self._do("delete", what, codec.fdb_request(rt.RTM_DELNEIGH, entry), _GONE)

    def _dump_neighbours(self, index: int, body: bytes) -> list[Message]:
        try:
            return self.socket.dump(rt.RTM_GETNEIGH, body)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return []
            raise self._error("list", f"neighbours of link {index}", error) from None

    def _dump(self, act: str, what: str, type: int, body: bytes) -> list[Message]:
        try:
            return self.socket.dump(type, body)
        except OSError as error:
            raise self._error(act, what, error) from None

    def _do(self, act: str, what: str, request: Request, fulfilled: tuple[int, ...] = ()) -> None:
        error = self.socket.transact([request])[0].error
        if error is not None and error.errno not in fulfilled:
            raise machine_error(_ROOM, act, what, error.errno, error.text)

    def _error(self, act: str, what: str, error: OSError) -> MachineError:
        return machine_error(_ROOM, act, what, error.errno or errno.EIO, str(error.strerror or ""))
