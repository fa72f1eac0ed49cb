"""Addresses for pods: ranges, and who has which address of them.

Round robin from the address given last, as host-local does it, so that an address rests before it is
used again. The store (``cni.store``) keeps it crash-safe; this file only chooses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from podwire.cni.spec import (
    ADDRESS_TAKEN,
    INVALID_CONFIG,
    RANGE_EXHAUSTED,
    CniError,
    IPAddress,
    IPConfig,
    IPNetwork,
)
from podwire.cni.store import LAST, Owner, Reservations, parse_owner


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses ``first`` to ``last`` of ``subnet``, both given out, ``gateway`` never."""

    subnet: IPNetwork
    first: IPAddress
    last: IPAddress
    gateway: IPAddress

    def __contains__(self, address: object) -> bool:
        return (
            isinstance(address, type(self.first))
            and int(self.first) <= int(address) <= int(self.last)
            and address != self.gateway
        )

    @property
    def size(self) -> int:
        """How many addresses can be given out: 253 of a /24."""
        whole = int(self.last) - int(self.first) + 1
        return whole - (int(self.first) <= int(self.gateway) <= int(self.last))

    def after(self, start: IPAddress | None) -> Iterator[IPAddress]:
        """Yield every address once, beginning behind ``start`` (None: at the first)."""
        kind, low = type(self.first), int(self.first)
        span = int(self.last) - low + 1
        offset = (int(start) - low + 1) % span if start is not None else 0
        skip = int(self.gateway)
        for step in range(span):
            number = low + (offset + step) % span
            if number != skip:
                yield kind(number)

    def __str__(self) -> str:
        whole = parse_range({"subnet": str(self.subnet)}, "")
        if (whole.first, whole.last) == (self.first, self.last):
            return str(self.subnet)
        return f"{self.first}-{self.last} of {self.subnet}"


