"""The verbs of resources, between HTTP and ``reads`` / ``writes``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from podwire.apiserver import bodies, presentation, schema
from podwire.apiserver.errors import ApiStatusError, bad_request, invalid_value
from podwire.apiserver.kinds import REVIEW_VERBS
from podwire.apiserver.reads import Listed
from podwire.apiserver.routes import Target
from podwire.apiserver.server import form_of, json_response, object_response, response_in
from podwire.apiserver.values import RequestContext, User
from podwire.model.objects import Obj

if TYPE_CHECKING:
    from podwire.apiserver.core import Core

_VALIDATIONS = ("Ignore", "Warn", "Strict")
_PLAIN_SUBRESOURCES = ("", "status", "finalize", "approval", "ephemeralcontainers", "resize")


class Verbs:
    """Runs a verb on a target. Requests that get here are allowed."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self, request: web.Request, user: User, target: Target, verb: str) -> web.StreamResponse:
        """Answer. Raises ApiStatusError."""
        if target.subresource not in _PLAIN_SUBRESOURCES or target.kind.verbs == REVIEW_VERBS:
            return await self._core.subresources.run(request, user, target, verb)
        if not target.kind.storage:
            return await self._core.metrics.answer(request, target)
        match verb:
            case "get":
                return self._get(request, target)
            case "list":
                return await self._list(request, target)
            case "watch":
                return await self._watch(request, target)
            case "create":
                return await self._create(request, user, target)
            case "update" | "patch":
                return await self._change(request, user, target, verb)
            case "delete":
                return await self._delete(request, user, target)
            case _:
                return await self._delete_collection(request, user, target)

    def context(self, request: web.Request, user: User, target: Target, verb: str) -> RequestContext:
        """Return what the write half needs to know. Raises 400 for options that make no sense."""
        query = request.query
        validation: Any = query.get("fieldValidation") or "Warn"
        if validation not in _VALIDATIONS:
            raise bad_request(f"fieldValidation: Unsupported value: {validation!r}")
        dry_run = query.getall("dryRun", [])
        if dry_run and set(dry_run) != {"All"}:
            raise bad_request(f'dryRun: Unsupported value: {orjson.dumps(dry_run).decode()}: supported values: "All"')
        manager = query.get("fieldManager") or request.headers.get("User-Agent", "").partition("/")[0] or "unknown"
        return RequestContext(
            user,
            verb,
            target.kind,
            target.namespace,
            target.name,
            target.subresource,
            bool(dry_run),
            manager[:128],
            validation,
            query.get("force") == "true",
        )

    async def read_object(self, request: web.Request, ctx: RequestContext) -> Obj:
        """Return the body, cleaned by the kind's schema."""
        body = await request.read()
        obj = bodies.decode(request.headers.get("Content-Type", ""), body)
        if "fieldValidation" in request.query:
            error = bodies.check_duplicates(body, ctx.field_validation, ctx.warnings)
            if error is not None:
                raise error
        obj.setdefault("metadata", {})
        if obj["metadata"] is None:
            obj["metadata"] = {}
        return schema.clean(ctx.kind, obj, body, ctx.field_validation, ctx.warnings)

    def _get(self, request: web.Request, target: Target) -> web.Response:
        row = self._core.reads.get(target.kind, target.namespace, target.name)
        body = row.body
        if target.kind.from_stored is not None:
            body = orjson.dumps(target.kind.from_stored(orjson.loads(body)))
        return self._single(request, target, body)

    def _single(
        self, request: web.Request, target: Target, body: bytes, code: int = 200, warnings: list[str] | None = None
    ) -> web.Response:
        form = form_of(request)
        if target.kind.deprecation:
            warnings = [*(warnings or ()), target.kind.deprecation]
        if form.plain:
            return json_response(body, code, warnings)
        now = self._core.clock.now()
        shown = presentation.single(target.kind, body, form, now, request.query.get("includeObject", ""))
        return response_in(form, shown, code, warnings)

    async def _list(self, request: web.Request, target: Target) -> web.Response:
        form, core = form_of(request), self._core
        listed = await core.reads.list(target.kind, target.namespace, request.query)
        include = request.query.get("includeObject", "")
        body = presentation.collection(target.kind, listed.rows, list_meta(listed), form, core.clock.now(), include)
        deprecation = target.kind.deprecation
        return response_in(form, body, 200, [deprecation] if deprecation else None)

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        form, core = form_of(request), self._core
        stream = core.reads.watch(target.kind, target.namespace, target.name, request.query, form)
        response = web.StreamResponse(headers={"Content-Type": form.media_type, "Cache-Control": "no-cache, private"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        core.meter.watches += 1
        try:
            async for chunk in stream:
                if chunk:
                    await response.write(chunk)
            await response.write_eof()
        finally:
            core.meter.watches -= 1
        return response

    async def _create(self, request: web.Request, user: User, target: Target) -> web.Response:
        if target.name and not target.subresource:
            raise ApiStatusError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        ctx = self.context(request, user, target, "create")
        obj = await self.read_object(request, ctx)
        body = await self._core.writes.create(ctx, obj)
        return self._single(request, target, body, 201, ctx.warnings)

    async def _change(self, request: web.Request, user: User, target: Target, verb: str) -> web.Response:
        ctx = self.context(request, user, target, verb)
        core = self._core
        if verb == "update":
            obj = await self.read_object(request, ctx)
            body = await core.writes.update(ctx, obj)
        else:
            raw = await request.read()
            content_type = request.headers.get("Content-Type", "")
            existed = core.store.peek(target.kind.storage, core.key(target)) is not None
            body = await core.writes.patch(ctx, content_type, raw)
            if not existed:
                return self._single(request, target, body, 201, ctx.warnings)
        return self._single(request, target, body, 200, ctx.warnings)

    async def delete_options(self, request: web.Request) -> Obj:
        """Return DeleteOptions of the body, completed from the query."""
        body = await request.read()
        options = bodies.decode(request.headers.get("Content-Type", ""), body) if body.strip() else {}
        query = request.query
        if "gracePeriodSeconds" in query:
            options.setdefault("gracePeriodSeconds", int(query["gracePeriodSeconds"]))
        if "propagationPolicy" in query:
            options.setdefault("propagationPolicy", query["propagationPolicy"])
        if "orphanDependents" in query:
            options.setdefault("orphanDependents", query["orphanDependents"] == "true")
        grace = options.get("gracePeriodSeconds")
        if grace is not None and grace < 0:
            raise bad_request(str(invalid_value("gracePeriodSeconds", grace, "must be greater than or equal to 0")))
        return options

    async def _delete(self, request: web.Request, user: User, target: Target) -> web.Response:
        ctx = self.context(request, user, target, "delete")
        options = await self.delete_options(request)
        ctx.dry_run = ctx.dry_run or options.get("dryRun") == ["All"]
        body, gone = await self._core.writes.delete(ctx, options)
        if not gone or target.kind.kind == "Pod":
            return self._single(request, target, body)
        kind, meta = target.kind, orjson.loads(body)["metadata"]
        details = {"name": meta["name"], "kind": kind.plural, "uid": meta["uid"]}
        if kind.group:
            details["group"] = kind.group
        return object_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        )

    async def _delete_collection(self, request: web.Request, user: User, target: Target) -> web.Response:
        ctx = self.context(request, user, target, "deletecollection")
        options = await self.delete_options(request)
        listed = await self._core.reads.list(target.kind, target.namespace, request.query)
        await self._core.writes.delete_named(ctx, [r.key for r in listed.rows], options)
        form, now = form_of(request), self._core.clock.now()
        body = presentation.collection(target.kind, listed.rows, list_meta(listed), form, now)
        return response_in(form, body)


def list_meta(listed: Listed) -> dict[str, Any]:
    """Return the ListMeta of a page."""
    meta: dict[str, Any] = {"resourceVersion": str(listed.revision)}
    if listed.continue_token:
        meta["continue"] = listed.continue_token
    if listed.remaining is not None:
        meta["remainingItemCount"] = listed.remaining
    return meta
