"""One Service and its endpoints -> DNS records. Pure.

Source: Kubernetes DNS-Based Service Discovery, schema version 1.1.0. Where it leaves room, as CoreDNS does:
`_port._proto.service` has addresses too, and an SRV query for the service itself lists every port.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from podwire.dns.desired import Answer, ServiceRecords
from podwire.dns.packed import EndpointFacts, Port, ServiceFacts
from podwire.wire import dns as wire

IPAddress = IPv4Address | IPv6Address
SCHEMA_VERSION = "1.1.0"


@dataclass(frozen=True, slots=True)
class Zone:
    """What the plan must know of the zone it writes for."""

    origin: bytes  # lower case, "cluster.local."
    ttl_s: int = 30
    endpoint_pod_names: bool = False


@dataclass(frozen=True, slots=True)
class _Endpoint:
    label: bytes
    address: IPAddress
    ports: tuple[Port, ...]


def type_key(name: bytes, type: int) -> bytes:
    """Return the index key of a lower-case name and a type."""
    return name + struct.pack(">H", type)


def reverse_name(address: IPAddress) -> bytes:
    """Return the PTR name of an address."""
    return wire.encode_name(address.reverse_pointer)


def service_name(service: str, namespace: str, zone: Zone) -> bytes:
    """Return "service.namespace.svc.ZONE." on the wire."""
    return _under(zone.origin, b"svc", namespace.encode(), service.encode())


def _under(name: bytes, *labels: bytes) -> bytes:
    for label in labels:
        name = bytes((len(label),)) + label.lower() + name
    return name


def plan_service(service: ServiceFacts, endpoints: Iterable[EndpointFacts], zone: Zone) -> ServiceRecords:
    """Return the records of a Service. A value that cannot be a name or an address is left out."""
    key = service.key
    name = service_name(key.name, key.namespace, zone)
    book = _Book(zone)
    if service.external_name:
        _plan_external(book, name, service.external_name)
    elif service.headless:
        _plan_headless(book, name, service, endpoints, zone)
    elif service.addresses:
        _plan_cluster_ip(book, name, service)
    return ServiceRecords(key, book.answers, frozenset(book.names))


def reverse_addresses(service: ServiceFacts, endpoints: Iterable[EndpointFacts]) -> set[bytes]:
    """Return the packed addresses whose reverse names lead to this Service."""
    if service.headless:
        return {a.packed for e in usable(service, endpoints) for a in _parse_all((e.address,))}
    return {a.packed for a in _parse_all(service.addresses)}


def usable(service: ServiceFacts, endpoints: Iterable[EndpointFacts]) -> Iterator[EndpointFacts]:
    """Yield the endpoints that have names: the ready ones, or all with publishNotReadyAddresses."""
    return (e for e in endpoints if e.ready or service.unready_too)


class _Book:
    """Collects records of one Service."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.answers: dict[bytes, Answer] = {}
        self.names: set[bytes] = set()

    def put(
        self, name: bytes, type: int, rdata: Iterable[bytes], extra: Iterable[bytes] = (), alias: bytes = b""
    ) -> None:
        """Set the records of one name and type; without data the name just exists."""
        self.exists(name)
        tails = tuple(wire.record_tail(type, self.zone.ttl_s, r) for r in rdata)
        if tails:
            self.answers[type_key(name, type)] = Answer(tails, extra=tuple(extra), alias=alias)

    def exists(self, name: bytes) -> None:
        """Note the name and what lies between it and its zone (empty non-terminals)."""
        while name not in self.names and len(name) > len(self.zone.origin) and name.endswith(self.zone.origin):
            self.names.add(name)
            name = wire.parent(name)
        if not name.endswith(self.zone.origin):
            self.names.add(name)

    def addresses(self, name: bytes, addresses: Sequence[IPAddress]) -> None:
        """Set A and AAAA."""
        for type, version in ((wire.A, 4), (wire.AAAA, 6)):
            self.put(name, type, [a.packed for a in addresses if a.version == version])

    def glue(self, name: bytes, addresses: Iterable[IPAddress]) -> Iterator[bytes]:
        """Yield whole address records, for the additional section."""
        for a in addresses:
            yield name + wire.record_tail(wire.A if a.version == 4 else wire.AAAA, self.zone.ttl_s, a.packed)


