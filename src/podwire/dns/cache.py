"""What upstreams have said, for as long as they said it holds. No I/O; time is handed in.

Names of the cluster never come here: their answers are made from objects and are never stale.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass

from podwire.dns.settings import Caching
from podwire.wire import dns as wire


@dataclass(slots=True)
class Entry:
    """One answer. ``ttls``: where its TTLs stand, and what they were."""

    stored_s: float
    expires_s: float
    answer: bytes
    ttls: tuple[tuple[int, int], ...]
    hits: int = 0
    last_hit_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Recalled:
    """A kept answer, its TTLs counted down. ``stale``: it has ended; ``renew``: ask again in the background."""

    answer: bytes
    stale: bool = False
    renew: bool = False


class Cache:
    """Answers by query (without its id): positive and negative ones apart, the least recently stored go first."""

    def __init__(self, caching: Caching) -> None:
        self._caching = caching
        self._success: OrderedDict[bytes, Entry] = OrderedDict()
        self._denial: OrderedDict[bytes, Entry] = OrderedDict()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._success) + len(self._denial)

    def recall(self, key: bytes, now_s: float) -> Recalled | None:
        """Return what is kept; None: nothing that may still be served."""
        entry = self._success.get(key) or self._denial.get(key)
        if entry is None or now_s >= entry.expires_s + self._caching.stale_s:
            self.misses += 1
            if entry is not None:
                self._forget(key)
            return None
        self.hits += 1
        stale = now_s >= entry.expires_s
        recent = now_s - entry.last_hit_s <= self._caching.prefetch_within_s
        entry.hits, entry.last_hit_s = (entry.hits + 1 if recent else 1), now_s
        aged = bytearray(entry.answer)
        for at, ttl_s in entry.ttls:
            struct.pack_into(">I", aged, at, 0 if stale else max(0, ttl_s - int(now_s - entry.stored_s)))
        return Recalled(bytes(aged), stale, stale or self._is_due(entry, now_s))

    def _is_due(self, entry: Entry, now_s: float) -> bool:
        caching = self._caching
        if not caching.prefetch or entry.hits < caching.prefetch:
            return False
        left_s, whole_s = entry.expires_s - now_s, entry.expires_s - entry.stored_s
        return left_s <= whole_s * caching.prefetch_percent / 100

    def remember(self, key: bytes, answer: bytes, now_s: float) -> None:
        """Keep an answer as long as it and the settings allow; what must not be kept is not."""
        rcode, caching = answer[3] & 15, self._caching
        if answer[2] & 0x02:  # cut answers are nobody's
            return
        try:
            ttls = wire.ttl_positions(answer)
        except wire.Malformed:
            return
        if rcode == wire.SERVFAIL:
            self._keep(
                self._denial, key, Entry(now_s, now_s + caching.servfail_s, answer, ttls), caching.denial_entries
            )
            return
        if rcode not in (wire.NOERROR, wire.NXDOMAIN) or not ttls:  # a denial without SOA: RFC 2308 §5
            return
        said_s = min(ttl_s for _, ttl_s in ttls)
        if rcode == wire.NXDOMAIN or answer[6:8] == b"\0\0":
            keep_s = min(max(said_s, caching.denial_min_s), caching.denial_s)
            store, most, other = self._denial, caching.denial_entries, self._success
        else:
            keep_s = min(max(said_s, caching.success_min_s), caching.success_s)
            store, most, other = self._success, caching.success_entries, self._denial
        other.pop(key, None)
        shown = tuple((at, keep_s) for at, _ in ttls)
        self._keep(store, key, Entry(now_s, now_s + keep_s, answer, shown), most)

    def _keep(self, store: OrderedDict[bytes, Entry], key: bytes, entry: Entry, most: int) -> None:
        if entry.expires_s <= entry.stored_s:
            return
        store.pop(key, None)
        store[key] = entry
        while len(store) > most:
            store.popitem(last=False)

    def _forget(self, key: bytes) -> None:
        self._success.pop(key, None)
        self._denial.pop(key, None)
