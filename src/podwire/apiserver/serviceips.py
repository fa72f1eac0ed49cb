"""Cluster IPs and node ports: given out, taken back, refused as kube-apiserver does.

State is in memory, rebuilt from the Services in the store at the start; the store's commit order makes
that exact. Automatic addresses avoid the lower, "static" part of a range while there is room
(KEP-3070), so that hand-picked addresses such as the cluster DNS stay free; likewise node ports (KEP-3682).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from podwire.apiserver.errors import FieldError, internal, invalid, invalid_value
from podwire.apiserver.kinds import Kind
from podwire.apiserver.validation.servicefields import needs_health_check
from podwire.model.objects import Obj

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
NODE_PORTS = (30000, 32767)
_TAKEN = "provided port is already allocated"
_MAX_RANGE = 1 << 20  # addresses of a range that are given out at random; larger v6 ranges are cut


class ServiceIps:
    """What is taken. ``networks`` in order of preference: the first is the primary family."""

    def __init__(self, networks: Sequence[Network], node_ports: tuple[int, int] = NODE_PORTS) -> None:
        self._families = [_family(n) for n in networks]
        self._ranges: dict[str, tuple[Network, ...]] = {"": tuple(networks)}  # by the ServiceCIDR's name
        self._node_ports = node_ports
        self._addresses: set[Address] = set()
        self._ports: set[int] = set()

    @property
    def families(self) -> Sequence[str]:
        """The cluster's IP families, the primary first: "IPv4", "IPv6"."""
        return self._families

    def extend(self, name: str, networks: Iterable[Network]) -> None:
        """Take the ranges of a further ServiceCIDR for what is given out from now on; none withdraws it."""
        self._ranges[name] = tuple(networks)

    def _networks(self, family: str) -> list[Network]:
        return [n for ranges in self._ranges.values() for n in ranges if _family(n) == family]

    def restore(self, services: Iterable[Obj]) -> None:
        """Take in what the stored Services hold."""
        for service in services:
            self._addresses.update(cluster_addresses(service))
            self._ports.update(_ports(service))

    def release(self, service: Obj) -> None:
        """Take back what a deleted Service held."""
        self._addresses.difference_update(cluster_addresses(service))
        self._ports.difference_update(_ports(service))

    def allocate(self, kind: Kind, new: Obj, old: Obj | None) -> Callable[[], None]:
        """Complete ``new`` with addresses and ports; return what undoes it. Raises 422 and 500.

        What only ``old`` held is taken back at once, and given again by the undo.
        """
        before = set(cluster_addresses(old)) if old else set()
        before_ports = set(_ports(old)) if old else set()
        saved = (set(self._addresses), set(self._ports)) if old else None
        self._addresses -= before
        self._ports -= before_ports
        try:
            self._allocate_addresses(kind, new)
            self._allocate_ports(kind, new)
        except Exception:
            if saved is not None:
                self._addresses, self._ports = saved
            raise
        taken, taken_ports = set(cluster_addresses(new)), set(_ports(new))
        self._addresses |= taken
        self._ports |= taken_ports

        def undo() -> None:
            self._addresses.difference_update(taken - before)
            self._addresses.update(before)
            self._ports.difference_update(taken_ports - before_ports)
            self._ports.update(before_ports)

        return undo

    def _allocate_addresses(self, kind: Kind, service: Obj) -> None:
        spec = service["spec"]
        if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None":
            return
        name = service["metadata"]["name"]
        given = list(spec.get("clusterIPs") or ())
        chosen: list[str] = []
        for n, family in enumerate(spec.get("ipFamilies") or self._families[:1]):
            networks = self._networks(family)
            if not networks:
                raise invalid(
                    kind, name, [invalid_value(f"spec.ipFamilies[{n}]", family, "not configured on this cluster")]
                )
            if n < len(given) and given[n]:
                chosen.append(self._claim(kind, name, networks, given[n]))
            else:
                chosen.append(str(self._pick_of(networks, name)))
        spec["clusterIPs"] = chosen
        spec["clusterIP"] = chosen[0]

    def _claim(self, kind: Kind, name: str, networks: Sequence[Network], text: str) -> str:
        address = ip_address(text)
        why = ""
        if not any(_is_host(address, n) for n in networks):
            ranges = ", ".join(map(str, networks))
            why = f"provided IP is not in the valid range. The range of valid IPs is {ranges}"
        elif address in self._addresses:
            why = "provided IP is already allocated"
        if why:
            detail = f"failed to allocate IP {text}: {why}"
            raise invalid(kind, name, [invalid_value("spec.clusterIPs", [text], detail)])
        return str(address)

    def _pick_of(self, networks: Sequence[Network], name: str) -> Address:
        for network in networks:
            address = self._pick(network)
            if address is not None:
                return address
        ranges = ", ".join(map(str, networks))
        raise internal(f"failed to allocate a serviceIP: range {ranges} is full (Service {name})")

    def _pick(self, network: Network) -> Address | None:
        size = min(network.num_addresses, _MAX_RANGE)
        last = size - 2 if network.version == 4 else size - 1
        low = 1 + min(max(16, size // 16), 256) if size > 32 else 1
        base = int(network.network_address)
        make = IPv4Address if network.version == 4 else IPv6Address
        for _ in range(32):
            address = make(base + random.randint(min(low, last), last))
            if address not in self._addresses:
                return address
        for offset in (*range(low, last + 1), *range(1, low)):
            address = make(base + offset)
            if address not in self._addresses:
                return address
        return None

    def _allocate_ports(self, kind: Kind, service: Obj) -> None:
        """Give node ports. One number belongs to one Service, whatever the protocol; within it, ports of one
        number (DNS over UDP and TCP) share their node port."""
        spec = service["spec"]
        wants = spec.get("type") == "NodePort" or (
            spec.get("type") == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True)
        )
        ports = spec.get("ports") or ()
        asked = {p.get("port"): p["nodePort"] for p in reversed(ports) if p.get("nodePort")}
        mine: dict[int, Any] = {}
        problems: list[FieldError] = []
        for n, port in enumerate(ports):
            number = port.get("nodePort", 0)
            if not number and wants:
                number = asked.get(port.get("port")) or self._pick_port(mine)
                port["nodePort"] = asked[port.get("port")] = number
            if number and mine.setdefault(number, port.get("port")) != port.get("port"):
                problems.append(invalid_value(f"spec.ports[{n}].nodePort", number, _TAKEN))
            elif number and (why := self._port_problem(number)):
                problems.append(invalid_value(f"spec.ports[{n}].nodePort", number, why))
        problems += self._allocate_health_check(spec, mine)
        if problems:
            raise invalid(kind, service["metadata"]["name"], problems)

    def _allocate_health_check(self, spec: Obj, mine: Container[int]) -> Iterator[FieldError]:
        if not needs_health_check(spec):
            return
        number = spec.get("healthCheckNodePort")
        if not number:
            spec["healthCheckNodePort"] = self._pick_port(mine)
        elif why := _TAKEN if number in mine else self._port_problem(number):
            yield invalid_value("spec.healthCheckNodePort", number, why)

    def _port_problem(self, number: int) -> str:
        low, high = self._node_ports
        if not low <= number <= high:
            return f"provided port is not in the valid range. The range of valid ports is {low}-{high}"
        return _TAKEN if number in self._ports else ""

    def _pick_port(self, mine: Container[int]) -> int:
        low, high = self._node_ports
        static = min(max(16, (high - low + 1) // 32), 128)
        for first, last in ((low + static, high), (low, high)):
            for _ in range(64):
                number = random.randint(min(first, last), last)
                if number not in self._ports and number not in mine:
                    return number
            for number in range(first, last + 1):
                if number not in self._ports and number not in mine:
                    return number
        raise internal(f"failed to allocate a nodePort: range {low}-{high} is full")


def _family(network: Network) -> str:
    return f"IPv{network.version}"


def _is_host(address: Address, network: Network) -> bool:
    return address in network and address not in (network.network_address, network.broadcast_address)


def cluster_addresses(service: Obj) -> Iterable[Address]:
    """Return the cluster IPs that a Service holds; none for headless and ExternalName ones."""
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        return ()
    return [ip_address(a) for a in spec.get("clusterIPs") or () if a and a != "None"]


def _ports(service: Obj) -> Iterable[int]:
    spec = service["spec"]
    found = [p["nodePort"] for p in spec.get("ports") or () if p.get("nodePort")]
    if spec.get("healthCheckNodePort"):
        found.append(spec["healthCheckNodePort"])
    return found
