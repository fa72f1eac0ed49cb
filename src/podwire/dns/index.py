"""Every record of the cluster, by name and type. Pure: fed per Service, asked per query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from podwire.dns.desired import Answer, ServiceRecords
from podwire.dns.plan import SCHEMA_VERSION, Zone, endpoint_label, type_key, undashed
from podwire.model.objects import Key, Obj
from podwire.wire import dns as wire

PodMode = Literal["disabled", "insecure", "verified"]
_IN_ADDR, _IP6 = wire.encode_name("in-addr.arpa"), wire.encode_name("ip6.arpa")
_HOSTMASTER = wire.encode_name("hostmaster")
_MAX_ALIASES = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """What the zone says: an answer; NODATA (answer None, name exists); or NXDOMAIN.

    ``away``: the chain of aliases ends at this name, outside the zone.
    """

    exists: bool
    answer: Answer | None = None
    away: bytes = b""


_NXDOMAIN, _NODATA = Finding(False), Finding(True)


@dataclass(slots=True)
class Neighbourhood:
    """What lookups need beside Services: read-only views that the agent keeps fresh."""

    has_namespace: Callable[[str], bool]
    slices_of: Callable[[Key], Sequence[Obj]]
    pod_has_address: Callable[[str, str], bool]  # namespace, address: for `pods verified`


class Index:
    """Answers by (lower-case name, type), and the names that exist."""

    def __init__(self, zone: Zone, around: Neighbourhood, *, pods: PodMode = "disabled", serial: int = 1) -> None:
        self.zone, self.serial = zone, serial
        self.revision = 0
        self._around, self._pods = around, pods
        self._answers: dict[bytes, Answer] = {}
        self._contested: dict[bytes, dict[Key, Answer]] = {}
        self._names: dict[bytes, int] = {}
        self._services: dict[Key, ServiceRecords] = {}
        origin = zone.origin
        self._svc, self._pod, self._dns = b"\x03svc" + origin, b"\x03pod" + origin, b"\x03dns" + origin
        self._server = b"\x02ns" + self._dns
        self._fixed_names = {origin, self._svc, self._dns, self._server}
        if pods != "disabled":
            self._fixed_names.add(self._pod)
        self._set_fixed()

    def __len__(self) -> int:
        return len(self._services)

    # --- feeding

    def touch(self) -> None:
        """Say that something changed: answers made before may be wrong now."""
        self.revision += 1

    def put(self, records: ServiceRecords) -> None:
        """Take in a Service's records in place of its former ones."""
        old = self._services.get(records.service)
        if old is not None and old == records:
            return
        self.touch()
        self._insert(records)
        if old is not None:
            self._withdraw(old, kept=records)
        if records.names:
            self._services[records.service] = records
        else:
            self._services.pop(records.service, None)

    def remove(self, service: Key) -> None:
        """Forget a Service. Unknown: no error."""
        self.put(ServiceRecords(service))

    def set_server_addresses(self, answers: Mapping[int, Answer]) -> None:
        """Say at which addresses this server is reached (by type A, AAAA): glue of the NS record."""
        self.touch()
        for type in (wire.A, wire.AAAA):
            key = type_key(self._server, type)
            if type in answers:
                self._answers[key] = answers[type]
            else:
                self._answers.pop(key, None)
        glue = tuple(self._server + tail for a in answers.values() for tail in a.own)
        tail = wire.record_tail(wire.NS, self.zone.ttl_s, self._server)
        self._answers[type_key(self.zone.origin, wire.NS)] = Answer((tail,), extra=glue)

    def _set_fixed(self) -> None:
        origin, ttl_s = self.zone.origin, self.zone.ttl_s
        self._answers[type_key(origin, wire.SOA)] = Answer((self.soa_tail(),))
        self.set_server_addresses({})
        version = wire.encode_name("dns-version")[:-1] + origin
        self._fixed_names.add(version)
        tail = wire.record_tail(wire.TXT, ttl_s, wire.txt_data(SCHEMA_VERSION))
        self._answers[type_key(version, wire.TXT)] = Answer((tail,))

    def soa_tail(self) -> bytes:
        """Return the SOA record without its owner; negative answers carry it (RFC 2308)."""
        mailbox = _HOSTMASTER[:-1] + self.zone.origin
        ttl_s = self.zone.ttl_s
        data = wire.soa_data(self._server, mailbox, self.serial, 7200, 1800, 86400, ttl_s)
        return wire.record_tail(wire.SOA, ttl_s, data)

    def _insert(self, records: ServiceRecords) -> None:
        for name in records.names:
            self._names[name] = self._names.get(name, 0) + 1
        for key, answer in records.answers.items():
            contest = self._contested.get(key)
            holder = next((s for s in (contest or ()) if s != records.service), None)
            if contest is None and key in self._answers:
                other = self._holder(key, records.service)
                if other is not None:
                    contest = self._contested[key] = {other: self._answers[key]}
                    holder = other
            if contest is not None:
                contest[records.service] = answer
            if holder is None or contest is None or min(contest) == records.service:
                self._answers[key] = answer

    def _holder(self, key: bytes, but: Key) -> Key | None:
        """Return another Service that brought this answer; only reverse names can have two."""
        if not (key.endswith(_IN_ADDR, 0, -2) or key.endswith(_IP6, 0, -2)):
            return None
        return next((s for s, r in self._services.items() if s != but and key in r.answers), None)

    def _withdraw(self, old: ServiceRecords, *, kept: ServiceRecords) -> None:
        for name in old.names:
            left = self._names[name] - 1
            if left:
                self._names[name] = left
            else:
                del self._names[name]
        for key in old.answers.keys() - kept.answers.keys():
            contest = self._contested.get(key)
            if contest is None:
                self._answers.pop(key, None)
                continue
            contest.pop(old.service, None)
            self._answers[key] = contest[min(contest)]
            if len(contest) == 1:
                del self._contested[key]

    # --- asking

    def get(self, key: bytes) -> Answer | None:
        """Return the prebuilt answer of name + type, if there is one."""
        return self._answers.get(key)

    def is_reverse(self, name: bytes) -> bool:
        """Return whether a name belongs to the trees of addresses."""
        return wire.is_within(name, _IN_ADDR) or wire.is_within(name, _IP6)

    def find(self, name: bytes, type: int) -> Finding:
        """Return what is known of a lower-case name; aliases inside the zone are followed."""
        answer = self._answers.get(type_key(name, type))
        if answer is not None:
            return Finding(True, answer)
        alias = self._answers.get(type_key(name, wire.CNAME))
        if alias is not None:
            return self._follow(alias, type)
        if name in self._names or name in self._fixed_names:
            return _NODATA
        if not wire.is_within(name, self.zone.origin):
            return _NXDOMAIN
        return self._find_below(name, type)

    def _follow(self, first: Answer, type: int) -> Finding:
        """Append what the alias leads to (RFC 1034 §4.3.2, step 3a), however many steps, but not for ever."""
        more: list[bytes] = []
        target, seen = first.alias, set[bytes]()
        while target not in seen and len(seen) < _MAX_ALIASES:
            seen.add(target)
            if not wire.is_within(target, self.zone.origin):
                return Finding(True, Answer(first.own, tuple(more)), away=target)
            found = self._answers.get(type_key(target, type))
            if found is not None:
                more += (target + tail for tail in found.own)
                break
            step = self._answers.get(type_key(target, wire.CNAME))
            if step is None:
                dynamic = self._find_below(target, type).answer
                more += (target + tail for tail in (dynamic.own if dynamic is not None else ()))
                break
            more += (target + tail for tail in step.own)
            target = step.alias
        return Finding(True, Answer(first.own, tuple(more)))

    def _find_below(self, name: bytes, type: int) -> Finding:
        """Names that no Service spells out: namespaces, pods by address, endpoints by address."""
        labels = wire.labels_of(name[: len(name) - len(self.zone.origin)] + wire.ROOT)
        kind = labels[-1]
        if kind not in (b"svc", b"pod") or (kind == b"pod" and self._pods == "disabled") or len(labels) < 2:
            return _NXDOMAIN
        namespace = labels[-2].decode("latin-1")
        if not self._around.has_namespace(namespace):
            return _NXDOMAIN
        if len(labels) == 2:
            return _NODATA
        if kind == b"pod":
            return self._find_pod(labels, namespace, type) if len(labels) == 3 else _NXDOMAIN
        if len(labels) == 4:
            return self._find_endpoint(labels[0], Key(namespace, labels[1].decode("latin-1")), type)
        return _NXDOMAIN

    def _find_pod(self, labels: Sequence[bytes], namespace: str, type: int) -> Finding:
        address = undashed(labels[0])
        if address is None:
            return _NXDOMAIN
        if self._pods == "verified" and not self._around.pod_has_address(namespace, str(address)):
            return _NXDOMAIN
        if type != (wire.A if address.version == 4 else wire.AAAA):
            return _NODATA
        return Finding(True, Answer((wire.record_tail(type, self.zone.ttl_s, address.packed),)))

    def _find_endpoint(self, label: bytes, service: Key, type: int) -> Finding:
        """`10-244-1-101.web.default.svc`: an endpoint of a Service with a ClusterIP."""
        if service not in self._services:
            return _NXDOMAIN
        found, exists = [], False
        for piece in self._around.slices_of(service):
            for raw in piece.get("endpoints") or ():
                if (raw.get("conditions") or {}).get("ready") is False:
                    continue
                for text in (raw.get("addresses") or [])[:1]:
                    address = undashed(text.replace(".", "-").replace(":", "-").encode())
                    if address is None or endpoint_label(raw, address, self.zone).lower() != label:
                        continue
                    exists = True
                    if type == (wire.A if address.version == 4 else wire.AAAA):
                        found.append(wire.record_tail(type, self.zone.ttl_s, address.packed))
        if found:
            return Finding(True, Answer(tuple(dict.fromkeys(found))))
        return _NODATA if exists else _NXDOMAIN
