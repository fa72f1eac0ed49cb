"""The store's port: buckets of objects under one global revision, with a history to watch.

Semantics are etcd's, as a kube-apiserver uses them:

* Each write takes the next revision, which becomes the object's resourceVersion.
* A write that is answered is durable; readers and watchers see it only then, in revision order.
* History reaches back to ``compacted``; a watch or a snapshot from before that raises ``Compacted``.
* Only one process writes. ``peek`` shows the newest state including writes that are on their way, so that
  a read-modify-write without an await between is atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from podwire.model.errors import PodwireError
from podwire.model.objects import Key, Obj

if TYPE_CHECKING:
    import asyncio

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


class Compacted(PodwireError):
    """The revision asked for lies before the history that is kept."""

    def __init__(self, revision: int, compacted: int) -> None:
        self.revision, self.compacted = revision, compacted
        super().__init__(f"too old resource version: {revision} ({compacted})")


class Stale(PodwireError):
    """A compare-and-set found another revision than it expected."""


class StoreFailed(PodwireError):
    """The write could not be made durable (disk full, I/O error); nothing of it is kept."""


class Row(NamedTuple):
    """One object at one revision. ``body`` is its JSON, metadata.resourceVersion included."""

    key: Key
    revision: int
    body: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]  # what field selectors may ask for


class Index(NamedTuple):
    """What the store keeps parsed of an object."""

    labels: Mapping[str, str]
    fields: Mapping[str, str]


IndexOf = Callable[[str, Obj], Index]
"""(bucket, object) -> what selectors need to know of it."""


@dataclass(slots=True, eq=False)
class Change:
    """One committed write. ``row`` of a DELETED is the last state at the revision of the deletion."""

    type: EventType
    bucket: str
    row: Row
    previous: Row | None
    lines: dict[str, bytes]  # serialised watch events by event type, filled by whoever needs one first

    @property
    def revision(self) -> int:
        """The revision that this change made."""
        return self.row.revision


Listener = Callable[[Change], None]


class Watcher(Protocol):
    """One subscription to a bucket. Changes come in order and without gaps."""

    async def next(self, timeout_s: float) -> Sequence[Change]:
        """Return the changes since the last call; empty after ``timeout_s`` without any.

        Raises ``Compacted`` when the watcher fell behind the history that is kept.
        """
        ...

    def close(self) -> None:
        """End the subscription."""
        ...


class Store(Protocol):
    """Objects in buckets. Every method but the futures' completion is immediate."""

    @property
    def revision(self) -> int:
        """The newest committed revision."""
        ...

    @property
    def compacted(self) -> int:
        """The revision before which nothing is known but the present state."""
        ...

    def get(self, bucket: str, key: Key) -> Row | None:
        """Return the committed object, or None."""
        ...

    def peek(self, bucket: str, key: Key) -> Row | None:
        """Return the newest object, writes on their way included, or None."""
        ...

    def rows(self, bucket: str, namespace: str = "", *, at: int = 0) -> Sequence[Row]:
        """Return a bucket's committed objects by namespace and name, as of revision ``at`` (0: now).

        ``namespace`` "" means all. Raises ``Compacted``.
        """
        ...

    def put(self, bucket: str, key: Key, obj: Obj, *, expected: int | None = None) -> asyncio.Future[Row]:
        """Store ``obj`` (its resourceVersion is set here); the future is done when that is durable.

        ``expected`` is the revision that must be replaced, 0 for "must not exist", None for any.
        Raises ``Stale`` at once; the future raises ``StoreFailed``.
        """
        ...

    def delete(self, bucket: str, key: Key, *, expected: int | None = None) -> asyncio.Future[Row]:
        """Remove an object that exists; the future gives its last state. Raises as ``put`` and KeyError."""
        ...

    def watch(self, bucket: str, after: int) -> Watcher:
        """Return a subscription to the changes after revision ``after``. Raises ``Compacted``."""
        ...

    def listen(self, bucket: str, listener: Listener) -> None:
        """Call ``listener`` with every change of a bucket as it is committed, before anyone is answered."""
        ...

    def compact(self) -> int:
        """Forget history beyond what is configured to be kept; return the number of entries dropped."""
        ...

    def close(self) -> None:
        """Write out what is pending and release files."""
        ...
