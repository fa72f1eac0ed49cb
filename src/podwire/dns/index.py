"""Every name of the cluster. Pure: fed per Service, asked per query.

Kept is what Services and EndpointSlices say, packed; the records of a Service are planned when one of its names
is asked for, and stay until it changes. So a relist of ten thousand Services plans nothing, memory follows what
is asked and not what exists, and no answer outlives the object that it came from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from podwire.dns.desired import Answer, ServiceRecords
from podwire.dns.packed import unpack_service, unpack_slices
from podwire.dns.plan import (
    SCHEMA_VERSION,
    Zone,
    plan_service,
    reverse_addresses,
    type_key,
    undashed,
)
from podwire.model.objects import Key
from podwire.wire import dns as wire

PodMode = Literal["disabled", "insecure", "verified"]
_IN_ADDR, _IP6 = wire.encode_name("in-addr.arpa"), wire.encode_name("ip6.arpa")
_MAX_ALIASES = 8
_MAX_PLANNED = 2048
DNS_SERVICE = Key("kube-system", "kube-dns")


@dataclass(frozen=True, slots=True)
class Finding:
    """What the zone says: an answer; NODATA (answer None, name exists); or NXDOMAIN.

    ``away``: the chain of aliases ends at this name, outside the zone.
    """

    exists: bool
    answer: Answer | None = None
    away: bytes = b""


_NXDOMAIN, _NODATA = Finding(False), Finding(True)


class Index:
    """Answers by (lower-case name, type). ``revision`` grows with every change that an answer could show."""

    def __init__(
        self, zone: Zone, *, pods: PodMode = "disabled", serial: int = 1, empty_is_absent: bool = False
    ) -> None:
        """``empty_is_absent``: a headless Service without endpoints is NXDOMAIN (`ignore empty_service`)."""
        self.zone, self.revision = zone, 0
        self._pods, self._empty_is_absent = pods, empty_is_absent
        self._namespaces: set[str] = set()
        self._pod_addresses: Counter[tuple[str, str]] = Counter()
        self._namespace_of: dict[str, str] = {}  # pod address -> its namespace
        self._services: dict[Key, tuple[bytes, tuple[bytes, ...]]] = {}
        self._planned: dict[Key, ServiceRecords] = {}
        self._reverse: dict[bytes, Key | tuple[Key, ...]] = {}
        origin = zone.origin
        self._server = b"\x02ns\x03dns" + origin
        self._fixed = self._plan_fixed(serial)
        self._fixed_names = {origin, b"\x03svc" + origin, b"\x03dns" + origin, self._server}
        self._fixed_names |= {key[:-2] for key in self._fixed}
        if pods != "disabled":
            self._fixed_names.add(b"\x03pod" + origin)

    def __len__(self) -> int:
        return len(self._services)

    def _plan_fixed(self, serial: int) -> dict[bytes, Answer]:
        origin, ttl_s = self.zone.origin, self.zone.ttl_s
        soa = wire.soa_data(self._server, b"\x0ahostmaster" + origin, serial, 7200, 1800, 86400, ttl_s)
        # The SOA without its owner; negative answers carry it (RFC 2308).
        self.soa_tail = wire.record_tail(wire.SOA, ttl_s, soa)
        version = wire.record_tail(wire.TXT, ttl_s, wire.txt_data(SCHEMA_VERSION))
        return {
            type_key(origin, wire.SOA): Answer((self.soa_tail,)),
            type_key(wire.encode_name("dns-version")[:-1] + origin, wire.TXT): Answer((version,)),
        }

    # --- feeding

    def put(self, key: Key, service: bytes, pieces: Sequence[bytes] = ()) -> None:
        """Take in a packed Service and its packed slices in place of the former ones; b"": forget it."""
        old, new = self._services.get(key), (service, tuple(pieces))
        if new == old or (old is None and not service):
            return
        before = self._reverse_addresses(key, old) if old is not None else set()
        after = self._reverse_addresses(key, new) if service else set()
        for address in before - after:
            self._forget_reverse(address, key)
        for address in after - before:
            self._note_reverse(address, key)
        if service:
            self._services[key] = new
        else:
            del self._services[key]
        self._planned.pop(key, None)
        self.revision += 1

    def remove(self, service: Key) -> None:
        """Forget a Service. Unknown: no error."""
        self.put(service, b"")

    def set_namespace(self, name: str, exists: bool) -> None:
        """Note that a namespace is there, or no longer."""
        (self._namespaces.add if exists else self._namespaces.discard)(name)
        self.revision += 1

    def count_pod_address(self, namespace: str, address: str, change: int) -> None:
        """Note that a pod has got (+1) or lost (-1) an address: for `pods verified`."""
        self._pod_addresses[namespace, address] += change
        if self._pod_addresses[namespace, address]:
            self._namespace_of[address] = namespace
        else:
            del self._pod_addresses[namespace, address]
            if self._namespace_of.get(address) == namespace:
                del self._namespace_of[address]
        self.revision += 1

    def _reverse_addresses(self, key: Key, packed: tuple[bytes, tuple[bytes, ...]]) -> set[bytes]:
        return reverse_addresses(unpack_service(key, packed[0]), unpack_slices(packed[1]))

    def _note_reverse(self, address: bytes, key: Key) -> None:
        held = self._reverse.get(address)
        if held is None:
            self._reverse[address] = key
        else:  # two Services on one pod: the first by name gives it its reverse name, whatever came first
            self._reverse[address] = tuple(sorted({key, *_keys(held)}))

    def _forget_reverse(self, address: bytes, key: Key) -> None:
        left = [k for k in _keys(self._reverse[address]) if k != key]
        if left:
            self._reverse[address] = left[0] if len(left) == 1 else tuple(left)
        else:
            del self._reverse[address]

    # --- asking

    def namespace_of(self, address: str) -> str:
        """Return the namespace of the pod with this address; "" when it is not known (or not mirrored)."""
        return self._namespace_of.get(address, "")

    def is_reverse(self, name: bytes) -> bool:
        """Return whether a name belongs to the trees of addresses."""
        return name.endswith(b"\x04arpa\0") and (wire.is_within(name, _IN_ADDR) or wire.is_within(name, _IP6))

    def find(self, name: bytes, type: int) -> Finding:
        """Return what is known of a lower-case name; aliases inside the zone are followed."""
        if not wire.is_within(name, self.zone.origin):
            return self._find_reverse(name, type)
        finding, _ = self._find_inside(name, type)
        if finding.answer is not None and finding.answer.alias and type != wire.CNAME:
            return self._follow(name, finding.answer, type)
        return finding

    def records(self, service: Key) -> ServiceRecords | None:
        """Return a Service's records, planned at most once between changes; None when it is unknown."""
        planned = self._planned.get(service)
        if planned is None:
            packed = self._services.get(service)
            if packed is None:
                return None
            planned = plan_service(unpack_service(service, packed[0]), unpack_slices(packed[1]), self.zone)
            if len(self._planned) >= _MAX_PLANNED:
                self._planned.pop(next(iter(self._planned)))
            self._planned[service] = planned
        return planned

    def _find_inside(self, name: bytes, type: int) -> tuple[Finding, str]:
        """Return what is known of a name of the zone, and why in words."""
        if name in self._fixed_names:
            answer = self._fixed.get(type_key(name, type)) or self._find_server(name, type)
            return (Finding(True, answer) if answer is not None else _NODATA), "a name of the zone itself"
        labels = wire.labels_of(name[: len(name) - len(self.zone.origin)] + wire.ROOT)
        kind = labels[-1]
        if kind == b"svc" and len(labels) > 2:
            return self._find_service(name, type, labels)
        if kind not in (b"svc", b"pod") or (kind == b"pod" and self._pods == "disabled"):
            return _NXDOMAIN, "the zone has svc and pod below it, and nothing else"
        namespace = labels[-2].decode("latin-1")
        if namespace not in self._namespaces:
            return _NXDOMAIN, f"there is no namespace {namespace!r}"
        if len(labels) == 2:
            return _NODATA, "a namespace has no records of its own"
        if len(labels) > 3:
            return _NXDOMAIN, "pods have no names below their own"
        return self._find_pod(labels[0], namespace, type)

    def _find_service(self, name: bytes, type: int, labels: Sequence[bytes]) -> tuple[Finding, str]:
        service = Key(labels[-2].decode("latin-1"), labels[-3].decode("latin-1"))
        records = self.records(service)
        if records is None:
            if service.namespace not in self._namespaces:
                return _NXDOMAIN, f"there is no namespace {service.namespace!r}"
            return _NXDOMAIN, f"there is no Service {service.name!r} with an address in {service.namespace!r}"
        answer = records.answers.get(type_key(name, type))
        if answer is None and type != wire.CNAME:
            answer = records.answers.get(type_key(name, wire.CNAME))
        if answer is not None:
            return Finding(True, answer), f"from Service {service}"
        if self._empty_is_absent and not records.answers:
            return _NXDOMAIN, f"Service {service} is headless and has no ready endpoint"
        if name in records.names:
            why = "has no record of this type" if records.answers else "is headless and has no ready endpoint"
            return _NODATA, f"Service {service} {why}"
        if len(labels) == 4:
            return self._find_endpoint(labels[0], service, type)
        return _NXDOMAIN, f"Service {service} has no such port or endpoint"

    def _find_server(self, name: bytes, type: int) -> Answer | None:
        """NS of the zone, and the address of this server: the Service kube-dns."""
        records = self.records(DNS_SERVICE)
        own = b"\x08kube-dns\x0bkube-system\x03svc" + self.zone.origin
        held = records.answers if records is not None else {}
        if name == self._server:
            return held.get(type_key(own, type)) if type in (wire.A, wire.AAAA) else None
        if name != self.zone.origin or type != wire.NS:
            return None
        found = [held[k] for k in (type_key(own, wire.A), type_key(own, wire.AAAA)) if k in held]
        tail = wire.record_tail(wire.NS, self.zone.ttl_s, self._server)
        return Answer((tail,), extra=tuple(self._server + t for answer in found for t in answer.own))

    def _follow(self, name: bytes, first: Answer, type: int) -> Finding:
        """Append what the alias leads to (RFC 1034 §4.3.2, step 3a), however many steps, but not for ever."""
        more: list[bytes] = []
        target, seen = first.alias, {name}
        while target not in seen and len(seen) <= _MAX_ALIASES:
            seen.add(target)
            if not wire.is_within(target, self.zone.origin):
                return Finding(True, Answer(first.own, tuple(more)), away=target)
            answer = self._find_inside(target, type)[0].answer
            if answer is None:
                break
            more += (target + tail for tail in answer.own)
            if not answer.alias:
                break
            target = answer.alias
        return Finding(True, Answer(first.own, tuple(more)))

    def _find_pod(self, label: bytes, namespace: str, type: int) -> tuple[Finding, str]:
        address = undashed(label)
        if address is None:
            return _NXDOMAIN, "a pod's name is its address with dashes"
        if self._pods == "verified" and (namespace, str(address)) not in self._pod_addresses:
            return _NXDOMAIN, f"no pod of namespace {namespace!r} has this address (pods verified)"
        if type != (wire.A if address.version == 4 else wire.AAAA):
            return _NODATA, "the address is of the other family"
        return Finding(True, Answer((wire.record_tail(type, self.zone.ttl_s, address.packed),))), "the address itself"

    def _find_endpoint(self, label: bytes, service: Key, type: int) -> tuple[Finding, str]:
        """`10-244-1-101.web.default.svc`: an endpoint of a Service with a ClusterIP."""
        found, exists = [], False
        for address in self._addresses_called(label.decode("latin-1"), service):
            exists = True
            if type == (wire.A if address.version == 4 else wire.AAAA):
                found.append(wire.record_tail(type, self.zone.ttl_s, address.packed))
        if found:
            return Finding(True, Answer(tuple(dict.fromkeys(found)))), f"an endpoint of Service {service}"
        if exists:
            return _NODATA, f"an endpoint of Service {service}, of the other address family"
        return _NXDOMAIN, f"Service {service} has no such port or ready endpoint"

    def _addresses_called(self, label: str, service: Key) -> Iterator[IPv4Address | IPv6Address]:
        """Yield the addresses of the ready endpoints with this name: a hostname, a pod's name or dashed address."""
        spelled = {label, label.replace("-", "."), label.replace("-", ":")}
        seeds = tuple(text.encode() for text in spelled)
        pieces = [raw for raw in self._services[service][1] if any(seed in raw.lower() for seed in seeds)]
        for endpoint in unpack_slices(pieces):  # rarely any: most such names are search paths tried in vain
            pod = endpoint.pod if self.zone.endpoint_pod_names else ""
            if endpoint.ready and (endpoint.address in spelled or label in (endpoint.hostname.lower(), pod)):
                address = undashed(endpoint.address.replace(".", "-").replace(":", "-").encode())
                if address is not None:
                    yield address

    def _find_reverse(self, name: bytes, type: int) -> Finding:
        address = wire.reversed_address(name)
        held = self._reverse.get(address) if address else None
        if held is None:
            return _NXDOMAIN
        records = self.records(_keys(held)[0])
        answer = records.answers.get(type_key(name, type)) if records is not None else None
        return Finding(True, answer)

    def explain(self, name: bytes, type: int) -> str:
        """Return in words why ``find`` answers this name as it does."""
        if not wire.is_within(name, self.zone.origin):
            return "a reverse name" if self.is_reverse(name) else "not a name of the cluster"
        return self._find_inside(name, type)[1]


def _keys(held: Key | tuple[Key, ...]) -> tuple[Key, ...]:
    return (held,) if isinstance(held, Key) else held
