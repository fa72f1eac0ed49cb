"""Addresses answered for, in memory. See ``kernel.announce.port``."""

from __future__ import annotations

from collections.abc import Iterable

from podwire.kernel.announce.port import IPAddress


class FakeAnnounce:
    """Remembers what is held, and every shout in ``shouted``."""

    def __init__(self) -> None:
        self._held: set[IPAddress] = set()
        self.shouted: list[IPAddress] = []

    def held(self) -> frozenset[IPAddress]:
        """Return the addresses that are answered for."""
        return frozenset(self._held)

    def hold(self, addresses: Iterable[IPAddress]) -> None:
        """Answer for these too."""
        self._held.update(addresses)

    def release(self, addresses: Iterable[IPAddress]) -> None:
        """Answer for these no longer."""
        self._held.difference_update(addresses)

    def shout(self, addresses: Iterable[IPAddress]) -> None:
        """Remember that the segment was told."""
        self.shouted += addresses
