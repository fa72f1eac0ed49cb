"""hosts [FILE [ZONES...]] { ADDRESS NAME...; ttl S; no_reverse; reload DURATION; fallthrough [ZONES...] }."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from podwire.dns.desired import Answer
from podwire.dns.plan import reverse_name, type_key
from podwire.dns.responder import Outcome, Plugin, Query, Responder, Step
from podwire.dns.words import Directive, argument, integer, seconds, wrong
from podwire.wire import dns as wire

Entry = tuple[str, str]
"""Name, address."""


@dataclass(frozen=True, slots=True)
class HostsFile:
    """The directive. ``path`` "": only what the block says."""

    path: str = ""
    zones: tuple[bytes, ...] = (wire.ROOT,)
    entries: tuple[Entry, ...] = ()
    ttl_s: int = 3600
    reverse: bool = True
    reload_s: float = 5.0
    fallthrough: tuple[bytes, ...] | None = field(default=None)


def parse(d: Directive, source: str) -> HostsFile:
    """Return the directive. Raises BadInput."""
    path = d.arguments[0] if d.arguments and d.arguments[0].startswith("/") else ""
    if d.arguments and not path:
        raise wrong(source, d.words[1], "expected the path of a hosts file, from /")
    zones = tuple(wire.encode_name(z).lower() for z in d.arguments[1:]) or (wire.ROOT,)
    entries: list[Entry] = []
    ttl_s, reverse, reload_s = 3600, True, 5.0
    fallthrough: tuple[bytes, ...] | None = None
    for line in d.block:
        word = line[0].text
        if word == "ttl":
            ttl_s = integer(argument(line, source), source, 1, 65535)
        elif word == "no_reverse":
            reverse = False
        elif word == "reload":
            reload_s = seconds(argument(line, source), source)
        elif word == "fallthrough":
            fallthrough = tuple(wire.encode_name(w.text).lower() for w in line[1:]) or (wire.ROOT,)
        else:
            try:
                address = str(ip_address(word))
            except ValueError:
                expected = "ADDRESS NAME..., ttl, no_reverse, reload or fallthrough"
                raise wrong(source, line[0], f"expected {expected}, not {word!r}") from None
            entries += ((w.text.rstrip(".").lower(), address) for w in line[1:])
    return HostsFile(path, zones, tuple(entries), ttl_s, reverse, reload_s, fallthrough)


def parse_file(text: str) -> list[Entry]:
    """Return the entries of a hosts file; lines that make no sense are left out, as everywhere else."""
    entries = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        try:
            address = str(ip_address(words[0].partition("%")[0])) if words else ""
        except ValueError:
            continue
        entries += [(name.rstrip(".").lower(), address) for name in words[1:]]
    return entries


class Hosts:
    """The entries, by name and type; ``read`` renews those of the file."""

    def __init__(self, settings: HostsFile) -> None:
        self.settings = settings
        self.path, self.reload_s = settings.path, settings.reload_s
        self._text: str | None = None
        self.answers: dict[bytes, Answer] = {}
        self.names: frozenset[bytes] = frozenset()
        self._fill(settings.entries)

    def read(self) -> bool:
        """Read the file again; return whether it has changed. A file that cannot be read leaves things as they are."""
        try:
            text = Path(self.path).read_text(errors="replace")
        except OSError:
            return False
        if text == self._text:
            return False
        self._text = text
        self._fill([*self.settings.entries, *parse_file(text)])
        return True

    def _fill(self, entries: Iterable[Entry]) -> None:
        data: dict[bytes, dict[bytes, None]] = {}
        names = set()
        for text, address in entries:
            try:
                name, ip = wire.encode_name(text).lower(), ip_address(address)
            except wire.Malformed:
                continue
            names.add(name)
            data.setdefault(type_key(name, wire.A if ip.version == 4 else wire.AAAA), {})[ip.packed] = None
            if self.settings.reverse:
                data.setdefault(type_key(reverse_name(ip), wire.PTR), {})[name] = None
        ttl_s = self.settings.ttl_s
        self.answers = {
            key: Answer(tuple(wire.record_tail(int.from_bytes(key[-2:], "big"), ttl_s, raw) for raw in found))
            for key, found in data.items()
        }
        self.names = frozenset(names)


def plugin(hosts: Hosts, responder: Responder) -> Plugin:
    """Return what answers from the entries."""

    def answer(query: Query, next: Step) -> Outcome:
        asked = query.asked
        if not _within(asked.name, hosts.settings.zones):
            return next(query)
        found = hosts.answers.get(type_key(asked.name, asked.type))
        if found is not None:
            return responder.encode(asked, found, query.protocol)
        through = hosts.settings.fallthrough
        if asked.name in hosts.names and asked.type in (wire.A, wire.AAAA):
            return responder.refuse(asked, wire.NOERROR, query.protocol)
        if through is None or not _within(asked.name, through):
            # Without fallthrough this plugin is the last word, and knows no SOA to deny with: so CoreDNS, too.
            return responder.refuse(asked, wire.SERVFAIL, query.protocol)
        return next(query)

    return answer


def _within(name: bytes, zones: Sequence[bytes]) -> bool:
    return any(wire.is_within(name, zone) for zone in zones)
