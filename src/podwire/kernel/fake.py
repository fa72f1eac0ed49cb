"""The state behind the fakes: network namespaces of a machine that exists only in memory.

    machine = FakeMachine()
    netns, links, routes = FakeNetns(machine), machine.links(), machine.routes()
    pod = netns.within(netns.make(), machine.links)

``machine.links`` stands where production hands over ``RealLinks``: it binds to the current namespace.
The fakes keep what the kernel keeps (connected routes, what goes when a link goes), so that a plan that
works on them works on the kernel; one contract test holds both to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from podwire.kernel.link.values import Address, FdbEntry, IPAddress, Link, Neighbour
from podwire.kernel.route.values import Route

if TYPE_CHECKING:
    from podwire.kernel.link.fake import FakeLinks
    from podwire.kernel.link.monitor import Change
    from podwire.kernel.route.fake import FakeRoutes
    from podwire.kernel.sysctl.fake import FakeSysctl

RTPROT_KERNEL = 2
_LOOPBACK = Link(1, "lo", "loopback", "00:00:00:00:00:00", 65536, up=True)


@dataclass(eq=False, slots=True)
class FakeNamespace:
    """One network namespace. ``listeners`` hear every change, as rtnetlink's groups do."""

    id: int
    links: dict[int, Link] = field(default_factory=lambda: {1: _LOOPBACK})
    addresses: list[Address] = field(default_factory=list)
    neighbours: dict[tuple[int, IPAddress], Neighbour] = field(default_factory=dict)
    fdb: dict[tuple[int, str], FdbEntry] = field(default_factory=dict)
    routes: dict[tuple[object, int], Route] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    listeners: list[Callable[[Change], None]] = field(default_factory=list)
    peers: dict[int, tuple[FakeNamespace, int]] = field(default_factory=dict)  # veth: the other end
    isolated: set[int] = field(default_factory=set)
    indexes: itertools.count[int] = field(default_factory=lambda: itertools.count(2))

    def __post_init__(self) -> None:
        self.addresses.append(Address(1, ip_interface("127.0.0.1/8"), "host"))
        self.addresses.append(Address(1, ip_interface("::1/128"), "host"))

    def tell(self, change: Change) -> None:
        """Let the listeners hear of a change."""
        for listener in list(self.listeners):
            listener(change)

    def named(self, name: str) -> Link | None:
        """Return the link of this name, or None."""
        return next((link for link in self.links.values() if link.name == name), None)

    def connected_routes(self, address: Address) -> list[Route]:
        """Return the routes that the kernel makes of an address on a link that is up."""
        interface, network = address.interface, address.interface.network
        if address.scope == "host":
            return []
        if interface.version == 6:
            return [Route(network, address.link, protocol=RTPROT_KERNEL, metric=256)]
        if network.prefixlen == 32:
            return []
        return [Route(network, address.link, source=interface.ip, protocol=RTPROT_KERNEL, scope_link=True)]

    def forget_routes(self, index: int) -> list[Route]:
        """Remove the routes over a link and return them."""
        gone = [r for r in self.routes.values() if r.link == index]
        self.routes = {key: r for key, r in self.routes.items() if r.link != index}
        return gone

    def forget_link(self, index: int) -> None:
        """Remove what hangs on a link that is no more; ports of it become free."""
        self.forget_routes(index)
        self.addresses = [a for a in self.addresses if a.link != index]
        self.neighbours = {k: n for k, n in self.neighbours.items() if k[0] != index}
        self.fdb = {k: e for k, e in self.fdb.items() if k[0] != index}
        self.isolated.discard(index)
        self.links = {
            i: replace(link, master=0, hairpin=False) if link.master == index else link
            for i, link in self.links.items()
        }


class FakeMachine:
    """The namespaces of a machine, by descriptor and by path; ``current`` is the caller's."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._descriptors = itertools.count(1000)
        self._macs = itertools.count(1)
        self.open: dict[int, FakeNamespace] = {}
        self.pinned: dict[str, FakeNamespace] = {}
        self.current = self.make()

    def make(self) -> FakeNamespace:
        """Return a new namespace."""
        return FakeNamespace(next(self._ids))

    def descriptor(self, namespace: FakeNamespace) -> int:
        """Return a new descriptor of a namespace."""
        fd = next(self._descriptors)
        self.open[fd] = namespace
        return fd

    def mac(self) -> str:
        """Return a locally administered address that no other link has."""
        return (0x02_00_00_00_00_00 + next(self._macs)).to_bytes(6, "big").hex(":")

    def links(self) -> FakeLinks:
        """Return the links of the current namespace."""
        from podwire.kernel.link.fake import FakeLinks

        return FakeLinks(self)

    def routes(self) -> FakeRoutes:
        """Return the routes of the current namespace."""
        from podwire.kernel.route.fake import FakeRoutes

        return FakeRoutes(self)

    def sysctl(self) -> FakeSysctl:
        """Return the sysctls of the current namespace."""
        from podwire.kernel.sysctl.fake import FakeSysctl

        return FakeSysctl(self)
