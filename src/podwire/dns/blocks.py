"""Settings -> a responder with its plugins, in CoreDNS' fixed order, block by block."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from podwire.dns import querylog
from podwire.dns.index import Index
from podwire.dns.plugins import acl, autopath, dns64, file, hosts, rewrite, template
from podwire.dns.responder import Forward, Outcome, Plugin, Query, Responder, Step, chain
from podwire.dns.settings import Forwarding, Settings
from podwire.wire import dns as wire


class Read(Protocol):
    """A file that a plugin lives from."""

    path: str
    reload_s: float

    def read(self) -> bool:
        """Read it again; return whether it has changed."""
        ...


@dataclass(slots=True)
class Built:
    """A responder, and what has to be done beside it."""

    responder: Responder
    files: list[Read] = field(default_factory=list)
    loop_probe: bytes = b""


def build(settings: Settings, index: Index, on_loop: Callable[[], None]) -> Built:
    """Return the responder that these settings describe. ``on_loop``: called when a probe comes back."""
    kubernetes = settings.kubernetes
    responder = Responder(
        index,
        serve_cluster=kubernetes is not None,
        fallthrough=kubernetes.fallthrough if kubernetes is not None else (),
        rotate=settings.loadbalance,
        by_client=any(map(_looks_at_clients, (settings, *settings.others))),
        udp_bytes=settings.bufsize or 1232,
    )
    built = Built(responder)
    plugins: list[Plugin] = []
    if settings.loop:
        built.loop_probe, watch = _loop_watch(on_loop)
        plugins.append(watch)
    own = _plugins(settings, built, index)
    if _zones(settings) == (wire.ROOT,) and not settings.others:
        plugins += own
    else:
        blocks = [(_zones(settings), chain(own, responder.look_up))]
        blocks += [(_zones(other), chain(_plugins(other, built, index), _pass_on)) for other in settings.others]
        plugins.append(_route(blocks, responder))
    responder.compose(plugins)
    for held in built.files:
        held.read()
    return built


def _zones(settings: Settings) -> tuple[bytes, ...]:
    return tuple(wire.encode_name(zone).lower() for zone in settings.zones)


def _looks_at_clients(settings: Settings) -> bool:
    return bool(settings.acl or settings.autopath or settings.log or settings.dns64 or settings.templates)


def _plugins(settings: Settings, built: Built, index: Index) -> list[Plugin]:
    """Return a block's plugins, outermost first: log, dns64, acl, rewrite, autopath, template, hosts, file."""
    responder, made = built.responder, list[Plugin]()
    if settings.log:
        made.append(querylog.plugin(settings.log, settings.log_zones))
    if settings.dns64 is not None:
        made.append(dns64.plugin(settings.dns64, responder))
    if settings.acl:
        made.append(acl.plugin(settings.acl, responder))
    if settings.rewrite:
        made.append(rewrite.plugin(settings.rewrite, responder))
    if settings.autopath is not None:
        made.append(autopath.plugin(settings.autopath, _search_path(settings.autopath.source, index), responder))
    if settings.templates:
        made.append(template.plugin(settings.templates, responder))
    if settings.hosts is not None:
        held = hosts.Hosts(settings.hosts)
        made.append(hosts.plugin(held, responder))
        if held.path:
            built.files.append(held)
    for origin, path in settings.zone_files:
        zone = file.ZoneFile(origin, path)
        made.append(file.plugin(zone, responder))
        built.files.append(zone)
    return made


def _pass_on(query: Query) -> Outcome:
    return Forward(query.asked, query.asked.raw)


def _route(blocks: Sequence[tuple[tuple[bytes, ...], Step]], responder: Responder) -> Plugin:
    """Return what picks the block with the longest zone that holds the name; no block: REFUSED."""

    def route(query: Query, next: Step) -> Outcome:
        best, step = -1, None
        for zones, candidate in blocks:
            for zone in zones:
                if len(zone) > best and wire.is_within(query.asked.name, zone):
                    best, step = len(zone), candidate
        if step is None:
            return responder.refuse(query.asked, wire.REFUSED, query.protocol)
        return step(query)

    return route


def _loop_watch(on_loop: Callable[[], None]) -> tuple[bytes, Plugin]:
    """Return a query that nobody else would send, and what tells when it has come back."""
    name = wire.encode_name(f"{random.getrandbits(63)}.{random.getrandbits(63)}")
    probe = b"\0\0\x01\0\0\1\0\0\0\0\0\0" + name + b"\0\x0d\0\1"

    def watch(query: Query, next: Step) -> Outcome:
        if query.asked.type == wire.HINFO and query.asked.name == name:
            on_loop()
            return None
        return next(query)

    return probe, watch


def _search_path(source: str, index: Index) -> Callable[[str], Sequence[bytes]]:
    """Return what tells a client's search domains: of its namespace, or those of a file."""
    if source == "@kubernetes":
        origin = index.zone.origin

        def of_pod(client: str) -> Sequence[bytes]:
            namespace = index.namespace_of(client)
            if not namespace:
                return ()
            return (bytes((len(namespace),)) + namespace.encode() + b"\x03svc" + origin, b"\x03svc" + origin, origin)

        return of_pod
    try:
        lines = Path(source).read_text().splitlines()
    except OSError:
        lines = []
    words = [line.split()[1:] for line in lines if line.split()[:1] == ["search"]]
    domains = tuple(wire.encode_name(word).lower() for word in (words[-1] if words else ()))
    return lambda client: domains


def forwardings(settings: Settings) -> list[tuple[bytes, Forwarding, Settings]]:
    """Return every `forward` with the zone of the block in which it stands."""
    found = []
    for block in (settings, *settings.others):
        for zone in _zones(block):
            found += [(zone, f, block) for f in block.forwards]
    return found
