"""The store in memory: state, history and subscriptions. Also the front half of the durable store.

Writes of one event-loop turn form one batch. ``_persist`` makes a batch durable (here: nothing to do);
only then does it become visible and are its futures resolved. If it fails, the batch never happened.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from itertools import islice
from operator import attrgetter

import orjson

from podwire.apiserver.store.port import Change, Compacted, EventType, Index, IndexOf, Listener, Row, Stale, StoreFailed
from podwire.model.objects import Key, Obj

HISTORY_CHANGES = 20_000
HISTORY_BYTES = 64 << 20
_LAST = "\U0010ffff"


def index_labels(bucket: str, obj: Obj) -> Index:
    """Return the index of labels only: the simplest ``IndexOf``."""
    return Index(obj["metadata"].get("labels") or {}, {})


class _Bucket:
    """The rows of one bucket, and their keys in order."""

    __slots__ = ("listeners", "order", "rows", "watchers")

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.order: list[Key] = []
        self.watchers: set[MemoryWatcher] = set()
        self.listeners: list[Listener] = []

    def set(self, row: Row) -> None:
        if row.key not in self.rows:
            insort(self.order, row.key)
        self.rows[row.key] = row

    def remove(self, key: Key) -> None:
        del self.rows[key]
        del self.order[bisect_left(self.order, key)]

    def keys(self, namespace: str) -> list[Key]:
        if not namespace:
            return self.order
        low = bisect_left(self.order, Key(namespace, ""))
        return self.order[low : bisect_right(self.order, Key(namespace, _LAST), low)]


class MemoryStore:
    """``store.port.Store`` without a disk."""

    def __init__(
        self,
        index_of: IndexOf = index_labels,
        *,
        history_changes: int = HISTORY_CHANGES,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        self._index_of = index_of
        self._buckets: dict[str, _Bucket] = {}
        self._history: deque[Change] = deque()
        self._history_size = 0
        self._history_changes, self._history_bytes = history_changes, history_bytes
        self._revision = self._next = self._compacted = 1
        self._batch: list[tuple[Change, asyncio.Future[Row]]] = []
        self._ahead: dict[tuple[str, Key], Row | None] = {}

    @property
    def revision(self) -> int:
        """The newest committed revision."""
        return self._revision

    @property
    def compacted(self) -> int:
        """The revision before which only the present state is known."""
        return self._compacted

    def get(self, bucket: str, key: Key) -> Row | None:
        """Return the committed object, or None."""
        found = self._buckets.get(bucket)
        return None if found is None else found.rows.get(key)

    def peek(self, bucket: str, key: Key) -> Row | None:
        """Return the newest object, writes on their way included, or None."""
        if self._ahead and (bucket, key) in self._ahead:
            return self._ahead[bucket, key]
        return self.get(bucket, key)

    def rows(self, bucket: str, namespace: str = "", *, at: int = 0) -> Sequence[Row]:
        """Return a bucket's objects in order, as of revision ``at``. Raises Compacted."""
        if at and at < self._compacted:
            raise Compacted(at, self._compacted)
        if at and at < self._revision:
            return self._rows_at(bucket, namespace, at)
        found = self._buckets.get(bucket)
        if found is None:
            return ()
        rows = found.rows
        return [rows[k] for k in found.keys(namespace)]

    def _rows_at(self, bucket: str, namespace: str, at: int) -> Sequence[Row]:
        """Undo the changes after ``at``, newest first."""
        found = self._buckets.get(bucket)
        rows = dict(found.rows) if found is not None else {}
        for change in reversed(self._history):
            if change.revision <= at:
                break
            if change.bucket == bucket:
                if change.previous is None:
                    rows.pop(change.row.key, None)
                else:
                    rows[change.row.key] = change.previous
        return [rows[k] for k in sorted(rows) if not namespace or k.namespace == namespace]

    def put(self, bucket: str, key: Key, obj: Obj, *, expected: int | None = None) -> asyncio.Future[Row]:
        """Store ``obj``; the future is done when that is durable. Raises Stale."""
        previous = self.peek(bucket, key)
        _compare(bucket, key, previous, expected)
        return self._submit("MODIFIED" if previous else "ADDED", bucket, key, obj, previous)

    def delete(self, bucket: str, key: Key, *, expected: int | None = None) -> asyncio.Future[Row]:
        """Remove an object; the future gives its last state. Raises Stale and KeyError."""
        previous = self.peek(bucket, key)
        if previous is None:
            raise KeyError(key)
        _compare(bucket, key, previous, expected)
        return self._submit("DELETED", bucket, key, orjson.loads(previous.body), previous)

    def _submit(self, type: EventType, bucket: str, key: Key, obj: Obj, previous: Row | None) -> asyncio.Future[Row]:
        revision = self._next + 1
        obj["metadata"]["resourceVersion"] = str(revision)
        index = self._index_of(bucket, obj)
        row = Row(key, revision, orjson.dumps(obj), index.labels, index.fields)
        self._next = revision
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Row] = loop.create_future()
        if not self._batch:
            loop.call_soon(self._commit)
        self._batch.append((Change(type, bucket, row, previous, {}), future))
        self._ahead[bucket, key] = None if type == "DELETED" else row
        return future

    def _commit(self) -> None:
        batch, self._batch, self._ahead = self._batch, [], {}
        if not batch:
            return
        changes = [change for change, _ in batch]
        try:
            self._persist(changes)
        except StoreFailed as error:
            self._next = self._revision
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        touched: set[MemoryWatcher] = set()
        for change, future in batch:
            touched.update(self._apply(change))
            if not future.done():
                future.set_result(change.row)
        for watcher in touched:
            watcher.wake()
        if len(self._history) > 2 * self._history_changes or self._history_size > 2 * self._history_bytes:
            self.compact()

    def _apply(self, change: Change) -> set[MemoryWatcher]:
        """Make a durable change visible; return whom it concerns."""
        bucket = self._buckets.setdefault(change.bucket, _Bucket())
        if change.type == "DELETED":
            bucket.remove(change.row.key)
        else:
            bucket.set(change.row)
        self._revision = change.revision
        self._history.append(change)
        self._history_size += len(change.row.body)
        for watcher in bucket.watchers:
            watcher.pending.append(change)
        for listener in bucket.listeners:
            listener(change)
        return bucket.watchers

    def _persist(self, changes: Sequence[Change]) -> None:
        """Make a batch durable. Raises StoreFailed, and then nothing of it is."""

    def watch(self, bucket: str, after: int) -> MemoryWatcher:
        """Return a subscription to what follows revision ``after``. Raises Compacted."""
        if after < self._compacted:
            raise Compacted(after, self._compacted)
        found = self._buckets.setdefault(bucket, _Bucket())
        watcher = MemoryWatcher(found.watchers)
        if after < self._revision:
            start = bisect_right(self._history, after, key=attrgetter("revision"))
            watcher.pending.extend(c for c in islice(self._history, start, None) if c.bucket == bucket)
        return watcher

    def listen(self, bucket: str, listener: Listener) -> None:
        """Call ``listener`` with every change of a bucket as it is committed."""
        self._buckets.setdefault(bucket, _Bucket()).listeners.append(listener)

    def compact(self) -> int:
        """Keep only the newest of the history, within its limits of number and size."""
        dropped = 0
        history = self._history
        while history and (len(history) > self._history_changes or self._history_size > self._history_bytes):
            change = history.popleft()
            self._history_size -= len(change.row.body)
            self._compacted = change.revision
            dropped += 1
        return dropped

    def close(self) -> None:
        """Commit what is pending."""
        self._commit()


class MemoryWatcher:
    """A subscription: a queue that the commit fills."""

    __slots__ = ("_group", "_waiting", "pending")

    MAX_PENDING = 100_000

    def __init__(self, group: set[MemoryWatcher]) -> None:
        self.pending: list[Change] = []
        self._group = group
        self._waiting: asyncio.Future[None] | None = None
        group.add(self)

    def wake(self) -> None:
        """Let ``next`` return."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def next(self, timeout_s: float) -> Sequence[Change]:
        """Return what changed; empty after ``timeout_s``. Raises Compacted for a reader too slow."""
        if len(self.pending) > self.MAX_PENDING:
            raise Compacted(self.pending[0].revision, self.pending[-1].revision)
        if not self.pending:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(timeout_s, self.wake)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        changes, self.pending = self.pending, []
        return changes

    def close(self) -> None:
        """End the subscription."""
        self._group.discard(self)


def _compare(bucket: str, key: Key, found: Row | None, expected: int | None) -> None:
    if expected is not None and (found.revision if found else 0) != expected:
        raise Stale(f"{bucket} {key}: revision is {found.revision if found else 0}, not {expected}")
