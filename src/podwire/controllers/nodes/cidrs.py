"""The pod CIDRs of nodes: one of each family, stable, never twice. Pure but for its own bitmap."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network


class CidrPool:
    """The subnets of one cluster CIDR, numbered from 0; a number is free, reserved or a node's."""

    def __init__(self, cluster: Network, mask: int, reserved: Iterable[Network] = ()) -> None:
        """``reserved`` networks (the Services') are never handed out. Raises ValueError for a bad mask."""
        if not cluster.prefixlen <= mask <= cluster.max_prefixlen:
            raise ValueError(f"node mask /{mask} does not fit into the cluster CIDR {cluster}")
        self.cluster, self.mask = cluster, mask
        self._size = 1 << (cluster.max_prefixlen - mask)
        self._count = 1 << (mask - cluster.prefixlen)
        self._base = int(cluster.network_address)
        self._taken: set[int] = set()
        self._next = 0
        for network in reserved:
            if network.version == cluster.version and cluster.overlaps(network):
                self._taken.update(self._numbers(network))

    def occupy(self, network: Network) -> bool:
        """Mark a node's network as taken; False when it lies elsewhere or some of it is taken already."""
        if network.version != self.cluster.version or not self.cluster.overlaps(network):
            return False
        numbers = self._numbers(network)
        if any(n in self._taken for n in numbers):
            return False
        self._taken.update(numbers)
        return True

    def allocate(self, preferred: int | None = None) -> Network | None:
        """Return the next free subnet, number ``preferred`` when that one is free; None when there is none.

        It goes round: a subnet that a node left is used last, when nothing routes to the old node any more.
        """
        if preferred is not None and 0 <= preferred < self._count and preferred not in self._taken:
            self._taken.add(preferred)
            return self._network(preferred)
        # Among one more numbers than are taken, one is free.
        for step in range(min(self._count, len(self._taken) + 1)):
            number = (self._next + step) % self._count
            if number not in self._taken:
                self._taken.add(number)
                self._next = (number + 1) % self._count
                return self._network(number)
        return None

    def release(self, network: Network) -> None:
        """Give a node's network back."""
        if network.version == self.cluster.version and self.cluster.overlaps(network):
            self._taken.difference_update(self._numbers(network))

    def _numbers(self, network: Network) -> range:
        first = max(int(network.network_address), self._base)
        last = min(int(network.broadcast_address), self._base + self._size * self._count - 1)
        return range((first - self._base) // self._size, (last - self._base) // self._size + 1)

    def _network(self, number: int) -> Network:
        address = self._base + number * self._size
        kind = IPv4Network if self.cluster.version == 4 else IPv6Network
        return kind((address, self.mask))


def preferred_number(node_name: str) -> int | None:
    """Return the number that a node's name ends in; None when it ends in none.

    node-1 then has 10.244.1.0/24, whichever node registers first: people read addresses.
    """
    match = re.search(r"(?<![0-9])(0|[1-9][0-9]{0,5})$", node_name)
    return int(match[1]) if match else None


def parse_cidrs(texts: Iterable[str]) -> list[Network]:
    """Return the networks; what cannot be read is left out."""
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            continue
    return found
