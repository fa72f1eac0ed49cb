"""The patch types, as far as a fake API server needs them. The embedded server has the full ones."""

from __future__ import annotations

import copy
from typing import Any

from podwire.client.errors import ApiError, Invalid
from podwire.client.port import PatchKind
from podwire.model.objects import Obj

_MERGE_KEYS = {
    "conditions": "type", "containers": "name", "initContainers": "name", "ephemeralContainers": "name",
    "volumes": "name", "env": "name", "ports": "containerPort", "volumeMounts": "mountPath",
    "addresses": "type", "ownerReferences": "uid", "imagePullSecrets": "name", "hostAliases": "ip",
    "podIPs": "ip", "hostIPs": "ip", "secrets": "name",
}  # fmt: skip


def patched(obj: Obj, patch: Any, kind: PatchKind) -> Obj:
    """Return a changed copy of ``obj``. Raises Invalid for a JSON patch that does not fit."""
    base = copy.deepcopy(obj)
    if kind == "json":
        for operation in patch:
            base = _operate(base, operation)
        return base
    merged: Obj = _merge(base, copy.deepcopy(patch), strategic=kind != "merge")
    return merged


def _merge(base: Any, patch: Any, strategic: bool) -> Any:
    if not isinstance(patch, dict):
        return patch
    if strategic and patch.get("$patch") == "replace":
        return {k: v for k, v in patch.items() if k != "$patch"}
    result = base if isinstance(base, dict) else {}
    for name, value in patch.items():
        if name.startswith("$"):
            if name.startswith("$deleteFromPrimitiveList/"):
                field = name.partition("/")[2]
                result[field] = [v for v in result.get(field) or () if v not in value]
            continue
        if value is None:
            result.pop(name, None)
        elif strategic and isinstance(value, list) and name in _MERGE_KEYS and _all_dicts(value):
            result[name] = _merge_list(result.get(name) or [], value, _MERGE_KEYS[name])
        elif strategic and name == "finalizers" and isinstance(value, list):
            result[name] = list(dict.fromkeys([*(result.get(name) or ()), *value]))
        else:
            result[name] = _merge(result.get(name), value, strategic)
    return result


def _all_dicts(values: list[Any]) -> bool:
    return all(isinstance(v, dict) for v in values)


def _merge_list(base: list[Obj], patch: list[Obj], key: str) -> list[Obj]:
    if any(p.get("$patch") == "replace" for p in patch):
        return [p for p in patch if "$patch" not in p]
    result = list(base)
    for change in patch:
        at = next((i for i, item in enumerate(result) if item.get(key) == change.get(key)), None)
        if change.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(change)
        else:
            result[at] = _merge(result[at], change, strategic=True)
    return result


def _operate(document: Any, operation: Obj) -> Any:
    """RFC 6902 add, remove, replace, test."""
    parts = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
    verb, value = operation["op"], copy.deepcopy(operation.get("value"))
    if not parts:
        return value
    parent = document
    try:
        for part in parts[:-1]:
            parent = parent[int(part)] if isinstance(parent, list) else parent[part]
        last: Any = parts[-1]
        if isinstance(parent, list):
            last = len(parent) if last == "-" else int(last)
        if verb == "test":
            if parent[last] != value:
                raise Invalid(422, "Invalid", f"test of {operation['path']} failed")
        elif verb == "remove":
            del parent[last]
        elif verb == "add" and isinstance(parent, list):
            parent.insert(last, value)
        elif verb in ("add", "replace"):
            if verb == "replace":
                parent[last]
            parent[last] = value
        else:
            raise ApiError(400, "BadRequest", f"the fake knows no JSON patch operation {verb!r}")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise Invalid(422, "Invalid", f"{verb} {operation['path']}: {error!r}") from error
    return document
