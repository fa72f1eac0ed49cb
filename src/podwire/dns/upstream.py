"""Asks other resolvers, and remembers what they said for a while."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from podwire.dns.corefile import split_upstream
from podwire.runtime.clock import Clock
from podwire.wire import dns as wire

_TIMEOUT_S = 2.0
_RETRY_AFTER_S = 5.0  # an upstream that failed is left alone this long: clients then fail fast
_MAX_CACHED = 10_000
_NEGATIVE_MAX_S = 30

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
    """Sends queries to upstreams; caches answers by (name, type, flags)."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        clock: Clock,
        *,
        cache_s: int = 0,
        max_concurrent: int = 0,
        policy: str = "random",
    ) -> None:
        self.upstreams = tuple(upstreams)
        self._clock, self._cache_s, self._policy = clock, cache_s, policy
        self._limit = max_concurrent or 1_000_000
        self._running, self._turn = 0, 0
        self._down_until: dict[Upstream, float] = {}
        self._cache: OrderedDict[bytes, tuple[float, float, bytes, tuple[tuple[int, int], ...]]] = OrderedDict()

    async def resolve(self, query: bytes) -> bytes | None:
        """Return the answer with the query's own id; None when nobody answers."""
        key = query[2:]
        cached = self._recall(key)
        if cached is not None:
            return query[:2] + cached[2:]
        if self._running >= self._limit:
            return None
        self._running += 1
        try:
            answer = await self._ask(query)
        finally:
            self._running -= 1
        if answer is None:
            return None
        self._remember(key, answer)
        return query[:2] + answer[2:]

    async def _ask(self, query: bytes) -> bytes | None:
        for upstream in self._order():
            if self._down_until.get(upstream, 0.0) > self._clock.monotonic():
                continue
            sent = struct.pack(">H", random.randrange(65536)) + query[2:]
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    answer = await _ask_udp(upstream, sent)
                    if answer[2] & 0x02:  # TC: the whole answer is to be had over TCP
                        answer = await _ask_tcp(upstream, sent)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self._down_until[upstream] = self._clock.monotonic() + _RETRY_AFTER_S
                continue
            self._down_until.pop(upstream, None)
            return answer
        return None

    def _order(self) -> list[Upstream]:
        order = list(self.upstreams)
        if self._policy == "random":
            random.shuffle(order)
        elif self._policy == "round_robin" and order:
            self._turn = (self._turn + 1) % len(order)
            order = order[self._turn :] + order[: self._turn]
        return order

    def _recall(self, key: bytes) -> bytes | None:
        entry = self._cache.get(key)
        if entry is None:
            return None
        stored_s, expires_s, answer, ttls = entry
        now_s = self._clock.monotonic()
        if now_s >= expires_s:
            del self._cache[key]
            return None
        aged = bytearray(answer)
        for at, ttl_s in ttls:
            struct.pack_into(">I", aged, at, max(0, ttl_s - int(now_s - stored_s)))
        return bytes(aged)

    def _remember(self, key: bytes, answer: bytes) -> None:
        rcode = answer[3] & 15
        if not self._cache_s or rcode not in (wire.NOERROR, wire.NXDOMAIN):
            return
        try:
            ttls = wire.ttl_positions(answer)
        except wire.Malformed:
            return
        if not ttls:  # a negative answer without SOA must not be cached (RFC 2308 §5)
            return
        negative = rcode == wire.NXDOMAIN or answer[6:8] == b"\0\0"
        keep_s = min(min(t for _, t in ttls), self._cache_s, _NEGATIVE_MAX_S if negative else 1 << 31)
        now_s = self._clock.monotonic()
        self._cache[key] = (now_s, now_s + keep_s, answer, ttls)
        while len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)


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
