"""HTTP: from a request to a verb, from an answer or an error to a response.

The order is Kubernetes': who asks (authn), as whom (impersonation), may they (authz), then the verb.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from podwire.apiserver import authz, impersonation, negotiation, routes
from podwire.apiserver.errors import (
    ApiStatusError,
    internal,
    method_not_allowed,
    no_such_path,
    too_large,
    unauthorized,
)
from podwire.apiserver.negotiation import Format
from podwire.apiserver.routes import Target
from podwire.apiserver.values import Attributes, User
from podwire.runtime.logging import get

if TYPE_CHECKING:
    from podwire.apiserver.core import Core

MAX_BODY_BYTES = 3 << 20  # as etcd's and kube-apiserver's limit on requests
_NON_RESOURCE_VERBS = {"GET": "get", "HEAD": "get", "POST": "post", "PUT": "put", "DELETE": "delete", "PATCH": "patch"}
_log = get("apiserver")


class Server:
    """The request handler; ``paths`` serves what is no resource."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        assert isinstance(request, web.Request)
        try:
            response = await self._answer(request)
        except ApiStatusError as error:
            response = error_response(error)
        except (asyncio.CancelledError, ConnectionResetError):
            raise
        except web.HTTPRequestEntityTooLarge:
            response = error_response(too_large(MAX_BODY_BYTES))
        except Exception as error:
            _log.error("request-failed", method=request.method, path=request.path, error=repr(error))
            response = error_response(internal(f"{type(error).__name__}: {error}"))
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        core = self._core
        user = core.authenticator.authenticate(request)
        if user is None:
            raise unauthorized()
        user = self._impersonated(request, user)
        path = request.path
        if path.startswith("/api"):
            target = routes.parse(core.registry, path)
            if target is not None:
                return await self._resource(request, user, target)
        asked = Attributes(_NON_RESOURCE_VERBS.get(request.method, request.method.lower()), path=path)
        self._authorize(user, asked)
        answer = await core.paths.answer(request, user)
        if answer is None:
            raise no_such_path()
        return answer

    def _impersonated(self, request: web.Request, user: User) -> User:
        if "Impersonate-User" not in request.headers:
            return user
        wanted = impersonation.requested(request.headers)
        for asked in impersonation.permissions(request.headers):
            self._authorize(user, asked)
        return wanted or user

    def _authorize(self, user: User, asked: Attributes) -> None:
        decision = self._core.authorizer.allowed(user, asked)
        if not decision.allowed:
            raise authz.refuse(user, asked, decision)

    async def _resource(self, request: web.Request, user: User, target: Target) -> web.StreamResponse:
        kind, query = target.kind, request.query
        watching = request.method == "GET" and query.get("watch") in ("true", "1", "")
        verb = routes.verb_of(request.method, target, watching and "watch" in query)
        self._authorize(
            user,
            Attributes(
                verb,
                kind.group,
                kind.version,
                kind.plural,
                target.subresource,
                # A Namespace is authorized in itself, so that its own roles can give access to it.
                target.name if kind.plural == "namespaces" and not kind.group else target.namespace,
                target.name,
            ),
        )
        served = kind.subresources[target.subresource].verbs if target.subresource else kind.verbs
        if verb not in served and target.subresource != "proxy":
            raise method_not_allowed(kind, request.method)
        started = time.perf_counter()
        response = await self._core.verbs.run(request, user, target, verb)
        self._core.meter.count(verb, kind.plural, response.status, time.perf_counter() - started)
        return response


def json_response(body: bytes, status: int = 200, warnings: list[str] | None = None) -> web.Response:
    """Return a JSON response, with Warning headers."""
    response = web.Response(body=body, status=status, content_type="application/json")
    return _with_warnings(response, warnings)


def response_in(form: Format, body: bytes, status: int = 200, warnings: list[str] | None = None) -> web.Response:
    """Return a response whose body is already in the form asked for."""
    response = web.Response(body=body, status=status, content_type=form.media_type)
    return _with_warnings(response, warnings)


def _with_warnings(response: web.Response, warnings: list[str] | None) -> web.Response:
    for text in dict.fromkeys(warnings or ()):
        quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        response.headers.add("Warning", f'299 - "{quoted}"')
    return response


def object_response(obj: Any, status: int = 200) -> web.Response:
    """Return a response of a decoded object."""
    return json_response(orjson.dumps(obj), status)


def error_response(error: ApiStatusError) -> web.Response:
    """Return the Status of an error."""
    response = json_response(orjson.dumps(error.status()), error.code)
    if error.retry_after_s:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if error.code == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="kubernetes-master"'
    return response


def form_of(request: web.Request) -> Format:
    """Return the form that the request's Accept header asks for."""
    form = negotiation.accept(request.headers.get("Accept", ""))
    if request.query_string and request.query.get("pretty") in ("1", "true"):
        return Format(form.media_type, form.transform, form.version, True)
    return form
