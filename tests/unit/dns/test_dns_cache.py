"""What is kept of upstreams' answers, and for how long; what happens when they fail."""

from __future__ import annotations

import asyncio

import dns.message
import dns.rcode
import dns.rrset
import pytest

from podwire.dns.cache import Cache
from podwire.dns.settings import Caching, Forwarding
from podwire.dns.upstream import Forwarder
from podwire.runtime.clock import FakeClock, SystemClock

QUERY = dns.message.make_query("example.com.", "A", use_edns=False)
KEY = QUERY.to_wire()[2:]


def answer(ttl_s: int = 300, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, *, soa: bool = False) -> bytes:
    made = dns.message.make_response(QUERY)
    made.set_rcode(rcode)
    if rcode == dns.rcode.NOERROR and not soa:
        made.answer.append(dns.rrset.from_text("example.com.", ttl_s, "IN", "A", "192.0.2.1"))
    if soa:
        made.authority.append(dns.rrset.from_text("com.", ttl_s, "IN", "SOA", "a. b. 1 2 3 4 5"))
    return made.to_wire()


def ttl(raw: bytes) -> int:
    m = dns.message.from_wire(raw)
    return (m.answer or m.authority)[0].ttl


@pytest.mark.parametrize(
    ("raw", "kept_s"),
    [
        (answer(300), 300),
        (answer(1), 5),  # CoreDNS' least time
        (answer(90_000), 3600),
        (answer(60, dns.rcode.NXDOMAIN, soa=True), 60),
        (answer(60, dns.rcode.NOERROR, soa=True), 60),
        (answer(60, dns.rcode.NXDOMAIN), 0),  # no SOA: RFC 2308 §5
        (answer(60, dns.rcode.SERVFAIL), 5),
        (answer(60, dns.rcode.REFUSED), 0),
        (b"", 0),
    ],
    ids=["plain", "short", "long", "nxdomain", "nodata", "no-soa", "servfail", "refused", "nothing"],
)
def test_how_long(raw: bytes, kept_s: int) -> None:
    cache = Cache(Caching())
    cache.remember(KEY, raw or answer()[:12] + b"\xff" * 4, 0.0)
    if not kept_s:
        assert cache.recall(KEY, 0.0) is None
        return
    assert cache.recall(KEY, kept_s - 0.5) is not None
    assert cache.recall(KEY, kept_s) is None


def test_ttls_count_down_and_the_oldest_go() -> None:
    cache = Cache(Caching(success_entries=2))
    for n in range(3):
        cache.remember(bytes((n,)), answer(100), 0.0)
    assert cache.recall(b"\0", 1.0) is None
    kept = cache.recall(b"\2", 40.0)
    assert kept is not None
    assert ttl(kept.answer) == 60
    assert (cache.hits, cache.misses, len(cache)) == (1, 1, 2)


def test_popular_entries_are_renewed_before_they_end_and_stale_ones_served_after() -> None:
    cache = Cache(Caching(prefetch=2, prefetch_percent=10, stale_s=60))
    cache.remember(KEY, answer(100), 0.0)
    seen = [cache.recall(KEY, now_s) for now_s in (50.0, 95.0, 130.0)]
    assert [(s.stale, s.renew) for s in seen if s] == [(False, False), (False, True), (True, True)]
    assert seen[2] is not None
    assert ttl(seen[2].answer) == 0
    assert cache.recall(KEY, 161.0) is None


class Upstream(asyncio.DatagramProtocol):
    """Answers 192.0.2.1, or nothing; counts."""

    def __init__(self) -> None:
        self.asked, self.silent = 0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: object) -> None:
        self.asked += 1
        if not self.silent:
            self.transport.sendto(data[:2] + answer()[2:], address)  # type: ignore[attr-defined]


async def test_equal_questions_at_one_time_are_asked_once() -> None:
    loop = asyncio.get_running_loop()
    transport, upstream = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
    forwarder = Forwarder(Forwarding(to=(f"127.0.0.1:{transport.get_extra_info('sockname')[1]}",)), SystemClock())
    raws = await asyncio.gather(*(forwarder.resolve(bytes((0, n)) + KEY) for n in range(20)))
    assert upstream.asked == 1
    assert [raw[:2] for raw in raws if raw] == [bytes((0, n)) for n in range(20)]
    transport.close()


async def test_an_upstream_that_fails_is_left_alone_until_it_answers_again() -> None:
    loop = asyncio.get_running_loop()
    transport, upstream = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    transport.close()  # nobody listens: refused at once
    await asyncio.sleep(0)
    clock = FakeClock()
    forwarder = Forwarder(Forwarding(to=(f"127.0.0.1:{port}",), max_fails=2), clock)
    keeper = asyncio.create_task(forwarder.keep_healthy())
    for _ in range(3):
        assert await forwarder.resolve(b"\0\1" + KEY) is None
    assert forwarder.asked[("127.0.0.1", port), "failed"] == 2  # the third was not even tried
    transport, upstream = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", port))
    async with asyncio.timeout(5):
        while not upstream.asked:
            await clock.advance(0.5)
            await asyncio.sleep(0.01)
        while await forwarder.resolve(b"\0\1" + KEY) is None:
            await asyncio.sleep(0.01)
    keeper.cancel()
    transport.close()
