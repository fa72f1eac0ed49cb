"""JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7386). Pure; inputs are never changed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any


class PatchError(ValueError):
    """The patch cannot be applied. ``malformed`` tells a patch that is no patch (400) from one that does
    not fit this object (422)."""

    def __init__(self, message: str, *, malformed: bool = False) -> None:
        super().__init__(message)
        self.malformed = malformed


MAX_OPERATIONS = 10_000


def merge(target: Any, patch: Any) -> Any:
    """Return ``target`` with a merge patch applied: null removes, objects merge, the rest replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def apply(document: Any, operations: Any) -> Any:
    """Return ``document`` with every operation applied in order, or raise PatchError: all or nothing."""
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations", malformed=True)
    if len(operations) > MAX_OPERATIONS:
        raise PatchError(f"more than {MAX_OPERATIONS} operations", malformed=True)
    result = copy.deepcopy(document)
    for operation in operations:
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise PatchError(f"not an operation: {operation!r}", malformed=True)
        result = _operate(result, operation)
    return result


def _operate(document: Any, operation: dict[str, Any]) -> Any:
    act, path = operation.get("op"), operation["path"]
    parts = _parse(path)
    match act:
        case "add":
            return _add(document, parts, copy.deepcopy(_value(operation)), path)
        case "replace":
            _find(document, parts, path)
            if not parts:
                return copy.deepcopy(_value(operation))
            return _set(document, parts, copy.deepcopy(_value(operation)), path)
        case "remove":
            return _remove(document, parts, path)
        case "test":
            found = _find_or_none(document, parts, path)
            if not _equal(found, _value(operation)):
                raise PatchError(f"testing path {path}: the value differs")
            return document
        case "move" | "copy":
            source = operation.get("from")
            if not isinstance(source, str):
                raise PatchError(f"{act} {path}: no from", malformed=True)
            return _transfer(document, act, source, path)
    raise PatchError(f"unknown operation {act!r}", malformed=True)


def _transfer(document: Any, act: str, source: str, path: str) -> Any:
    value = _find(document, _parse(source), source)
    if act == "copy":
        return _add(document, _parse(path), copy.deepcopy(value), path)
    # RFC 6902 §4.4: "The from location MUST NOT be a proper prefix of the path location".
    if path != source and path.startswith(source + "/"):
        raise PatchError(f"move {source} into itself, {path}")
    document = _remove(document, _parse(source), source)
    return _add(document, _parse(path), value, path)


def _value(operation: dict[str, Any]) -> Any:
    if "value" not in operation:
        raise PatchError(f"{operation.get('op')} {operation['path']}: no value", malformed=True)
    return operation["value"]


def _parse(pointer: str) -> list[str]:
    """Return the reference tokens of a JSON pointer (RFC 6901)."""
    if not pointer:
        return []
    if not pointer.startswith("/"):
        raise PatchError(f"path {pointer!r} does not begin with /", malformed=True)
    return [p.replace("~1", "/").replace("~0", "~") for p in pointer[1:].split("/")]


def _index(token: str, length: int, path: str) -> int:
    # RFC 6901 §4: digits without leading zeros.
    if not token.isascii() or not token.isdigit() or (len(token) > 1 and token[0] == "0"):
        raise PatchError(f"path {path}: {token!r} is no array index")
    if int(token) >= length:
        raise PatchError(f"path {path}: index {token} is out of bounds")
    return int(token)


def _step(node: Any, token: str, path: str) -> Any:
    if isinstance(node, dict):
        if token not in node:
            raise PatchError(f"path {path}: nothing at {token!r}")
        return node[token]
    if isinstance(node, list):
        return node[_index(token, len(node), path)]
    raise PatchError(f"path {path}: {token!r} lies below a scalar")


def _find(document: Any, parts: Sequence[str], path: str) -> Any:
    for token in parts:
        document = _step(document, token, path)
    return document


def _find_or_none(document: Any, parts: Sequence[str], path: str) -> Any:
    """As ``_find``, but an absent last member is null: Kubernetes' ``test`` with null relies on it."""
    if not parts:
        return document
    parent = _find(document, parts[:-1], path)
    if isinstance(parent, dict) and parts[-1] not in parent:
        return None
    return _step(parent, parts[-1], path)


def _add(document: Any, parts: Sequence[str], value: Any, path: str) -> Any:
    if not parts:
        return value
    parent, token = _find(document, parts[:-1], path), parts[-1]
    if isinstance(parent, list):
        if token == "-":
            parent.append(value)
        else:
            parent.insert(_index(token, len(parent) + 1, path), value)
    elif isinstance(parent, dict):
        parent[token] = value
    else:
        raise PatchError(f"path {path}: {token!r} lies below a scalar")
    return document


def _set(document: Any, parts: Sequence[str], value: Any, path: str) -> Any:
    parent, token = _find(document, parts[:-1], path), parts[-1]
    parent[_index(token, len(parent), path) if isinstance(parent, list) else token] = value
    return document


def _remove(document: Any, parts: Sequence[str], path: str) -> Any:
    if not parts:
        return None
    parent, token = _find(document, parts[:-1], path), parts[-1]
    _step(parent, token, path)
    del parent[_index(token, len(parent), path) if isinstance(parent, list) else token]
    return document


def _equal(a: Any, b: Any) -> bool:
    """Return JSON equality, in which ``true`` is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)
