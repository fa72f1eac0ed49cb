"""The store on disk: an append-only log of changes in SQLite (WAL), with all state in memory.

One row per change, keyed by its revision; the present state is the last row of each object. So a write is
one append at the end of one B-tree, and history survives a restart: watches resume where they were.
``compact`` deletes rows that later ones made superfluous.

Durability: a commit has reached the kernel before it is answered (``synchronous=NORMAL``: no fsync per
commit). ``kill -9`` of any process loses nothing. A power failure may lose the last writes since the
latest checkpoint, never the file's consistency; a network lab on one machine does not outlive that
machine's pods anyway.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import orjson

from podwire.apiserver.store.memory import HISTORY_BYTES, HISTORY_CHANGES, MemoryStore, index_labels
from podwire.apiserver.store.port import Change, EventType, IndexOf, Row, StoreFailed
from podwire.model.errors import AlreadyInUse, MachineError
from podwire.model.objects import Key

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS changes (
  revision INTEGER PRIMARY KEY,
  bucket TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  deleted INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class SqliteStore(MemoryStore):
    """``store.port.Store`` in one file. One process at a time: a second one is refused."""

    def __init__(
        self,
        path: Path,
        index_of: IndexOf = index_labels,
        *,
        history_changes: int = HISTORY_CHANGES,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        """Open or make ``path``. Raises AlreadyInUse, and MachineError when the file is no store."""
        super().__init__(index_of, history_changes=history_changes, history_bytes=history_bytes)
        self._path = path
        # (revision from which on it is superfluous, revision of the row), in order.
        self._superseded: deque[tuple[int, int]] = deque()
        try:
            self._db = _open(path)
            self._load()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise AlreadyInUse("apiserver", "open", str(path), error, "another API server uses it") from error
            raise MachineError("apiserver", "open", str(path), error) from error
        except sqlite3.DatabaseError as error:
            raise MachineError("apiserver", "open", str(path), error, "restore it or remove it") from error

    def _load(self) -> None:
        marks = dict(self._db.execute("SELECT name, value FROM marks"))
        if marks.get("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"written by another podwire (schema {marks['schema']})")
        self._compacted = self._revision = self._next = marks.get("compacted", 1)
        for record in self._db.execute("SELECT * FROM changes ORDER BY revision"):
            self._replay(*record)

    def _replay(self, revision: int, bucket: str, namespace: str, name: str, deleted: int, body: bytes) -> None:
        key = Key(namespace, name)
        previous = self.get(bucket, key)
        index = self._index_of(bucket, orjson.loads(body))
        row = Row(key, revision, body, index.labels, index.fields)
        kind: EventType = "DELETED" if deleted else "MODIFIED" if previous else "ADDED"
        change = Change(kind, bucket, row, previous, {})
        self._remember(change)
        self._apply(change)
        self._next = self._revision
        if revision <= self._compacted:
            self._history_size -= len(self._history.pop().row.body)

    def _remember(self, change: Change) -> None:
        if change.previous is not None:
            self._superseded.append((change.revision, change.previous.revision))
        if change.type == "DELETED":
            self._superseded.append((change.revision, change.revision))

    def _persist(self, changes: Sequence[Change]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?)", map(_record, changes))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StoreFailed(f"cannot write {self._path}: {error}") from error
        for change in changes:
            self._remember(change)

    def compact(self) -> int:
        """Drop history beyond its limits, in memory and on disk; a full disk only delays it."""
        dropped = super().compact()
        horizon = self._compacted
        old = [(row,) for since, row in takewhile(lambda pair: pair[0] <= horizon, self._superseded)]
        if not old:
            return dropped
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR REPLACE INTO marks VALUES ('compacted', ?)", (horizon,))
            self._db.executemany("DELETE FROM changes WHERE revision = ?", old)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            return dropped
        for _ in old:
            self._superseded.popleft()
        return dropped

    def close(self) -> None:
        """Commit what is pending and close the file."""
        super().close()
        self._db.close()


def _record(change: Change) -> tuple[int, str, str, str, int, bytes]:
    key = change.row.key
    deleted = change.type == "DELETED"
    return (change.revision, change.bucket, key.namespace, key.name, int(deleted), change.row.body)


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None, timeout=0.5)
    # The lock mode keeps the WAL index in process memory and a second server out.
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("PRAGMA wal_autocheckpoint=4000")
    db.execute("PRAGMA journal_size_limit=16777216")
    db.execute("BEGIN IMMEDIATE")  # takes the lock now, not at the first write
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            db.execute(statement)
    db.execute("INSERT OR IGNORE INTO marks VALUES ('schema', ?)", (SCHEMA_VERSION,))
    db.execute("COMMIT")
    return db
