"""Subresources with a body of their own, and kinds that are only asked: scale, binding, eviction, token,
reviews; streams and metrics are handed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from podwire.apiserver import bodies, metadata, patch, reviews, schema
from podwire.apiserver.errors import (
    ApiStatusError,
    bad_request,
    conflict,
    invalid,
    invalid_value,
    no_such_path,
    too_many_requests,
)
from podwire.apiserver.kinds import Kind, ScalePaths
from podwire.apiserver.routes import Target
from podwire.apiserver.server import object_response
from podwire.apiserver.streams import SUBRESOURCES as STREAMED
from podwire.apiserver.tokens import MIN_EXPIRY_S, Reference
from podwire.apiserver.values import RequestContext, User
from podwire.model import selectors
from podwire.model.objects import Key, Obj, timestamp, with_condition

if TYPE_CHECKING:
    from podwire.apiserver.core import Core

_SCALE = Kind(
    "autoscaling", "v1", "Scale", "scales", "scale", definition="io.k8s.api.autoscaling.v1.Scale", storage="-"
)
_SUCCESS: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


class Subresources:
    """Answers what ``Verbs`` does not."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self, request: web.Request, user: User, target: Target, verb: str) -> web.StreamResponse:
        """Answer. Raises ApiStatusError."""
        if target.subresource in STREAMED:
            return await self._core.streams.answer(request, target)
        match target.subresource:
            case "scale":
                return await self._scale(request, user, target, verb)
            case "binding":
                return await self._bind(request, user, target)
            case "eviction":
                return await self._evict(request, user, target)
            case "token":
                return await self._issue(request, target)
            case "" if target.kind.verbs == ("create",):
                return await self._review(request, user, target)
        raise no_such_path()

    async def _body(self, request: web.Request) -> Obj:
        return bodies.decode(request.headers.get("Content-Type", ""), await request.read())

    async def _review(self, request: web.Request, user: User, target: Target) -> web.Response:
        core, kind = self._core, target.kind
        raw = await self._body(request)
        review = schema.clean(kind, raw, b"null", "Warn", [])
        review.setdefault("apiVersion", kind.api_version)
        review.setdefault("kind", kind.kind)
        match kind.kind:
            case "SelfSubjectAccessReview":
                answer = reviews.self_subject_access(review, core.authorizer, user)
            case "SubjectAccessReview":
                answer = reviews.subject_access(review, core.authorizer)
            case "LocalSubjectAccessReview":
                answer = reviews.subject_access(review, core.authorizer, target.namespace)
            case "SelfSubjectRulesReview":
                answer = reviews.self_subject_rules(review, core.authorizer, user)
            case "SelfSubjectReview":
                answer = reviews.self_subject(review, user)
            case _:
                answer = reviews.token(review, core.authenticator)
        return object_response(answer, 201)

    # -- scale ------------------------------------------------------------------------------------------

    async def _scale(self, request: web.Request, user: User, target: Target, verb: str) -> web.Response:
        core, kind = self._core, target.kind
        assert kind.scale is not None
        _, obj = core.writes.read(kind, target.namespace, target.name)
        scale = scale_of(obj, kind.scale)
        if verb == "get":
            return object_response(scale)
        ctx = core.verbs.context(request, user, target, verb)
        raw = await request.read()
        content_type = request.headers.get("Content-Type", "")
        if verb == "patch":
            wanted = patch.apply_patch(
                _SCALE, scale, content_type, raw, field_manager=ctx.field_manager, force=ctx.force
            )
        else:
            wanted = bodies.decode(content_type, raw)
        wanted = schema.clean(_SCALE, wanted, b"null", ctx.field_validation, ctx.warnings)
        replicas = (wanted.get("spec") or {}).get("replicas", 0)
        if replicas < 0:
            why = "must be greater than or equal to 0"
            raise invalid(_SCALE, target.name, [invalid_value("spec.replicas", replicas, why)])
        _set(obj, kind.scale.spec_replicas, replicas)
        version = (wanted.get("metadata") or {}).get("resourceVersion")
        if version:
            obj["metadata"]["resourceVersion"] = version
        ctx.subresource = ""  # from here on it is an update of the object
        body = await core.writes.update(ctx, obj)
        return object_response(scale_of(orjson.loads(body), kind.scale))

    # -- pods -------------------------------------------------------------------------------------------

    async def _bind(self, request: web.Request, user: User, target: Target) -> web.Response:
        core = self._core
        binding = await self._body(request)
        given: Obj = binding.get("metadata") or {}
        name = target.name or given.get("name", "")
        node = (binding.get("target") or {}).get("name", "")
        ctx = core.verbs.context(request, user, target, "create")
        ctx.name, ctx.subresource = name, "binding"
        if not node:
            raise bad_request("Binding is invalid: target.name: Required value")

        def bind(pod: Obj) -> None:
            meta, spec = pod["metadata"], pod["spec"]
            metadata.check_preconditions(target.kind, pod, {"uid": given.get("uid")})
            if "deletionTimestamp" in meta:
                raise conflict(target.kind, name, f"pod {name} is being deleted, cannot be assigned to a host")
            if spec.get("nodeName"):
                raise conflict(target.kind, name, f'pod {name} is already assigned to node "{spec["nodeName"]}"')
            if spec.get("schedulingGates"):
                raise conflict(target.kind, name, f"pod {name} has non-empty .spec.schedulingGates")
            spec["nodeName"] = node
            if given.get("annotations"):
                meta["annotations"] = {**(meta.get("annotations") or {}), **given["annotations"]}
            status = pod.setdefault("status", {})
            scheduled = {"type": "PodScheduled", "status": "True"}
            now = timestamp(core.clock.now())
            status["conditions"] = with_condition(status.get("conditions") or [], scheduled, now)

        await core.writes.change(ctx, bind)
        return object_response({**_SUCCESS, "code": 201}, 201)

    async def _evict(self, request: web.Request, user: User, target: Target) -> web.Response:
        core = self._core
        eviction = await self._body(request)
        options: Obj = eviction.get("deleteOptions") or {}
        ctx = core.verbs.context(request, user, target, "delete")
        ctx.subresource = ""
        ctx.dry_run = ctx.dry_run or options.get("dryRun") == ["All"]
        _, pod = core.writes.read(target.kind, target.namespace, target.name)
        if (pod.get("status") or {}).get("phase") in ("Running", "Unknown", None):
            await self._spend_budget(pod, ctx)
        await core.writes.delete(ctx, options)
        return object_response({**_SUCCESS, "code": 201}, 201)

    async def _spend_budget(self, pod: Obj, ctx: RequestContext) -> None:
        """Take one disruption from the pod's PodDisruptionBudget, or refuse (429)."""
        core = self._core
        kind = core.registry.find("policy", "v1", "poddisruptionbudgets")
        assert kind is not None
        budgets = [orjson.loads(r.body) for r in core.store.rows(kind.storage, pod["metadata"]["namespace"])]
        labels = pod["metadata"].get("labels") or {}
        covering = [b for b in budgets if _covers(b, labels)]
        if len(covering) > 1:
            raise ApiStatusError(
                500,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            )
        for budget in covering:
            status = budget.get("status") or {}
            if status.get("disruptionsAllowed", 0) < 1:
                raise _over_budget(budget)
            if ctx.dry_run:
                continue
            status["disruptionsAllowed"] -= 1
            disrupted = status.setdefault("disruptedPods", {})
            disrupted[pod["metadata"]["name"]] = timestamp(core.clock.now())
            meta = budget["metadata"]
            key = Key(meta["namespace"], meta["name"])
            await core.store.put(kind.storage, key, budget, expected=int(meta["resourceVersion"]))

    async def _issue(self, request: web.Request, target: Target) -> web.Response:
        core = self._core
        wanted = await self._body(request)
        spec: Obj = wanted.get("spec") or {}
        _, account = core.writes.read(target.kind, target.namespace, target.name)
        now = int(core.clock.now().timestamp())
        expiry_s = int(spec.get("expirationSeconds") or 3600)
        if expiry_s < MIN_EXPIRY_S:
            kind = core.registry.find("", "v1", "serviceaccounts")
            assert kind is not None
            why = "may not specify a duration less than 10 minutes"
            raise invalid(kind, target.name, [invalid_value("spec.expirationSeconds", expiry_s, why)])
        bound, node = self._bound(target.namespace, spec.get("boundObjectRef"))
        meta = account["metadata"]
        token = core.authenticator.signer.issue(
            target.namespace,
            Reference("ServiceAccount", meta["name"], meta["uid"]),
            now=now,
            expiry_s=expiry_s,
            audiences=spec.get("audiences") or (),
            bound=bound,
            node=node,
        )
        from datetime import UTC, datetime

        expires = timestamp(datetime.fromtimestamp(now + expiry_s, UTC))
        answer: Obj = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {
                "name": target.name,
                "namespace": target.namespace,
                "creationTimestamp": timestamp(core.clock.now()),
            },
            "spec": {
                **spec,
                "audiences": list(spec.get("audiences") or core.authenticator.signer.audiences),
                "expirationSeconds": expiry_s,
            },
            "status": {"token": token, "expirationTimestamp": expires},
        }
        return object_response(answer, 201)

    def _bound(self, namespace: str, wanted: Mapping[str, Any] | None) -> tuple[Reference | None, Reference | None]:
        """Return what the token is bound to, and the node of a pod. Raises 404 and 409."""
        if not wanted:
            return None, None
        kind = self._core.registry.find_kind("", "v1", wanted.get("kind", ""))
        if kind is None or kind.kind not in ("Pod", "Secret", "Node"):
            raise bad_request(f"cannot bind a token to an object of kind {wanted.get('kind')!r}")
        name = wanted.get("name", "")
        _, obj = self._core.writes.read(kind, "" if kind.kind == "Node" else namespace, name)
        uid = obj["metadata"]["uid"]
        if wanted.get("uid") and wanted["uid"] != uid:
            raise conflict(
                kind,
                name,
                f"the UID in the bound object reference ({wanted['uid']}) does not match the UID in record ({uid})",
            )
        node_name: str = (obj.get("spec") or {}).get("nodeName", "") if kind.kind == "Pod" else ""
        found = self._core.store.peek("nodes", Key("", node_name)) if node_name else None
        node = Reference("Node", node_name, orjson.loads(found.body)["metadata"]["uid"]) if found else None
        return Reference(kind.kind, name, uid), node


