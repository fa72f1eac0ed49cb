"""LoadBalancerIPPool objects as values, and the choice of addresses from them. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from podwire.model.errors import Problem
from podwire.model.loadbalancers import IPAddress
from podwire.model.objects import Obj, describe
from podwire.model.selectors import Selector, from_label_selector

_MOST_TRIED = 1 << 16  # of an IPv6 range nobody uses up more


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses from ``first`` to ``last``, both included."""

    first: IPAddress
    last: IPAddress

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.first.version

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return int(self.last) - int(self.first) + 1

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, IPv4Address | IPv6Address) or address.version != self.version:
            return False
        return int(self.first) <= int(address) <= int(self.last)

    def __iter__(self) -> Iterator[IPAddress]:
        make = IPv4Address if self.version == 4 else IPv6Address
        start = int(self.first)
        return (make(start + n) for n in range(min(self.size, _MOST_TRIED)))


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool. ``automatic`` False: only for Services that name it or one of its addresses."""

    name: str
    ranges: tuple[Range, ...]
    automatic: bool = True
    services: Selector | None = None
    problems: tuple[Problem, ...] = ()

    def has(self, address: IPAddress) -> bool:
        """Return whether the address is one of the pool's."""
        return any(address in r for r in self.ranges)


def parse_pool(obj: Obj) -> Pool:
    """Return the pool; what cannot be read is left out and becomes a Problem."""
    spec = obj.get("spec") or {}
    problems: list[Problem] = []
    ranges: list[Range] = []
    for n, text in enumerate(spec.get("addresses") or ()):
        try:
            ranges.append(parse_range(str(text)))
        except ValueError as error:
            problems.append(Problem(describe(obj), f"spec.addresses[{n}]", str(error)))
    selector = None
    if spec.get("serviceSelector"):
        try:
            selector = from_label_selector(spec["serviceSelector"])
        except ValueError as error:
            problems.append(Problem(describe(obj), "spec.serviceSelector", str(error)))
            ranges = []  # whom it is for is unknown: nobody
    automatic = spec.get("autoAssign") is not False
    return Pool(obj["metadata"]["name"], tuple(ranges), automatic, selector, tuple(problems))


def parse_range(text: str) -> Range:
    """Return the range of "192.0.2.10-192.0.2.20", "192.0.2.0/28", or one address. Raises ValueError."""
    first, dash, last = text.partition("-")
    if dash:
        low, high = ip_address(first.strip()), ip_address(last.strip())
        if low.version != high.version:
            raise ValueError(f"{text!r} begins in one IP family and ends in the other")
        if int(low) > int(high):
            raise ValueError(f"{text!r} ends before it begins")
        return Range(low, high)
    if "/" in text:
        network = ip_network(text.strip())
        return Range(network[0], network[-1])
    return Range(ip_address(text.strip()), ip_address(text.strip()))


def pick(pools: Sequence[Pool], version: int, taken: Container[IPAddress]) -> IPAddress | None:
    """Return the first free address of a family, pools in their order; None when all are taken."""
    for pool in pools:
        for part in pool.ranges:
            if part.version == version:
                for address in part:
                    if address not in taken:
                        return address
    return None
