"""Rules of CustomResourceDefinitions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from podwire.apiserver.errors import FieldError, invalid_value, required, unsupported
from podwire.apiserver.validation import names
from podwire.model.objects import Obj


def check(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check what the server relies on to serve the kinds."""
    spec: Obj = new.get("spec") or {}
    named: Obj = spec.get("names") or {}
    yield from names.check_required(spec, "spec", "group", "scope")
    yield from names.check_required(named, "spec.names", "plural", "kind")
    if not all((spec.get("group"), named.get("plural"), named.get("kind"))):
        return
    expected = f"{named['plural']}.{spec['group']}"
    if new["metadata"]["name"] != expected:
        yield invalid_value("metadata.name", new["metadata"]["name"], 'must be spec.names.plural+"."+spec.group')
    if "." not in spec["group"]:
        yield invalid_value("spec.group", spec["group"], "should be a domain with at least one dot")
    if spec.get("scope") not in ("Namespaced", "Cluster", None):
        yield unsupported("spec.scope", spec["scope"], ("Cluster", "Namespaced"))
    why = names.label_1035_problem(named["plural"])
    if why:
        yield invalid_value("spec.names.plural", named["plural"], why)
    why = names.label_1035_problem(named["kind"].lower())
    if why:
        yield invalid_value("spec.names.kind", named["kind"], "may have mixed case, but should otherwise match: " + why)
    yield from _versions(spec.get("versions") or [])
    if old is not None:
        yield from _immutable(spec, old["spec"])


def _versions(versions: list[Obj]) -> Iterator[FieldError]:
    if not versions:
        yield required("spec.versions", "must have exactly one version marked as storage version")
        return
    if sum(1 for v in versions if v.get("storage")) != 1:
        yield invalid_value("spec.versions", versions, "must have exactly one version marked as storage version")
    yield from names.check_unique([v.get("name") for v in versions], "spec.versions")
    for n, version in enumerate(versions):
        path = f"spec.versions[{n}]"
        yield from names.check_required(version, path, "name")
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if schema is None:
            yield required(f"{path}.schema.openAPIV3Schema", "schemas are required")
        else:
            yield from _structural(schema, f"{path}.schema.openAPIV3Schema", root=True)
        scale = (version.get("subresources") or {}).get("scale")
        if scale is not None:
            where = f"{path}.subresources.scale"
            yield from names.check_required(scale, where, "specReplicasPath", "statusReplicasPath")


def _structural(schema: Any, path: str, *, root: bool = False) -> Iterator[FieldError]:
    """A structural schema states a type everywhere (KEP-1028), but where int-or-string or unknown is allowed."""
    if not isinstance(schema, dict):
        return
    untyped = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if root and schema.get("type") != "object":
        yield invalid_value(f"{path}.type", schema.get("type", ""), "must be object at the root")
    elif not schema.get("type") and not untyped:
        yield required(f"{path}.type", "must not be empty for specified object fields")
    for name, inner in (schema.get("properties") or {}).items():
        yield from _structural(inner, f"{path}.properties[{name}]")
    if schema.get("type") == "array":
        if "items" not in schema:
            yield required(f"{path}.items", "must be specified")
        yield from _structural(schema.get("items"), f"{path}.items")
    yield from _structural(schema.get("additionalProperties"), f"{path}.additionalProperties")


def _immutable(spec: Obj, before: Obj) -> Iterator[FieldError]:
    pairs = (
        ("spec.group", spec.get("group"), before.get("group")),
        ("spec.scope", spec.get("scope"), before.get("scope")),
        ("spec.names.kind", spec["names"].get("kind"), before["names"].get("kind")),
        ("spec.names.plural", spec["names"].get("plural"), before["names"].get("plural")),
    )
    for path, new, old in pairs:
        if new != old:
            yield invalid_value(path, new, "field is immutable")
