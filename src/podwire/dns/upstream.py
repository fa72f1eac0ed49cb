"""Asks other resolvers, and remembers what they said for a while."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from podwire.dns.cache import Cache
from podwire.dns.directives import split_upstream
from podwire.dns.settings import Caching, Forwarding
from podwire.runtime.clock import Clock
from podwire.wire import dns as wire

_TIMEOUT_S = 2.0

Upstream = tuple[str, int]


def find_upstreams(to: Sequence[str]) -> tuple[Upstream, ...]:
    """Return the resolvers that `forward` names; files are read as resolv.conf, an absent one counts as empty.

    Loopback addresses are left out of files: in a pod they are this very server.
    """
    found: list[Upstream] = []
    for text in to:
        if not text.startswith("/"):
            found.append(split_upstream(text))
            continue
        try:
            lines = Path(text).read_text().splitlines()
        except OSError:
            continue
        for words in (line.split() for line in lines):
            if len(words) == 2 and words[0] == "nameserver":
                try:
                    address = ip_address(words[1].partition("%")[0])
                except ValueError:
                    continue
                if not address.is_loopback:
                    found.append((words[1], 53))
    return tuple(dict.fromkeys(found))


class _Exchange(asyncio.DatagramProtocol):
    """One query on one connected socket: a fresh port each time, so that answers are hard to forge."""

    def __init__(self, query: bytes) -> None:
        self._query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.sendto(self._query)  # type: ignore[attr-defined]

    def datagram_received(self, data: bytes, address: object) -> None:
        if data[:2] == self._query[:2] and len(data) >= 12 and data[2] & 0x80 and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Forwarder:
    """Sends queries to the upstreams of one `forward`; keeps answers as its block's `cache` says.

    An upstream that fails ``max_fails`` times in a row is down: it is asked for the health domain every
    ``health_check_s`` until it answers, and queries go elsewhere meanwhile; with all of them down, clients
    are told so at once.
    """

    def __init__(
        self, settings: Forwarding, clock: Clock, *, zone: bytes = wire.ROOT, caching: Caching | None = None
    ) -> None:
        """``zone``: of the server block in which it stands."""
        self.settings = settings
        self.upstreams = find_upstreams(settings.to)
        self.block_zone, self.zone = zone, wire.encode_name(settings.zone).lower()
        self._excepted = tuple(wire.encode_name(z).lower() for z in settings.excepted)
        self._clock = clock
        self.cache = Cache(caching) if caching is not None else None
        self._caching = caching or Caching()
        self._limit = settings.max_concurrent or 1_000_000
        self._running, self._turn = 0, 0
        self._fails: dict[Upstream, int] = {}
        self._down = asyncio.Event()
        self._renewing: dict[bytes, asyncio.Task[bytes | None]] = {}
        self.asked: Counter[tuple[Upstream, str]] = Counter()  # (upstream, what came back)

    def covers(self, name: bytes) -> bool:
        """Return whether a lower-case name is this forwarder's."""
        if not (wire.is_within(name, self.block_zone) and wire.is_within(name, self.zone)):
            return False
        return not any(wire.is_within(name, zone) for zone in self._excepted)

    async def resolve(self, query: bytes) -> bytes | None:
        """Return the answer with the query's own id; None when nobody answers."""
        key = query[2:]
        kept = self.cache.recall(key, self._clock.monotonic()) if self.cache is not None else None
        if kept is not None and not kept.stale:
            if kept.renew:
                self._renew(query)
            return query[:2] + kept.answer[2:]
        if kept is not None and not self._caching.stale_verify:
            self._renew(query)
            return query[:2] + kept.answer[2:]
        answer = await self._fetch(query)
        if kept is not None and (answer is None or answer[3] & 15 == wire.SERVFAIL):
            return query[:2] + kept.answer[2:]
        return answer

    async def _fetch(self, query: bytes) -> bytes | None:
        """Return a fresh answer; equal questions at one time are asked once."""
        running = self._renewing.get(query[2:])
        if running is None:
            running = self._renew(query)
        answer = await asyncio.shield(running)
        return query[:2] + answer[2:] if answer is not None else None

    def _renew(self, query: bytes) -> asyncio.Task[bytes | None]:
        key = query[2:]
        running = self._renewing.get(key)
        if running is None:
            running = self._renewing[key] = asyncio.ensure_future(self._ask_and_keep(query))
            running.add_done_callback(lambda _: self._renewing.pop(key, None))
        return running

    async def _ask_and_keep(self, query: bytes) -> bytes | None:
        if self._running >= self._limit:
            return None
        self._running += 1
        try:
            answer = await self._ask(query)
        finally:
            self._running -= 1
        if answer is not None and self.cache is not None:
            self.cache.remember(query[2:], answer, self._clock.monotonic())
        return answer

    async def _ask(self, query: bytes) -> bytes | None:
        for upstream in self._order():
            answer = await self._exchange(upstream, query)
            if answer is not None:
                self._fails.pop(upstream, None)
                return answer
            self._fails[upstream] = self._fails.get(upstream, 0) + 1
            if self._is_down(upstream):
                self._down.set()
        return None

    async def _exchange(self, upstream: Upstream, query: bytes) -> bytes | None:
        sent = struct.pack(">H", random.randrange(65536)) + query[2:]
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = b"" if self.settings.force_tcp else await _ask_udp(upstream, sent)
                if not answer or answer[2] & 0x02:  # TC: the whole answer is to be had over TCP
                    answer = await _ask_tcp(upstream, sent)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.asked[upstream, "failed"] += 1
            return None
        if len(answer) < 12 or answer[:2] != sent[:2]:
            self.asked[upstream, "failed"] += 1
            return None
        self.asked[upstream, wire.RCODES.get(answer[3] & 15, "other")] += 1
        return answer

    def _is_down(self, upstream: Upstream) -> bool:
        most = self.settings.max_fails
        return bool(most) and self._fails.get(upstream, 0) >= most

    def _order(self) -> list[Upstream]:
        order = [u for u in self.upstreams if not self._is_down(u)]
        policy = self.settings.policy
        if policy == "random":
            random.shuffle(order)
        elif policy == "round_robin" and order:
            self._turn = (self._turn + 1) % len(order)
            order = order[self._turn :] + order[: self._turn]
        return order

    async def keep_healthy(self) -> None:
        """Ask upstreams that are down until they answer. Runs until cancelled."""
        probe = b"\0\0\x01\0\0\1\0\0\0\0\0\0" + wire.encode_name(self.settings.health_domain) + b"\0\2\0\1"
        while True:
            await self._down.wait()
            await self._clock.sleep(max(self.settings.health_check_s, 0.05))
            for upstream in [u for u in self.upstreams if self._is_down(u)]:
                if await self._exchange(upstream, probe) is not None:
                    self._fails.pop(upstream, None)
            if not any(map(self._is_down, self.upstreams)):
                self._down.clear()


async def _ask_udp(upstream: Upstream, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_datagram_endpoint(lambda: _Exchange(query), remote_addr=upstream)
    try:
        return await exchange.answer
    finally:
        transport.close()


async def _ask_tcp(upstream: Upstream, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*upstream)
    try:
        writer.write(struct.pack(">H", len(query)) + query)
        size = struct.unpack(">H", await reader.readexactly(2))[0]
        return await reader.readexactly(size)
    finally:
        writer.close()
