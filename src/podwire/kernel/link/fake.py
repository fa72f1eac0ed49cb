"""Links in memory, with the kernel's rules. See ``kernel.fake``."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Address

from podwire.kernel.fake import FakeMachine, FakeNamespace
from podwire.kernel.link.monitor import Change
from podwire.kernel.link.values import (
    Address,
    Bridge,
    Dummy,
    FdbEntry,
    IPAddress,
    IPInterface,
    Kind,
    Link,
    LinkSpec,
    Neighbour,
    Veth,
    Vxlan,
)
from podwire.kernel.netlink import machine_error
from podwire.model.errors import MachineError

_ROOM = "kernel/link"
_MAX_NAME = 15


class FakeLinks:
    """See ``kernel.link.port``. Bound to the machine's current namespace."""

    def __init__(self, machine: FakeMachine | None = None) -> None:
        self.machine = machine or FakeMachine()
        self.namespace: FakeNamespace = self.machine.current

    def close(self) -> None:
        """Nothing to close."""

    def links(self) -> tuple[Link, ...]:
        """Return every link, by index."""
        return tuple(link for _, link in sorted(self.namespace.links.items()))

    def find(self, name: str) -> Link | None:
        """Return the link of this name, or None."""
        return self.namespace.named(name)

    def create(self, spec: LinkSpec) -> Link:
        """Make a link and return it."""
        here = self.namespace
        self._check_name(here, spec.name)
        mac = "" if isinstance(spec, Dummy) else spec.mac
        link = Link(next(here.indexes), spec.name, _kind(spec), mac or self.machine.mac(), 0, up=False)
        if isinstance(spec, Vxlan):
            if spec.dev not in here.links:
                raise _error("create", spec.name, errno.ENODEV)
            if any(_same_tunnel(other, spec) for other in here.links.values()):
                raise _error("create", spec.name, errno.EEXIST)
            mtu_bytes = spec.mtu_bytes or here.links[spec.dev].mtu_bytes - (50 if spec.local.version == 4 else 70)
            link = replace(link, mtu_bytes=mtu_bytes, vxlan=replace(spec, mac=link.mac, mtu_bytes=mtu_bytes))
        else:
            link = replace(link, mtu_bytes=spec.mtu_bytes or 1500)
        if isinstance(spec, Veth):
            link = self._create_peer(link, spec)
        self._put(link)
        return link

    def _create_peer(self, link: Link, spec: Veth) -> Link:
        here = self.namespace
        there = here if spec.peer_netns_fd is None else self.machine.open[spec.peer_netns_fd]
        self._check_name(there, spec.peer)
        far = there is not here
        peer = Link(
            next(there.indexes),
            spec.peer,
            "veth",
            spec.peer_mac or self.machine.mac(),
            link.mtu_bytes,
            up=False,
            peer=link.index,
            peer_netns_id=here.id if far else -1,
        )
        there.links[peer.index] = peer
        there.peers[peer.index] = (here, link.index)
        here.peers[link.index] = (there, peer.index)
        there.tell(Change("link", peer))
        return replace(
            link,
            peer=peer.index,
            peer_netns_id=there.id if far else -1,
            master=spec.master,
            up=spec.up,
            hairpin=bool(spec.master) and spec.hairpin,
        )

    def delete(self, index: int) -> None:
        """Remove a link; a veth's other end goes with it."""
        here = self.namespace
        link = here.links.get(index)
        if link is None:
            return
        if link.kind == "loopback":
            raise _error("delete", f"link {index}", errno.EOPNOTSUPP)
        del here.links[index]
        here.forget_link(index)
        here.tell(Change("link", link, gone=True))
        if index in here.peers:
            there, other = here.peers.pop(index)
            if other in there.peers:
                del there.peers[other]
                gone = there.links.pop(other)
                there.forget_link(other)
                there.tell(Change("link", gone, gone=True))

    def delete_all(self, indexes: Sequence[int]) -> None:
        """Remove several links."""
        for index in indexes:
            self.delete(index)

    def set_up(self, index: int, up: bool = True) -> None:
        """Set a link up or down; down takes routes and neighbours with it."""
        here, link = self.namespace, self._get("set up", index)
        if link.up == up:
            return
        self._put(replace(link, up=up))
        if up:
            for address in [a for a in here.addresses if a.link == index]:
                self._connect(address)
            return
        for route in here.forget_routes(index):
            here.tell(Change("route", route, gone=True))
        here.neighbours = {k: n for k, n in here.neighbours.items() if k[0] != index}

    def _connect(self, address: Address) -> None:
        for route in self.namespace.connected_routes(address):
            self.namespace.routes.setdefault((route.destination, route.metric), route)

    def set_mtu(self, index: int, mtu_bytes: int) -> None:
        """Set the MTU."""
        link = self._get("set MTU of", index)
        if not 68 <= mtu_bytes <= 65536:
            raise _error("set MTU of", f"link {index}", errno.EINVAL)
        vxlan = replace(link.vxlan, mtu_bytes=mtu_bytes) if link.vxlan else None
        self._put(replace(link, mtu_bytes=mtu_bytes, vxlan=vxlan))

    def set_mac(self, index: int, mac: str) -> None:
        """Set the hardware address."""
        link = self._get("set address of", index)
        vxlan = replace(link.vxlan, mac=mac) if link.vxlan else None
        self._put(replace(link, mac=mac, vxlan=vxlan))

    def set_master(self, index: int, master: int) -> None:
        """Make the link a port of a bridge; 0 takes it out."""
        link = self._get("set master of", index)
        if master and self._get("set master of", master).kind != "bridge":
            raise _error("set master of", f"link {index}", errno.EOPNOTSUPP)
        self._put(replace(link, master=master, hairpin=link.hairpin and bool(master)))

    def set_bridge_port(self, index: int, *, hairpin: bool | None = None, isolated: bool | None = None) -> None:
        """Set flags of a bridge port; None leaves a flag alone."""
        here = self.namespace
        if hairpin is None and isolated is None:
            return
        link = self._get("set bridge port flags of", index)
        if not link.master:
            raise _error("set bridge port flags of", f"link {index}", errno.EINVAL)
        if hairpin is not None:
            self._put(replace(link, hairpin=hairpin))
        if isolated is not None:
            (here.isolated.add if isolated else here.isolated.discard)(index)

    def rename(self, index: int, name: str) -> None:
        """Rename a link."""
        link = self._get("rename", index)
        self._check_name(self.namespace, name)
        self._put(replace(link, name=name))

    def move(self, index: int, netns_fd: int) -> None:
        """Move a link into another network namespace; it arrives down, without addresses."""
        here, there = self.namespace, self.machine.open[netns_fd]
        link = self._get("move", index)
        self._check_name(there, link.name)
        del here.links[index]
        here.forget_link(index)
        here.tell(Change("link", link, gone=True))
        new = next(there.indexes) if index in there.links else index
        if index in here.peers:
            other, other_index = here.peers.pop(index)
            there.peers[new] = (other, other_index)
            other.peers[other_index] = (there, new)
            far = other is not there
            link = replace(link, peer=other_index, peer_netns_id=other.id if far else -1)
            end = other.links[other_index]
            other.links[other_index] = replace(end, peer=new, peer_netns_id=there.id if far else -1)
        there.links[new] = replace(link, index=new, up=False, master=0)
        there.tell(Change("link", there.links[new]))

    def addresses(self, index: int | None = None) -> tuple[Address, ...]:
        """Return the addresses of one link, or of all; IPv4 before IPv6."""
        found = [a for a in self.namespace.addresses if index is None or a.link == index]
        return tuple(sorted(found, key=lambda a: a.interface.version))

    def add_address(self, index: int, interface: IPInterface, *, scope: str = "global", nodad: bool = True) -> None:
        """Add an address. Present already: no error."""
        link, here = self._get("add address to", index), self.namespace
        if any(a.link == index and a.interface == interface for a in here.addresses):
            return
        broadcast = None
        if isinstance(interface, IPv4Interface) and interface.network.prefixlen < 31:
            broadcast = interface.network.broadcast_address
        address = Address(index, interface, scope, broadcast)
        here.addresses.append(address)
        here.tell(Change("address", address))
        if link.up:
            self._connect(address)

    def add_addresses(self, index: int, interfaces: Sequence[IPInterface], *, up: bool = False) -> None:
        """Add global addresses, and with ``up`` set the link up first."""
        if up:
            self.set_up(index)
        for interface in interfaces:
            self.add_address(index, interface)

    def delete_address(self, index: int, interface: IPInterface) -> None:
        """Remove an address, and the routes that the kernel made of it; absent: no error."""
        here = self.namespace
        for address in [a for a in here.addresses if a.link == index and a.interface == interface]:
            here.addresses.remove(address)
            here.tell(Change("address", address, gone=True))
            for route in here.connected_routes(address):
                if here.routes.get((route.destination, route.metric)) == route:
                    del here.routes[(route.destination, route.metric)]
                    here.tell(Change("route", route, gone=True))

    def neighbours(self, index: int) -> tuple[Neighbour, ...]:
        """Return the permanent neighbour entries of a link, by address."""
        found = [n for n in self.namespace.neighbours.values() if n.link == index]
        return tuple(sorted(found, key=lambda n: (n.ip.version, n.ip.packed)))

    def replace_neighbour(self, entry: Neighbour) -> None:
        """Add or overwrite a permanent neighbour entry."""
        self._get("set neighbour of", entry.link)
        self.namespace.neighbours[(entry.link, entry.ip)] = entry
        self.namespace.tell(Change("neighbour", entry))

    def delete_neighbour(self, index: int, ip: IPAddress) -> None:
        """Remove a neighbour entry; absent: no error."""
        gone = self.namespace.neighbours.pop((index, ip), None)
        if gone is not None:
            self.namespace.tell(Change("neighbour", gone, gone=True))

    def fdb(self, index: int) -> tuple[FdbEntry, ...]:
        """Return the FDB entries of a VXLAN device, by MAC address."""
        found = [e for e in self.namespace.fdb.values() if e.link == index and e.remote is not None]
        return tuple(sorted(found, key=lambda e: (e.mac, str(e.remote))))

    def replace_fdb(self, entry: FdbEntry) -> None:
        """Add or overwrite a FDB entry."""
        link = self._get("set FDB entry of", entry.link)
        if entry.remote is not None and link.vxlan is None:
            raise _error("set FDB entry of", f"link {entry.link}", errno.EOPNOTSUPP)
        if entry.remote is not None and link.vxlan is not None:
            six = isinstance(link.vxlan.local, IPv6Address)
            if six != isinstance(entry.remote, IPv6Address):
                raise _error("set FDB entry of", f"link {entry.link}", errno.EAFNOSUPPORT)
        self.namespace.fdb[(entry.link, entry.mac)] = entry
        self.namespace.tell(Change("fdb", entry))

    def delete_fdb(self, entry: FdbEntry) -> None:
        """Remove a FDB entry; absent: no error."""
        gone = self.namespace.fdb.pop((entry.link, entry.mac), None)
        if gone is not None:
            self.namespace.tell(Change("fdb", gone, gone=True))

    def _get(self, act: str, index: int) -> Link:
        link = self.namespace.links.get(index)
        if link is None:
            raise _error(act, f"link {index}", errno.ENODEV)
        return link

    def _put(self, link: Link) -> None:
        self.namespace.links[link.index] = link
        self.namespace.tell(Change("link", link))

    def _check_name(self, namespace: FakeNamespace, name: str) -> None:
        if len(name) > _MAX_NAME:
            raise _error("create", name, errno.ERANGE)
        if namespace.named(name) is not None:
            raise _error("create", name, errno.EEXIST)


class FakeMonitor:
    """Hears the changes of a fake namespace: the current one of ``machine``."""

    def __init__(self, machine: FakeMachine) -> None:
        self._queue: asyncio.Queue[Change] = asyncio.Queue()
        self._namespace = machine.current
        self._namespace.listeners.append(self._queue.put_nowait)

    def close(self) -> None:
        """Stop listening."""
        self._namespace.listeners.remove(self._queue.put_nowait)

    async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        """Yield changes one by one."""
        while True:
            yield (await self._queue.get(),)


def _kind(spec: LinkSpec) -> Kind:
    match spec:
        case Bridge():
            return "bridge"
        case Dummy():
            return "dummy"
        case Veth():
            return "veth"
        case Vxlan():
            return "vxlan"


def _same_tunnel(link: Link, spec: Vxlan) -> bool:
    # The kernel takes one device per VNI, port and family.
    other = link.vxlan
    return other is not None and (other.vni, other.port, other.local.version) == (
        spec.vni,
        spec.port,
        spec.local.version,
    )


def _error(act: str, subject: str, number: int) -> MachineError:
    return machine_error(_ROOM, act, subject, number)