def parse_range(raw: Any, where: str) -> Range:
    """Return the range of {"subnet", "rangeStart", "rangeEnd", "gateway"}. Raises CniError(7).

    The first address of the subnet names the network, the last one of IPv4 is its broadcast; the
    gateway is the one after the first, unless given.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("subnet"), str):
        raise CniError(INVALID_CONFIG, f"{where}.subnet: is missing")
    try:
        subnet = ip_network(raw["subnet"], strict=False)
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f"{where}.subnet: {error}") from None
    low, high = int(subnet.network_address) + 1, int(subnet.broadcast_address) - (subnet.version == 4)
    kind = type(subnet.network_address)
    if high - low < 1:
        raise CniError(
            INVALID_CONFIG,
            f"{where}.subnet: {subnet} is too small",
            "it has no address left for a pod beside network, gateway and broadcast",
        )
    first = _parse_within(raw, "rangeStart", subnet, where) or kind(low)
    last = _parse_within(raw, "rangeEnd", subnet, where) or kind(high)
    gateway = _parse_within(raw, "gateway", subnet, where) or kind(low)
    if int(first) < low or int(last) > high or int(first) > int(last):
        raise CniError(INVALID_CONFIG, f"{where}: {first} to {last} is no range of {kind(low)} to {kind(high)}")
    chosen = Range(subnet, first, last, gateway)
    if chosen.size < 1:
        raise CniError(INVALID_CONFIG, f"{where}: {first} to {last} holds nothing but the gateway")
    return chosen


def _parse_within(raw: Mapping[str, Any], field: str, subnet: IPNetwork, where: str) -> IPAddress | None:
    if not raw.get(field):
        return None
    try:
        address = ip_address(raw[field])
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f"{where}.{field}: {error}") from None
    if address not in subnet:
        raise CniError(INVALID_CONFIG, f"{where}.{field}: {address} is not in {subnet}")
    return address


RangeSet = tuple[Range, ...]


def parse_range_sets(ipam: Mapping[str, Any]) -> tuple[RangeSet, ...]:
    """Return the range sets of an ``ipam`` section: one address is given out of each set.

    host-local's two forms: ``ranges`` (a list of lists) and the short ``subnet``. Empty when it has
    neither. Raises CniError(7), also for ranges that overlap or sets that mix families.
    """
    sets: list[RangeSet] = []
    if ipam.get("subnet"):
        sets.append((parse_range(ipam, "ipam"),))
    listed = ipam.get("ranges") or []
    if not isinstance(listed, list):
        raise CniError(INVALID_CONFIG, "ipam.ranges: is not a list of lists of ranges")
    for i, group in enumerate(listed):
        if not isinstance(group, list) or not group:
            raise CniError(INVALID_CONFIG, f"ipam.ranges[{i}]: is not a list of ranges")
        sets.append(tuple(parse_range(r, f"ipam.ranges[{i}][{j}]") for j, r in enumerate(group)))
    _refuse_overlaps(sets)
    return tuple(sets)


def _refuse_overlaps(sets: Sequence[RangeSet]) -> None:
    everything = [r for group in sets for r in group]
    for group in sets:
        if len({r.subnet.version for r in group}) > 1:
            raise CniError(INVALID_CONFIG, "ipam.ranges: a set mixes IPv4 and IPv6")
    for i, a in enumerate(everything):
        for b in everything[i + 1 :]:
            same = a.subnet.version == b.subnet.version
            if same and int(a.first) <= int(b.last) and int(b.first) <= int(a.last):
                raise CniError(INVALID_CONFIG, f"ipam.ranges: {a} and {b} overlap")


def parse_requested(raw: Iterable[str], where: str) -> tuple[IPAddress, ...]:
    """Return addresses that somebody asks for ("10.0.0.9" or "10.0.0.9/24"). Raises CniError(7)."""
    try:
        return tuple(ip_interface(text).ip for text in raw)
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f"{where}: {error}") from None


class AddressPool:
    """The addresses of one network, held in one store."""

    def __init__(self, store: Reservations, range_sets: Sequence[RangeSet]) -> None:
        self._store, self._sets = store, tuple(range_sets)

    def allocate(self, owner: Owner, requested: Collection[IPAddress] = ()) -> tuple[IPConfig, ...]:
        """Return one address of every range set, in their order, reserved for ``owner``.

        What the owner holds already is given again: an ADD that was cut off can be repeated. Raises
        CniError 101 (exhausted), 102 (a requested address is taken or lies in no range), 5, 11;
        nothing new stays reserved then.
        """
        with self._store.locked():
            names = self._store.names()
            mine = [a for a in map(_parse_name, self._store.names_of(owner.key, names)) if a is not None]
            fresh: list[IPAddress] = []
            try:
                return tuple(self._pick_all(owner, tuple(requested), mine, frozenset(names), fresh))
            except CniError:
                for address in fresh:
                    self._store.give_back(str(address))
                raise

    def _pick_all(
        self,
        owner: Owner,
        requested: tuple[IPAddress, ...],
        mine: Sequence[IPAddress],
        held: frozenset[str],
        fresh: list[IPAddress],
    ) -> Iterator[IPConfig]:
        for address in requested:
            if not any(address in r for group in self._sets for r in group):
                ranges = ", ".join(str(r) for group in self._sets for r in group)
                raise CniError(ADDRESS_TAKEN, f"requested address {address} is in no range", ranges)
        for index, group in enumerate(self._sets):
            wanted = [a for a in requested if any(a in r for r in group)]
            already = [a for a in mine if any(a in r for r in group)]
            if len(wanted) > 1:
                raise CniError(ADDRESS_TAKEN, f"{wanted[0]} and {wanted[1]} are asked of one range set")
            if wanted and wanted[0] not in already:
                address = self._take_requested(owner, wanted[0], fresh)
            elif wanted or already:
                address = wanted[0] if wanted else min(already, key=int)
            else:
                address = self._take_next(owner, index, group, held, fresh)
            chosen = next(r for r in group if address in r)
            yield IPConfig(ip_interface(f"{address}/{chosen.subnet.prefixlen}"), chosen.gateway)

    def _take_requested(self, owner: Owner, address: IPAddress, fresh: list[IPAddress]) -> IPAddress:
        if not self._store.take(str(address), owner):
            holder = parse_owner(self._store.read(str(address)) or "").container_id
            by = f"container {holder}" if holder else "somebody else"
            raise CniError(ADDRESS_TAKEN, f"requested address {address} is held by {by}")
        fresh.append(address)
        return address

    def _take_next(
        self, owner: Owner, index: int, group: RangeSet, held: frozenset[str], fresh: list[IPAddress]
    ) -> IPAddress:
        last = _parse_name(self._store.read(f"{LAST}{index}") or "")
        # Begin in the range that holds the last address, then go round through the others.
        start = next((i for i, r in enumerate(group) if last is not None and last in r), None)
        order = [*group[start:], *group[:start]] if start is not None else list(group)
        for position, chosen in enumerate(order):
            for address in chosen.after(last if start is not None and position == 0 else None):
                name = str(address)
                if name not in held and self._store.take(name, owner):
                    fresh.append(address)
                    self._store.remember(f"{LAST}{index}", name)
                    return address
        raise _exhausted(group, held)

    def release(self, container_id: str, ifname: str) -> None:
        """Give back everything that one attachment holds; nothing held: no error."""
        with self._store.locked():
            for name in self._store.names_of((container_id, ifname), self._store.names()):
                self._store.give_back(name)

    def release_except(self, alive: Collection[tuple[str, str]]) -> tuple[Owner, ...]:
        """Give back what nobody among ``alive`` (container id, ifname) holds; return who lost it."""
        with self._store.locked():
            gone = [(n, o) for n, o in self._store.owners().items() if o.key not in alive]
            for name, _ in gone:
                self._store.give_back(name)
        return tuple(o for _, o in gone)

    def held_by(self, container_id: str, ifname: str) -> tuple[IPAddress, ...]:
        """Return the addresses that one attachment holds."""
        with self._store.locked():
            names = self._store.names_of((container_id, ifname), self._store.names())
        return tuple(a for a in map(_parse_name, names) if a is not None)


def _parse_name(name: str) -> IPAddress | None:
    """Return the address that a reservation is of; None for somebody's note in the directory."""
    try:
        return ip_address(name)
    except ValueError:
        return None


def _exhausted(group: RangeSet, held: Iterable[str]) -> CniError:
    size = sum(r.size for r in group)
    used = sum(1 for a in map(_parse_name, held) if any(a in r for r in group))
    names = " and ".join(str(r) for r in group)
    return CniError(
        RANGE_EXHAUSTED,
        f"range {names} is exhausted: {used} of {size} in use",
        "delete pods of this node, or give nodes larger ranges (--pod-cidr, a shorter node mask)",
    )
