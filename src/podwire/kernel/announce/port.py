"""Answering for addresses of a network segment: what ARP and NDP say of them.

Errors: MachineError (room "kernel/announce"). Holding what is held and releasing what is not is no error.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address


class AnnouncePort(Protocol):
    """The addresses that this machine answers for. They stay when the process that asked ends."""

    def held(self) -> frozenset[IPAddress]:
        """Return the addresses that are answered for, whoever asked for it."""
        ...

    def hold(self, addresses: Iterable[IPAddress]) -> None:
        """Answer for these too."""
        ...

    def release(self, addresses: Iterable[IPAddress]) -> None:
        """Answer for these no longer."""
        ...

    def shout(self, addresses: Iterable[IPAddress]) -> None:
        """Tell the segment, unasked, that these are here: those who knew another machine learn at once."""
        ...
