"""get, list and watch: from stored bytes to the wire, without parsing objects where that can be helped."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from podwire.apiserver import fieldindex, presentation
from podwire.apiserver.errors import ApiStatusError, bad_request, gone, not_found, timeout
from podwire.apiserver.fieldindex import Selection
from podwire.apiserver.kinds import Kind
from podwire.apiserver.negotiation import Format
from podwire.apiserver.store.port import Change, Compacted, Row, Store
from podwire.model.objects import Key, Obj
from podwire.runtime.clock import Clock

BOOKMARK_EVERY_S = 55.0
FUTURE_WAIT_S = 3.0
_DEFAULT_WATCH_S = 1800.0


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a collection: rows at one revision, and how to go on."""

    rows: Sequence[Row]
    revision: int
    continue_token: str = ""
    remaining: int | None = None


class Reads:
    """The read half of the API."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def get(self, kind: Kind, namespace: str, name: str) -> Row:
        """Return the committed object. Raises NotFound."""
        row = self._store.get(kind.storage, Key(namespace, name))
        if row is None:
            raise not_found(kind, name)
        return row

    async def list(self, kind: Kind, namespace: str, params: Mapping[str, str]) -> Listed:
        """Return the selected objects, or a page of them. Raises 400, 410, 504."""
        selection = _selection(kind, params)
        limit = _number(params, "limit")
        token = params.get("continue", "")
        at, after = _decode_continue(token) if token else (await self._revision_for(params), None)
        rows = self._rows(kind, namespace, selection, at)
        if after is not None:
            rows = [r for r in rows if r.key > after]
        if not selection.everything:
            rows = [r for r in rows if selection.matches(r)]
        revision = at or self._store.revision
        if not limit or len(rows) <= limit:
            return Listed(rows, revision)
        page = rows[:limit]
        remaining = len(rows) - limit if selection.everything else None
        return Listed(page, revision, _encode_continue(revision, page[-1].key), remaining)

    def _rows(self, kind: Kind, namespace: str, selection: Selection, at: int) -> Sequence[Row]:
        name = selection.name
        if name and not at and (namespace or not kind.namespaced):
            row = self._store.get(kind.storage, Key(namespace, name))
            return [row] if row is not None else []
        try:
            return self._store.rows(kind.storage, namespace, at=at)
        except Compacted as error:
            raise gone(
                "The provided continue parameter is too old to display a consistent list result. You can start a "
                "new list without the continue parameter."
            ) from error

    async def _revision_for(self, params: Mapping[str, str]) -> int:
        """Return the revision to list at (0: newest), waiting for one that is a moment ahead."""
        asked = _number(params, "resourceVersion")
        match = params.get("resourceVersionMatch", "")
        if match not in ("", "Exact", "NotOlderThan"):
            raise bad_request(f"resourceVersionMatch: Invalid value: {match!r}")
        if asked:
            await self._wait_for(asked)
        if asked and match == "Exact":
            return asked
        return 0

    async def _wait_for(self, revision: int) -> None:
        """Wait until the store has this revision: it was read from this very server, or never will be."""
        waited = 0.0
        while self._store.revision < revision:
            if waited >= FUTURE_WAIT_S:
                raise timeout(f"Too large resource version: {revision}, current: {self._store.revision}")
            await asyncio.sleep(0.05)
            waited += 0.05

    def watch(
        self, kind: Kind, namespace: str, name: str, params: Mapping[str, str], form: Format
    ) -> AsyncIterator[bytes]:
        """Return the stream of a watch: chunks of whole lines. Raises 400 and 410 on the way."""
        if name:
            fields = params.get("fieldSelector", "")
            params = {**params, "fieldSelector": f"{fields},metadata.name={name}".lstrip(",")}
        selection = _selection(kind, params)
        initial = params.get("sendInitialEvents") == "true"
        if initial and params.get("resourceVersionMatch") != "NotOlderThan":
            raise bad_request("sendInitialEvents is forbidden for watch unless resourceVersionMatch is NotOlderThan")
        return self._watch(_Stream(kind, namespace, selection, form, self._clock), params, initial)

    async def _watch(self, stream: _Stream, params: Mapping[str, str], initial: bool) -> AsyncIterator[bytes]:
        asked = _number(params, "resourceVersion")
        if asked:
            await self._wait_for(asked)
        bookmarks = params.get("allowWatchBookmarks") == "true"
        until_s = self._clock.monotonic() + (_number(params, "timeoutSeconds") or _DEFAULT_WATCH_S)
        begin = asked if asked and not initial else self._store.revision
        try:
            watcher = self._store.watch(stream.kind.storage, begin)
        except Compacted as error:
            yield stream.error(gone(str(error)))
            return
        try:
            if initial or not asked:
                yield stream.initial(self._store.rows(stream.kind.storage, stream.namespace))
            if initial and bookmarks:
                yield stream.bookmark(begin, end_of_initial=True)
            last = begin
            while (left_s := until_s - self._clock.monotonic()) > 0:
                changes = await watcher.next(min(BOOKMARK_EVERY_S, left_s))
                if changes:
                    last = changes[-1].revision
                    chunk = stream.lines(changes)
                    if chunk:
                        yield chunk
                elif bookmarks:
                    last = max(last, self._store.revision)
                    yield stream.bookmark(last)
        except Compacted as error:
            yield stream.error(gone(str(error)))
        finally:
            watcher.close()


class _Stream:
    """How one watch renders changes. Plain JSON lines are made once per change, for all watches."""

    def __init__(self, kind: Kind, namespace: str, selection: Selection, form: Format, clock: Clock) -> None:
        self.kind, self.namespace = kind, namespace
        self._selection, self._form, self._clock = selection, form, clock
        self._plain = form.plain and kind.from_stored is None
        self._first = True

    def initial(self, rows: Sequence[Row]) -> bytes:
        """Return ADDED lines for what is there."""
        return b"".join(self._line("ADDED", row.body) for row in rows if self._selection.matches(row))

    def lines(self, changes: Sequence[Change]) -> bytes:
        """Return the lines of those changes that concern this watch."""
        namespace, everything = self.namespace, self._selection.everything
        out = []
        for change in changes:
            if namespace and change.row.key.namespace != namespace:
                continue
            kind = change.type if everything else self._seen_as(change)
            if kind is None:
                continue
            if not self._plain:
                out.append(self._line(kind, _body(change, kind)))
                continue
            line = change.lines.get(kind)
            if line is None:
                line = change.lines[kind] = _plain_line(kind, _body(change, kind))
            out.append(line)
        return b"".join(out)

    def _seen_as(self, change: Change) -> str | None:
        """Return what a change is to a selector: objects move in and out of it."""
        matches = self._selection.matches
        before = change.previous is not None and matches(change.previous)
        after = change.type != "DELETED" and matches(change.row)
        if after:
            return "MODIFIED" if before else "ADDED"
        return "DELETED" if before else None

    def _line(self, kind: str, body: bytes) -> bytes:
        if self._plain:
            return _plain_line(kind, body)
        shown = presentation.object_in(self.kind, body, self._form, self._clock.now(), first=self._first)
        self._first = False
        return presentation.event(kind, shown, self._form)

    def bookmark(self, revision: int, *, end_of_initial: bool = False) -> bytes:
        """Return a BOOKMARK line."""
        meta: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if end_of_initial:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj: Obj = {"kind": self.kind.kind, "apiVersion": self.kind.api_version, "metadata": meta}
        if self._form.transform == "Table":
            row = {"cells": [], "object": obj | presentation.PARTIAL}
            obj = {
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": str(revision)},
                "columnDefinitions": [],
                "rows": [row],
            }
        elif self._form.transform:
            obj |= presentation.PARTIAL
        return presentation.event("BOOKMARK", obj, self._form)

    def error(self, error: ApiStatusError) -> bytes:
        """Return an ERROR line, the last of a watch."""
        return presentation.event("ERROR", error.status(), self._form)


def _plain_line(kind: str, body: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)


def _body(change: Change, kind: str) -> bytes:
    """Return the object of an event; one that left a selection is shown as it was, at the new revision."""
    if kind == "DELETED" and change.type != "DELETED" and change.previous is not None:
        obj = orjson.loads(change.previous.body)
        obj["metadata"]["resourceVersion"] = str(change.revision)
        return orjson.dumps(obj)
    return change.row.body


def _selection(kind: Kind, params: Mapping[str, str]) -> Selection:
    return fieldindex.parse(kind, params.get("labelSelector", ""), params.get("fieldSelector", ""))


def _number(params: Mapping[str, str], name: str) -> int:
    text = params.get(name, "")
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise bad_request(f"{name}: Invalid value: {orjson.dumps(text).decode()}: must be a number")
    return int(text)


def _encode_continue(revision: int, key: Key) -> str:
    raw = orjson.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": [key.namespace, key.name]})
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode_continue(token: str) -> tuple[int, Key]:
    try:
        raw = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(raw["rv"]), Key(*raw["start"])
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
