"""Rules on Ingress objects: annotations that exist, paths that work, backends that are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from podwire.model.objects import Key
from podwire.verify.lint.finding import INGRESS, Finding, Rule
from podwire.verify.located import Located
from podwire.verify.sources import of_kind
from podwire.verify.world import World

_NGINX = "https://kubernetes.github.io/ingress-nginx/user-guide/nginx-configuration/annotations/"

ANNOTATION = Rule("PW201", "ingress-annotation-unknown", "error",
    "An annotation that ingress-nginx does not know: it does nothing", f"{_NGINX}#rate-limiting")  # fmt: skip
REGEX_PREFIX = Rule("PW202", "ingress-regex-prefix", "error",
    "A regular expression as path with pathType Prefix: refused by ingress-nginx's strict path check",
    f"{INGRESS}#path-types")  # fmt: skip
BACKEND = Rule(
    "PW203", "ingress-backend-missing", "error", "An Ingress leads to a Service or port that is not there", INGRESS
)

RULES = (ANNOTATION, REGEX_PREFIX, BACKEND)

_PREFIX = "nginx.ingress.kubernetes.io/"
_REPLACED: Mapping[str, str] = {
    "rate-limit": "limit-rps (a second), limit-rpm (a minute) or limit-connections",
    "rate-limit-window": "limit-rps (a second) or limit-rpm (a minute): the window is in the name",
}
_REGEX = frozenset("()[]|*^$+\\{}")


def check(world: World) -> Iterator[Finding]:
    """Yield what these rules find."""
    for ingress in of_kind(world.objects, "Ingress"):
        annotations = ingress.object["metadata"].get("annotations") or {}
        for name, instead in _REPLACED.items():
            if _PREFIX + name in annotations:
                yield Finding(
                    ANNOTATION, ingress, f'metadata.annotations["{_PREFIX}{name}"]',
                    f"ingress-nginx has no annotation {name}, so nothing is limited", f"write {_PREFIX}{instead}",
                )  # fmt: skip
        for path, entry in _paths(ingress):
            text = str(entry.get("path") or "")
            if entry.get("pathType") == "Prefix" and _REGEX & set(text):
                yield Finding(
                    REGEX_PREFIX, ingress, f"{path}.pathType",
                    f"{text!r} is a regular expression, which Prefix takes literally",
                    "write pathType: ImplementationSpecific",
                )  # fmt: skip
            yield from _backend(world, ingress, f"{path}.backend", entry.get("backend"))
        default = (ingress.object.get("spec") or {}).get("defaultBackend")
        yield from _backend(world, ingress, "spec.defaultBackend", default)


def _paths(ingress: Located) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for i, rule in enumerate((ingress.object.get("spec") or {}).get("rules") or ()):
        for j, entry in enumerate((rule.get("http") or {}).get("paths") or ()):
            yield f"spec.rules[{i}].http.paths[{j}]", entry


def _backend(world: World, ingress: Located, path: str, backend: Any) -> Iterator[Finding]:
    wanted = (backend or {}).get("service")
    namespace = ingress.key.namespace
    if not wanted or not any(k.namespace == namespace for k in world.services):
        return  # no Service of the namespace was shown: nothing can be said
    service = world.services.get(Key(namespace, wanted.get("name", "")))
    if service is None:
        known = ", ".join(sorted(k.name for k in world.services if k.namespace == namespace))
        why = f"there is no Service {wanted.get('name')} in namespace {namespace}"
        yield Finding(BACKEND, ingress, f"{path}.service.name", why, f"Services there: {known}")
        return
    port = wanted.get("port") or {}
    if not any(p.port == port.get("number") or (p.name and p.name == port.get("name")) for p in service.ports):
        shown = ", ".join(f"{p.port}{f' ({p.name})' if p.name else ''}" for p in service.ports)
        asked = port.get("number") or port.get("name")
        why = f"Service {service.key.name} has no port {asked}"
        yield Finding(BACKEND, ingress, f"{path}.service.port", why, f"its ports: {shown}")
