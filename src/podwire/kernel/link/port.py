"""What may be asked of the links of one network namespace.

An implementation is bound to a namespace when it is made and never leaves it. Errors are
``model.errors.MachineError`` (room "kernel/link"), ``NotPermitted`` for EPERM, ``AlreadyInUse`` for EEXIST.
Deleting what is not there is no error: the wish is fulfilled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from podwire.kernel.link.values import Address, FdbEntry, IPAddress, IPInterface, Link, LinkSpec, Neighbour


class LinkPort(Protocol):
    """Links, addresses, neighbours, FDB. Synchronous: each call is tens of microseconds."""

    def links(self) -> tuple[Link, ...]:
        """Return every link, by index."""
        ...

    def find(self, name: str) -> Link | None:
        """Return the link of this name, or None."""
        ...

    def create(self, spec: LinkSpec) -> Link:
        """Make a link (down, but for ``Veth.up``) and return it; for a veth, this side's end."""
        ...

    def delete(self, index: int) -> None:
        """Remove a link; a veth's other end goes with it."""
        ...

    def delete_all(self, indexes: Sequence[int]) -> None:
        """Remove several links in one act of the kernel.

        Each removal waits about 16 ms for the kernel's readers to move on; this waits once for all.
        """
        ...

    def set_up(self, index: int, up: bool = True) -> None:
        """Set a link up or down."""
        ...

    def set_mtu(self, index: int, mtu_bytes: int) -> None:
        """Set the MTU."""
        ...

    def set_mac(self, index: int, mac: str) -> None:
        """Set the hardware address."""
        ...

    def set_master(self, index: int, master: int) -> None:
        """Make the link a port of a bridge; 0 takes it out."""
        ...

    def set_bridge_port(self, index: int, *, hairpin: bool | None = None, isolated: bool | None = None) -> None:
        """Set flags of a bridge port; None leaves a flag alone."""
        ...

    def rename(self, index: int, name: str) -> None:
        """Rename a link that is down."""
        ...

    def move(self, index: int, netns_fd: int) -> None:
        """Move a link into another network namespace."""
        ...

    def addresses(self, index: int | None = None) -> tuple[Address, ...]:
        """Return the addresses of one link, or of all."""
        ...

    def add_address(self, index: int, interface: IPInterface, *, scope: str = "global", nodad: bool = True) -> None:
        """Add an address (IPv4 with the broadcast of its network). Present already: no error."""
        ...

    def add_addresses(self, index: int, interfaces: Sequence[IPInterface], *, up: bool = False) -> None:
        """Add global addresses without duplicate detection, and with ``up`` set the link up, in one exchange."""
        ...

    def delete_address(self, index: int, interface: IPInterface) -> None:
        """Remove an address."""
        ...

    def neighbours(self, index: int) -> tuple[Neighbour, ...]:
        """Return the permanent neighbour entries of a link."""
        ...

    def replace_neighbour(self, entry: Neighbour) -> None:
        """Add or overwrite a permanent neighbour entry."""
        ...

    def delete_neighbour(self, index: int, ip: IPAddress) -> None:
        """Remove a neighbour entry."""
        ...

    def fdb(self, index: int) -> tuple[FdbEntry, ...]:
        """Return the FDB entries of a VXLAN device."""
        ...

    def replace_fdb(self, entry: FdbEntry) -> None:
        """Add or overwrite a FDB entry."""
        ...

    def delete_fdb(self, entry: FdbEntry) -> None:
        """Remove a FDB entry."""
        ...

    def close(self) -> None:
        """Close the netlink socket."""
        ...
