"""Paths of resources: from URL to what is asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from podwire.apiserver.kinds import Kind, Registry

_NAMESPACE_SUBRESOURCES = ("status", "finalize")


@dataclass(frozen=True, slots=True)
class Target:
    """A resource path, taken apart. ``rest`` is what follows a subresource (proxy paths)."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""


def parse(registry: Registry, path: str) -> Target | None:
    """Return the target of ``/api/v1/...`` or ``/apis/GROUP/VERSION/...``; None when nothing is there."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) >= 3:
        group, version, tail = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 4:
        group, version, tail = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if tail[0] == "namespaces" and len(tail) > 2 and not _is_namespace_itself(group, tail):
        namespace, tail = tail[1], tail[2:]
    plural, name, subresource, *rest = [*tail, "", ""] if len(tail) < 3 else tail
    if plural == "bindings" and namespace and not group and not name:
        plural, subresource = "pods", "binding"  # the pod's name is in the body
    kind = registry.find(group, version, plural)
    if kind is None or bool(namespace) > kind.namespaced:
        return None
    if kind.namespaced and name and not namespace:
        return None
    if subresource and subresource not in kind.subresources:
        return None
    return Target(kind, namespace, name, subresource, "/".join(rest).rstrip("/") if len(tail) > 3 else "")


def _is_namespace_itself(group: str, tail: list[str]) -> bool:
    return group == "" and len(tail) == 3 and tail[2] in _NAMESPACE_SUBRESOURCES


def verb_of(method: str, target: Target, watching: bool) -> str:
    """Return the API verb of an HTTP method on a target; "" when there is none."""
    if method in ("GET", "HEAD"):
        if target.name or target.subresource:
            return "get"
        return "watch" if watching else "list"
    if method == "DELETE":
        return "delete" if target.name else "deletecollection"
    return {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, "")
