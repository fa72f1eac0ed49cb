"""What answers queries, given an index: plugins, upstreams, cache, sockets. One in each process that serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from podwire.dns import blocks
from podwire.dns.corefile import Kubernetes, Settings
from podwire.dns.index import Index
from podwire.dns.metrics import Report
from podwire.dns.plan import Zone
from podwire.dns.responder import Forward, Responder
from podwire.dns.server import DnsServer, Sockets
from podwire.dns.upstream import Forwarder
from podwire.model.errors import BadInput, Problem
from podwire.runtime.clock import Clock
from podwire.runtime.logging import get
from podwire.wire import dns as wire

_NO_REACHABLE = 22  # RFC 8914
_MAX_STEPS = 16
_log = get("dns")


def make_index(settings: Settings, serial: int) -> Index:
    """Return an empty index for the cluster zone of these settings. Raises BadInput."""
    kubernetes = settings.kubernetes or Kubernetes()
    zones = [z for z in kubernetes.zones if not z.endswith(".arpa")]
    if len(zones) != 1:
        raise BadInput(Problem("Corefile", "kubernetes", f"one cluster zone is expected, not {zones}"))
    zone = Zone(wire.encode_name(zones[0]).lower(), kubernetes.ttl_s, kubernetes.endpoint_pod_names)
    return Index(zone, pods=kubernetes.pods, serial=serial, empty_is_absent=kubernetes.ignore_empty)


class Engine:
    """Serves one set of settings from one index, and takes new ones without losing a query."""

    def __init__(self, settings: Settings, index: Index, clock: Clock) -> None:
        self._clock = clock
        self._former: dict[tuple[str, int, int], int] = {}  # totals of what reconfiguration has replaced
        self._keepers: set[asyncio.Task[None]] = set()
        self.loop_found = asyncio.Event()
        self._build(settings, index)
        self.server = DnsServer(self.responder, self.resolve)

    def _build(self, settings: Settings, index: Index) -> None:
        self.settings, self.index = settings, index
        self.forwarders = [
            Forwarder(f, self._clock, zone=zone, caching=block.caching)
            for zone, f, block in blocks.forwardings(settings)
        ]
        self._built = blocks.build(settings, index, self.loop_found.set)
        self.responder: Responder = self._built.responder
        self.responder.has_upstream = any(f.upstreams for f in self.forwarders) or any(
            block.zone_files for block in (settings, *settings.others)
        )

    def reconfigure(self, settings: Settings, index: Index) -> None:
        """Answer by other settings from now on."""
        synced = self.responder.synced
        for key, row in self.responder.counts.items():
            self._former[key] = self._former.get(key, 0) + row[0]
        self._build(settings, index)
        self.responder.synced = synced
        self.server.use(self.responder)
        self._start_keepers()

    async def start(self, sockets: Sockets) -> None:
        """Answer on these sockets."""
        await self.server.start(sockets)
        self._start_keepers()

    def close(self) -> None:
        """Stop answering."""
        self.server.close()
        for task in self._keepers:
            task.cancel()

    @property
    def counts(self) -> dict[tuple[str, int, int], int]:
        """Answers by (protocol, type, rcode)."""
        total = dict(self._former)
        for key, row in self.responder.counts.items():
            total[key] = total.get(key, 0) + row[0]
        return total

    def report(self) -> Report:
        """Return this process's numbers."""
        upstreams: dict[tuple[str, str], int] = {}
        hits = misses = entries = 0
        for forwarder in self.forwarders:
            for ((host, port), what), n in forwarder.asked.items():
                key = (f"{host}:{port}", what)
                upstreams[key] = upstreams.get(key, 0) + n
            if forwarder.cache is not None:
                hits, misses = hits + forwarder.cache.hits, misses + forwarder.cache.misses
                entries += len(forwarder.cache)
        return Report(self.counts, dict(self.server.clients), upstreams, hits, misses, entries)

    # --- what runs beside

    def _start_keepers(self) -> None:
        for task in self._keepers:
            task.cancel()
        work: list[Coroutine[Any, Any, None]] = [f.keep_healthy() for f in self.forwarders if f.upstreams]
        work += [self._keep(hosts.reload_s, hosts.read) for hosts in self._built.files]
        if self.settings.loop and self.responder.has_upstream:
            work.append(self._probe_loop(self._built.loop_probe))
        self._keepers = {asyncio.ensure_future(w) for w in work}

    async def _keep(self, every_s: float, read: Callable[[], bool]) -> None:
        while True:
            if read():
                self.responder.plugin_revision += 1
            if not every_s:
                return
            await self._clock.sleep(every_s)

    async def _probe_loop(self, query: bytes) -> None:
        """Send ourselves a name that nobody else knows: does it come back, upstreams lead here (plugin `loop`)."""
        with suppress(OSError):
            await self.forwarders[0].resolve(query)

    # --- names of elsewhere

    async def resolve(self, forward: Forward, protocol: str) -> bytes:
        """Return what the client of a forwarded query gets."""
        asked = forward.asked
        for _ in range(_MAX_STEPS):
            answer = await self._ask(forward, protocol)
            outcome = forward.then(answer) if forward.then is not None else answer
            if not isinstance(outcome, Forward):
                break
            forward = outcome
        else:
            outcome = None
        if outcome is None:
            outcome = self.responder.refuse(asked, wire.SERVFAIL, protocol)
        self.responder.count(protocol, asked.type, outcome[3] & 15)
        if len(outcome) > asked.limit_bytes:  # fetched whole over TCP: the client must do so too
            return self.responder.truncate(asked, protocol)
        return outcome

    async def _ask(self, forward: Forward, protocol: str) -> bytes:
        forwarder = choose(self.forwarders, wire.decode_name(forward.query, 12)[0].lower())
        asked = forward.asked
        if forwarder is None:
            return self._fail(forward, protocol, "no upstream resolver is known for this name")
        answer = await forwarder.resolve(forward.query)
        if answer is None:
            why = "no upstream resolver answers" if forwarder.upstreams else "no upstream resolver is known"
            if self.settings.errors:
                name = wire.name_text(asked.name)
                _log.error("unresolved", name=name, type=asked.type, why=why)
            return self._fail(forward, protocol, why)
        return answer

    def _fail(self, forward: Forward, protocol: str, why: str) -> bytes:
        return self.responder.refuse(forward.asked, wire.SERVFAIL, protocol, (_NO_REACHABLE, why))


def choose(forwarders: Sequence[Forwarder], name: bytes) -> Forwarder | None:
    """Return the forwarder that a lower-case name belongs to: of the longest block, then of the longest zone."""
    fitting = [f for f in forwarders if f.covers(name)]
    return max(fitting, key=lambda f: (len(f.block_zone), len(f.zone)), default=None)
