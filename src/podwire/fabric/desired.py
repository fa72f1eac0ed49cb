"""What the fabric wants, as values: where this node stands, how each peer is reached, what the kernel holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from podwire.kernel.link.values import FdbEntry, IPAddress, Neighbour
from podwire.kernel.route.values import IPNetwork, Route


@dataclass(frozen=True, slots=True)
class Home:
    """This node in one IP family: its pods' subnet, and the underlay that carries them."""

    version: int  # 4 or 6
    network: IPNetwork  # of the whole cluster's pods
    subnet: IPNetwork  # of this node's pods
    public_ip: IPAddress  # an address of the underlay link
    underlay: int  # index of the underlay link
    underlay_mtu_bytes: int

    @property
    def gateway(self) -> IPAddress:
        """The first address of the subnet, which the CNI's bridge holds."""
        return self.subnet[1]


@dataclass(frozen=True, slots=True)
class Site:
    """A peer in one IP family, as its Node object announces it."""

    name: str
    version: int
    subnet: IPNetwork
    public_ip: IPAddress
    backend: str
    vni: int = 0
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Path:
    """How one peer's pods are reached. ``mac`` "": directly, with the peer as gateway; else by VXLAN."""

    version: int
    subnet: IPNetwork
    public_ip: IPAddress
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Entries:
    """What the kernel holds for the paths."""

    routes: frozenset[Route] = field(default_factory=frozenset)
    neighbours: frozenset[Neighbour] = field(default_factory=frozenset)
    fdb: frozenset[FdbEntry] = field(default_factory=frozenset)

    def __sub__(self, other: Entries) -> Entries:
        return Entries(self.routes - other.routes, self.neighbours - other.neighbours, self.fdb - other.fdb)

    def __bool__(self) -> bool:
        return bool(self.routes or self.neighbours or self.fdb)

    def __len__(self) -> int:
        return len(self.routes) + len(self.neighbours) + len(self.fdb)


def join(parts: Iterable[Entries]) -> Entries:
    """Return all the entries together."""
    routes: set[Route] = set()
    neighbours: set[Neighbour] = set()
    fdb: set[FdbEntry] = set()
    for part in parts:
        routes |= part.routes
        neighbours |= part.neighbours
        fdb |= part.fdb
    return Entries(frozenset(routes), frozenset(neighbours), frozenset(fdb))
