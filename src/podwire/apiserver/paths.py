"""What is served besides resources: discovery, version, health, metrics, OpenAPI, OIDC discovery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from podwire.apiserver import discovery, openapi
from podwire.apiserver.server import form_of, object_response
from podwire.apiserver.values import User
from podwire.model.objects import Obj

if TYPE_CHECKING:
    from podwire.apiserver.core import Core

_HEALTH = ("healthz", "livez", "readyz")
_CHECKS = ("ping", "log", "etcd", "informer-sync", "poststarthook/start-apiextensions-controllers")
_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class Paths:
    """Answers requests that are for no resource."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._openapi = openapi.Documents(core.registry)

    async def answer(self, request: web.Request, user: User) -> web.StreamResponse | None:
        """Return the answer, or None when nothing is at this path."""
        if request.method not in ("GET", "HEAD"):
            return None
        parts = [p for p in request.path.split("/") if p]
        match parts:
            case []:
                return object_response({"paths": self._index()})
            case ["version"]:
                return object_response(discovery.version())
            case ["api" | "apis", *_]:
                return self._discovery(request, parts)
            case ["openapi", "v2"]:
                return self._document(request, self._openapi.v2(request.headers.get("Accept", "")), immutable=False)
            case ["openapi", "v3", *rest]:
                return self._openapi_v3(request, "/".join(rest))
            case [("healthz" | "livez" | "readyz") as check, *rest]:
                return self._health(request, check, "/".join(rest))
            case ["metrics"]:
                text = self._core.meter.render(self._core.registry, self._core.store)
                return web.Response(text=text, content_type="text/plain")
            case [".well-known", "openid-configuration"]:
                signer = self._core.authenticator.signer
                return object_response(signer.discovery(f"{signer.issuer}/openid/v1/jwks"))
            case ["openid", "v1", "jwks"]:
                body = orjson.dumps(self._core.authenticator.signer.jwks())
                return web.Response(body=body, content_type="application/jwk-set+json")
        return None

    def _index(self) -> list[str]:
        versions = self._core.registry.group_versions()
        found = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"]
        for group, names in versions.items():
            if group:
                found += [f"/apis/{group}", *(f"/apis/{group}/{v}" for v in names)]
        found += [f"/{h}" for h in _HEALTH]
        return sorted([*found, "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/version"])

    def _discovery(self, request: web.Request, parts: list[str]) -> web.Response | None:
        registry = self._core.registry
        form = form_of(request)
        if len(parts) == 1 and form.transform == "APIGroupDiscoveryList":
            body = orjson.dumps(discovery.aggregated(registry, core=parts[0] == "api"))
            return web.Response(body=body, headers={"Content-Type": _AGGREGATED, "Vary": "Accept"})
        answer: Obj | None = None
        match parts:
            case ["api"]:
                answer = discovery.legacy_versions(request.host)
            case ["apis"]:
                answer = discovery.groups(registry)
            case ["api", version]:
                answer = discovery.resources(registry, "", version)
            case ["apis", group]:
                answer = discovery.group(registry, group)
            case ["apis", group, version]:
                answer = discovery.resources(registry, group, version)
        if answer is None:
            return None
        response = object_response(answer)
        response.headers["Vary"] = "Accept"
        return response

    def _openapi_v3(self, request: web.Request, path: str) -> web.StreamResponse | None:
        if not path:
            return object_response(self._openapi.index())
        document = self._openapi.v3(path)
        if document is None:
            return None
        return self._document(request, document, immutable=request.query.get("hash") == document.tag)

    def _document(self, request: web.Request, document: openapi.Document, *, immutable: bool) -> web.Response:
        headers = {"ETag": f'"{document.tag}"', "Vary": "Accept"}
        if immutable:
            headers["Cache-Control"] = "public, immutable"
        if request.headers.get("If-None-Match", "").strip('"') == document.tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=document.body, content_type=document.media_type, headers=headers)

    def _health(self, request: web.Request, check: str, part: str) -> web.Response | None:
        if part and part not in _CHECKS:
            return None
        ready = self._core.ready or check == "livez"
        if "verbose" in request.query and not part:
            lines = [f"[+]{name} ok" for name in _CHECKS] + [f"{check} check {'passed' if ready else 'failed'}"]
            return web.Response(text="\n".join(lines) + "\n", status=200 if ready else 500)
        return web.Response(text="ok" if ready else f"{check} check failed", status=200 if ready else 500)
