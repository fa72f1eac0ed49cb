"""create, update, patch, delete: from a decoded body to a durable change.

Between reading the present state (``store.peek``) and ``store.put`` nothing awaits, so a write is atomic
and only a client's own resourceVersion can be stale. Each method returns the stored object's JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson

from podwire.apiserver import managedfields, metadata, patch, schema
from podwire.apiserver.defaults import apply_defaults
from podwire.apiserver.errors import (
    ApiStatusError,
    already_exists,
    conflict,
    forbidden,
    internal,
    invalid,
    not_found,
)
from podwire.apiserver.kinds import Kind
from podwire.apiserver.store.port import Row, Stale, Store, StoreFailed
from podwire.apiserver.strategy import Strategy
from podwire.apiserver.validation import validate
from podwire.apiserver.values import RequestContext
from podwire.model.objects import Key, Obj, parse_timestamp, timestamp
from podwire.runtime.clock import Clock

DeleteOptions = Mapping[str, Any]
_NAME_ATTEMPTS = 8


class Writes:
    """The write half of the API."""

    def __init__(self, store: Store, strategy: Strategy, clock: Clock) -> None:
        self._store, self._strategy, self._clock = store, strategy, clock

    def _now(self) -> str:
        return timestamp(self._clock.now())

    def _track(self, ctx: RequestContext, old: Obj | None, new: Obj) -> None:
        managedfields.track_update(
            ctx.kind,
            old,
            new,
            ctx.field_manager,
            "Update",
            ctx.kind.api_version,
            ctx.subresource,
            self._clock.now(),
        )

    async def create(self, ctx: RequestContext, obj: Obj, *, applied: bool = False) -> bytes:
        """Create ``obj`` (already cleaned by its schema). Raises ApiStatusError.

        ``applied``: it comes from a server-side apply, which has written managedFields itself.
        """
        kind = ctx.kind
        metadata.begin(kind, obj, ctx.namespace, ctx.name, self._now())
        meta = obj["metadata"]
        generated = not meta.get("name")
        await self._strategy.wait_for_create(ctx, obj)
        for _ in range(_NAME_ATTEMPTS if generated else 1):
            if generated:
                meta["name"] = metadata.generate_name(meta["generateName"])
            if self._store.peek(kind.storage, Key(ctx.namespace, meta["name"])) is None:
                return await self._create(ctx, obj, applied)
        raise already_exists(kind, meta["name"])

    async def _create(self, ctx: RequestContext, obj: Obj, applied: bool) -> bytes:
        kind, name = ctx.kind, obj["metadata"]["name"]
        self._strategy.prepare_create(ctx, obj)
        apply_defaults(kind, obj)
        self._strategy.admit(ctx, obj, None)
        problems = validate(kind, obj, None)
        if problems:
            raise invalid(kind, name, problems)
        undo = self._strategy.allocate(ctx, obj, None)
        if not applied:
            self._track(ctx, None, obj)
        try:
            return await self._store_object(ctx, obj, expected=0)
        except Stale as error:
            undo()
            raise already_exists(kind, name) from error
        except ApiStatusError:
            undo()
            raise
        finally:
            if ctx.dry_run:
                undo()

    async def _store_object(self, ctx: RequestContext, obj: Obj, expected: int | None) -> bytes:
        kind = ctx.kind
        stored = kind.to_stored(obj) if kind.to_stored else obj
        meta = obj["metadata"]
        if ctx.dry_run:
            return orjson.dumps(obj)
        try:
            row = await self._store.put(
                kind.storage, Key(meta.get("namespace", ""), meta["name"]), stored, expected=expected
            )
        except StoreFailed as error:
            raise internal(str(error)) from error
        return shown(kind, row.body)

    def read(self, kind: Kind, namespace: str, name: str) -> tuple[Row, Obj]:
        """Return the newest state of an object, in the version of ``kind``. Raises NotFound."""
        row = self._store.peek(kind.storage, Key(namespace, name))
        if row is None:
            raise not_found(kind, name)
        obj = orjson.loads(row.body)
        return row, kind.from_stored(obj) if kind.from_stored else obj

    async def update(self, ctx: RequestContext, obj: Obj) -> bytes:
        """Replace an object, or what its subresource covers. Raises ApiStatusError."""
        key = Key(ctx.namespace, ctx.name)
        if ctx.kind.creates_on_update and not ctx.subresource and not self._store.peek(ctx.kind.storage, key):
            obj["metadata"].pop("resourceVersion", None)
            return await self.create(replace(ctx, verb="create"), obj)
        row, old = self.read(ctx.kind, *key)
        metadata.check_identity(ctx.kind, obj, ctx.namespace, ctx.name)
        return await self._replace(ctx, obj, old, row)

    async def patch(self, ctx: RequestContext, content_type: str, body: bytes) -> bytes:
        """Apply a patch of any of the four types; server-side apply creates what is not there."""
        kind = ctx.kind
        applied = content_type.partition(";")[0].strip().lower() == patch.APPLY
        key = Key(ctx.namespace, ctx.name)
        row = self._store.peek(kind.storage, key)
        old = None
        if row is not None:
            row, old = self.read(kind, *key)
        elif not applied or ctx.subresource:
            raise not_found(kind, ctx.name)
        new = patch.apply_patch(
            kind,
            old,
            content_type,
            body,
            field_manager=ctx.field_manager,
            force=ctx.force,
            subresource=ctx.subresource,
            now=self._clock.now(),
        )
        new = schema.clean(kind, new, body, ctx.field_validation, ctx.warnings)
        if row is None or old is None:
            return await self.create(replace(ctx, verb="create"), new, applied=True)
        metadata.check_identity(kind, new, ctx.namespace, ctx.name)
        _, old = self.read(kind, *key)  # a patched object shares parts with the one it was made from
        return await self._replace(ctx, new, old, row, applied)

    async def change(self, ctx: RequestContext, mutate: Callable[[Obj], None]) -> bytes:
        """Change an object in place, as subresources like binding do; checks are the caller's."""
        row, old = self.read(ctx.kind, ctx.namespace, ctx.name)
        new = orjson.loads(row.body)
        mutate(new)
        if new == old:
            return row.body
        return await self._store_object(ctx, new, row.revision)

    async def _replace(self, ctx: RequestContext, new: Obj, old: Obj, row: Row, applied: bool = False) -> bytes:
        kind = ctx.kind
        metadata.carry_over(kind, new, old)
        self._strategy.prepare_update(ctx, new, old)
        if ctx.subresource != "status":
            apply_defaults(kind, new)
        if not applied:
            carry_managed_fields(new, old)
        if new == old:
            return shown(kind, row.body)
        self._strategy.admit(ctx, new, old)
        counted = ctx.subresource not in ("status", "finalize") and metadata.has_generation(kind)
        if counted and metadata.desired_changed(kind, new, old):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        problems = validate(kind, new, old, subresource=ctx.subresource)
        if problems:
            raise invalid(kind, ctx.name, problems)
        if metadata.is_finished(kind, new):
            return await self._remove(ctx, row, new)
        undo = self._strategy.allocate(ctx, new, old)
        if not applied:
            self._track(ctx, old, new)
        try:
            return await self._store_object(ctx, new, row.revision)
        except Stale as error:
            undo()
            raise conflict(kind, ctx.name) from error
        except ApiStatusError:
            undo()
            raise
        finally:
            if ctx.dry_run:
                undo()

    async def _remove(self, ctx: RequestContext, row: Row, obj: Obj) -> bytes:
        """Take the object out of the store for good."""
        if ctx.dry_run:
            return orjson.dumps(obj)
        try:
            gone = await self._store.delete(ctx.kind.storage, row.key, expected=row.revision)
        except StoreFailed as error:
            raise internal(str(error)) from error
        self._strategy.release(ctx.kind, obj)
        return shown(ctx.kind, gone.body)

    async def delete(self, ctx: RequestContext, options: DeleteOptions) -> tuple[bytes, bool]:
        """Delete an object, or begin to. Returns its last state and whether it is gone."""
        kind = ctx.kind
        row, obj = self.read(kind, ctx.namespace, ctx.name)
        metadata.check_preconditions(kind, obj, options.get("preconditions"))
        why = self._strategy.undeletable(ctx, obj)
        if why:
            raise forbidden(kind, ctx.name, why)
        meta = obj["metadata"]
        before = orjson.loads(row.body)
        grace_s = self._strategy.grace_s(kind, obj, options.get("gracePeriodSeconds"))
        metadata.set_propagation(obj, options)
        self._mark(kind, obj, grace_s)
        if metadata.is_finished(kind, obj):
            return await self._remove(ctx, row, obj), True
        if obj == before:
            return shown(kind, row.body), False
        if metadata.has_generation(kind) and "deletionTimestamp" not in before["metadata"]:
            meta["generation"] = meta.get("generation", 0) + 1
        self._strategy.begin_delete(kind, obj)
        return await self._store_object(ctx, obj, row.revision), False

    def _mark(self, kind: Kind, obj: Obj, grace_s: int) -> None:
        """Set the time of deletion; a later request may bring it forward, never put it off."""
        meta, now = obj["metadata"], self._clock.now()
        if "deletionTimestamp" in meta:
            if grace_s >= meta.get("deletionGracePeriodSeconds", 0):
                return
            asked = parse_timestamp(meta["deletionTimestamp"]) - timedelta(
                seconds=meta.get("deletionGracePeriodSeconds", 0)
            )
            moment = max(asked + timedelta(seconds=grace_s), now) if grace_s else now
        else:
            moment = now + timedelta(seconds=grace_s)
        meta["deletionTimestamp"] = timestamp(moment)
        if kind.kind != "Namespace" or kind.group:
            meta["deletionGracePeriodSeconds"] = grace_s

    async def delete_named(self, ctx: RequestContext, names: list[Key], options: DeleteOptions) -> None:
        """Delete several objects of a collection; one that is gone meanwhile is none to complain about."""
        for key in names:
            try:
                await self.delete(replace(ctx, namespace=key.namespace, name=key.name), options)
            except ApiStatusError as error:
                if error.code != 404:
                    raise


def shown(kind: Kind, body: bytes) -> bytes:
    """Return stored JSON in the version of ``kind``."""
    return orjson.dumps(kind.from_stored(orjson.loads(body))) if kind.from_stored else body


def carry_managed_fields(new: Obj, old: Obj) -> None:
    """Keep managedFields when a client left them out; an explicitly empty list resets them."""
    meta, before = new["metadata"], old["metadata"].get("managedFields")
    if "managedFields" not in meta and before is not None:
        meta["managedFields"] = before