def _covers(budget: Obj, labels: Mapping[str, str]) -> bool:
    selector = (budget.get("spec") or {}).get("selector")
    return selector is not None and selectors.from_label_selector(selector).matches(labels)


def _over_budget(budget: Obj) -> ApiStatusError:
    status, name = budget.get("status") or {}, budget["metadata"]["name"]
    text = (
        f"The disruption budget {name} needs {status.get('desiredHealthy', 0)} healthy pods and has "
        f"{status.get('currentHealthy', 0)} currently"
    )
    cause = {"reason": "DisruptionBudget", "message": text}
    return too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0, [cause])


def scale_of(obj: Obj, paths: ScalePaths) -> Obj:
    """Return the autoscaling/v1 Scale of an object."""
    meta = obj["metadata"]
    shown = {k: meta[k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp") if k in meta}
    status: Obj = {"replicas": _at(obj, paths.status_replicas) or 0}
    selector = _at(obj, paths.label_selector)
    if isinstance(selector, str):
        status["selector"] = selector
    elif isinstance(selector, dict):
        status["selector"] = _selector_text(selector)
    spec = {"replicas": _at(obj, paths.spec_replicas) or 0}
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": shown, "spec": spec, "status": status}


def _selector_text(selector: Obj) -> str:
    if "matchLabels" not in selector and "matchExpressions" not in selector:  # ReplicationController
        return ",".join(f"{k}={v}" for k, v in sorted(selector.items()))
    parts = []
    for term in selectors.from_label_selector(selector).requirements:
        values = ",".join(sorted(term.values))
        parts.append(
            {
                "In": f"{term.key}={values}" if len(term.values) == 1 else f"{term.key} in ({values})",
                "NotIn": f"{term.key} notin ({values})",
                "Exists": term.key,
                "DoesNotExist": f"!{term.key}",
            }[term.operator]
        )
    return ",".join(parts)


def _at(obj: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        obj = obj.get(step) if isinstance(obj, dict) else None
    return obj


def _set(obj: Obj, path: tuple[str, ...], value: Any) -> None:
    for step in path[:-1]:
        obj = obj.setdefault(step, {})
    obj[path[-1]] = value
