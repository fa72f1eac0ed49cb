"""file PATH ZONE: a zone from a master file (RFC 1035 §5), answered with authority. Read again when it changes."""

from __future__ import annotations

from pathlib import Path

from podwire.dns.responder import Outcome, Plugin, Query, Responder, Step
from podwire.dns.zonetext import parse_zone
from podwire.model.errors import BadInput
from podwire.runtime.logging import get
from podwire.wire import dns as wire

_MAX_ALIASES = 8
_log = get("dns")


class ZoneFile:
    """The records of one zone, by lower-case name and type."""

    reload_s = 30.0

    def __init__(self, origin: str, path: str) -> None:
        self.origin, self.path = wire.encode_name(origin).lower(), path
        self._text: str | None = None
        self._records: dict[tuple[bytes, int], tuple[wire.Record, ...]] = {}
        self._names: set[bytes] = set()

    def read(self) -> bool:
        """Read the file again; return whether it has changed. A mistake leaves the former records in force."""
        try:
            text = Path(self.path).read_text(errors="replace")
            if text == self._text:
                return False
            self._text = text
            self.fill(parse_zone(text, wire.name_text(self.origin), self.path))
        except (OSError, BadInput) as error:
            _log.error("zone-refused", path=self.path, error=error, hint="the former records stay in force")
            return False
        return True

    def fill(self, records: list[wire.Record]) -> None:
        """Take these records in place of the former ones."""
        self._records, self._names = {}, set()
        for record in records:
            name = record.name.lower()
            self._records[name, record.type] = (*self._records.get((name, record.type), ()), record)
            while wire.is_within(name, self.origin) and name not in self._names:
                self._names.add(name)
                name = wire.parent(name)

    def find(self, name: bytes, type: int) -> tuple[tuple[wire.Record, ...], bool]:
        """Return the records of a name, aliases followed, and whether the name exists (RFC 1034 §4.3.2, §4.3.3)."""
        found: list[wire.Record] = []
        exists, owner = False, name
        for _ in range(_MAX_ALIASES):
            source = owner if owner in self._names else self._wildcard(owner)
            if source is None:
                return tuple(found), exists
            exists = True
            here = self._records.get((source, type))
            alias = self._records.get((source, wire.CNAME)) if type != wire.CNAME else None
            for record in here or alias or ():
                found.append(wire.Record(owner, record.type, record.ttl_s, record.rdata))
            if here or not alias:
                break
            owner = alias[0].rdata.lower()
        return tuple(found), exists

    def _wildcard(self, name: bytes) -> bytes | None:
        while wire.is_within(name, self.origin) and name != self.origin:
            name = wire.parent(name)
            if name in self._names:
                star = b"\x01*" + name
                return star if star in self._names else None
        return None

    @property
    def soa(self) -> tuple[wire.Record, ...]:
        """The zone's SOA; a zone without one gets a plain one, so that denials may be kept for a while."""
        held = self._records.get((self.origin, wire.SOA))
        if held:
            return held
        host = b"\x02ns" + self.origin if len(self.origin) < 250 else self.origin
        return (wire.Record(self.origin, wire.SOA, 30, wire.soa_data(host, host, 1, 7200, 1800, 86400, 30)),)


def plugin(zone: ZoneFile, responder: Responder) -> Plugin:
    """Return what answers the names of the zone."""

    def answer(query: Query, next: Step) -> Outcome:
        asked = query.asked
        if not wire.is_within(asked.name, zone.origin):
            return next(query)
        if zone.origin == wire.ROOT and responder.serves(asked.name):
            return next(query)  # a file for everything else: the cluster's own names stay the cluster's
        found, exists = zone.find(asked.name, asked.type)
        flags = wire.QR | wire.AA | (wire.NOERROR if exists else wire.NXDOMAIN)
        message = wire.Message(0, flags, (), found, () if found else zone.soa)
        return responder.assemble_records(asked, message, wire.encode_records(found), query.protocol)

    return answer