def _plan_external(book: _Book, name: bytes, target: str) -> None:
    try:
        alias = wire.encode_name(target)
    except wire.Malformed:
        return
    book.put(name, wire.CNAME, [alias], alias=alias.lower())


def _plan_cluster_ip(book: _Book, name: bytes, service: ServiceFacts) -> None:
    addresses = list(_parse_all(service.addresses))
    book.addresses(name, addresses)
    glue = list(book.glue(name, addresses))
    everything: list[bytes] = []
    for port, protocol, number in service.ports:
        srv = wire.srv_data(0, 100, number, name)
        everything.append(srv)
        owner = _port_name(name, port, protocol)
        if owner is not None:
            book.put(owner, wire.SRV, [srv], glue)
            book.addresses(owner, addresses)
    book.put(name, wire.SRV, everything, glue)
    for address in addresses:
        book.put(reverse_name(address), wire.PTR, [name])


def _port_name(name: bytes, port: str, protocol: str) -> bytes | None:
    if not port:
        return None
    return _under(name, b"_" + protocol.lower().encode(), b"_" + port.encode())


def _plan_headless(book: _Book, name: bytes, service: ServiceFacts, facts: Iterable[EndpointFacts], zone: Zone) -> None:
    endpoints = [
        _Endpoint(endpoint_label(e, address, zone), address, e.ports)
        for e in usable(service, facts)
        for address in _parse_all((e.address,))
    ]
    book.exists(name)
    book.addresses(name, list(dict.fromkeys(e.address for e in endpoints)))
    by_name: dict[bytes, list[_Endpoint]] = {}
    for endpoint in endpoints:
        by_name.setdefault(_under(name, endpoint.label), []).append(endpoint)
    targets: dict[tuple[str, str], dict[bytes, bytes]] = {}  # port -> SRV data -> endpoint's name
    for owner, group in by_name.items():
        book.addresses(owner, list(dict.fromkeys(e.address for e in group)))
        for endpoint in group:
            book.put(reverse_name(endpoint.address), wire.PTR, [owner])
            for port, protocol, number in endpoint.ports:
                targets.setdefault((port, protocol), {})[wire.srv_data(0, 100, number, owner)] = owner
    everything: dict[bytes, bytes] = {}
    for (port, protocol), found in targets.items():
        everything.update(found)
        owner_name = _port_name(name, port, protocol)
        if owner_name is not None:
            book.put(owner_name, wire.SRV, found, _all_glue(book, by_name, found.values()))
            behind = [e.address for o in dict.fromkeys(found.values()) for e in by_name[o]]
            book.addresses(owner_name, list(dict.fromkeys(behind)))
    book.put(name, wire.SRV, everything, _all_glue(book, by_name, everything.values()))


def _all_glue(book: _Book, by_name: Mapping[bytes, Sequence[_Endpoint]], owners: Iterable[bytes]) -> Iterator[bytes]:
    for owner in dict.fromkeys(owners):
        yield from book.glue(owner, dict.fromkeys(e.address for e in by_name[owner]))


def endpoint_label(endpoint: EndpointFacts, address: IPAddress, zone: Zone) -> bytes:
    """Return the first label of an endpoint's own name: hostname, pod name if wished, or its address."""
    label = endpoint.hostname or (endpoint.pod if zone.endpoint_pod_names else "")
    return label.encode()[:63] or dashed(address)


def dashed(address: IPAddress) -> bytes:
    """Return "10-244-1-101", or an IPv6 address with dashes for its colons."""
    return str(address).replace(".", "-").replace(":", "-").encode()


def undashed(label: bytes) -> IPAddress | None:
    """Return the address that a label spells; None when it spells none."""
    text = label.decode("latin-1")
    for candidate in (text.replace("-", "."), text.replace("-", ":")):
        try:
            return ip_address(candidate)
        except ValueError:
            continue
    return None


def _parse_all(texts: Iterable[str]) -> Iterator[IPAddress]:
    for text in texts:
        try:
            yield ip_address(text)
        except ValueError:
            continue
