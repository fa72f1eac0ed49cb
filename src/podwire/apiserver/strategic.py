"""Strategic merge patch: a merge patch that knows which lists merge by key. Pure.

Directives, as kubectl sends them:

    $patch: replace | delete | merge       on a map, or on an element of a merging list
    $deleteFromPrimitiveList/FIELD: [...]  values to take out of a merging list of scalars
    $setElementOrder/FIELD: [...]          the order that the sender wants its elements in
    $retainKeys: [...]                     the only keys that a union (volumes, strategy) may keep
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from podwire.apiserver.jsonpatch import PatchError
from podwire.apiserver.structure import Structure

_PATCH = "$patch"
_DELETE_FROM = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"
_RETAIN = "$retainKeys"


def merge(current: Any, patch: Any, structure: Structure) -> Any:
    """Return ``current`` with ``patch`` applied. Raises PatchError for directives that make no sense."""
    if not isinstance(patch, dict):
        raise PatchError("a strategic merge patch is an object", malformed=True)
    return _merge_map(current if isinstance(current, dict) else {}, patch, structure)


def _merge_map(current: dict[str, Any], patch: dict[str, Any], structure: Structure) -> dict[str, Any]:
    match patch.get(_PATCH):
        case None | "merge":
            result = dict(current)
        case "replace":
            return {k: v for k, v in patch.items() if k != _PATCH}
        case "delete":
            return {}
        case other:
            raise PatchError(f"unknown {_PATCH} {other!r}", malformed=True)
    retained = patch.get(_RETAIN)
    if retained is not None:
        result = _retain(result, patch, retained)
    for name, value in patch.items():
        if name.startswith(_DELETE_FROM):
            field = name[len(_DELETE_FROM) :]
            if isinstance(result.get(field), list):
                result[field] = [v for v in result[field] if v not in value]
        elif name[0:1] != "$":
            _merge_field(result, name, value, structure.field(name))
    for name, order in patch.items():
        if name.startswith(_ORDER):
            field = name[len(_ORDER) :]
            if isinstance(result.get(field), list):
                key = structure.field(field).merge_key
                result[field] = _ordered(result[field], order, key, current.get(field) or [])
    return result


def _retain(current: dict[str, Any], patch: dict[str, Any], retained: Any) -> dict[str, Any]:
    if not isinstance(retained, list):
        raise PatchError(f"{_RETAIN} is not a list", malformed=True)
    for name, value in patch.items():
        if name[0:1] != "$" and value is not None and name not in retained:
            raise PatchError(f"{name!r} is set but not in {_RETAIN}", malformed=True)
    return {k: v for k, v in current.items() if k in retained}


def _merge_field(result: dict[str, Any], name: str, value: Any, structure: Structure) -> None:
    if value is None:
        result.pop(name, None)
    elif isinstance(value, dict):
        old = result.get(name)
        result[name] = _merge_map(old if isinstance(old, dict) else {}, value, structure)
    elif isinstance(value, list) and structure.merges:
        old = result.get(name)
        result[name] = _merge_list(old if isinstance(old, list) else [], value, structure)
    else:
        result[name] = value


def _merge_list(current: list[Any], patch: list[Any], structure: Structure) -> list[Any]:
    if not structure.merge_key:
        return current + [v for i, v in enumerate(patch) if v not in current and v not in patch[:i]]
    replacing = any(isinstance(e, dict) and e.get(_PATCH) == "replace" for e in patch)
    result = [] if replacing else list(current)
    for element in patch:
        if not isinstance(element, dict):
            raise PatchError(f"expected an object with {structure.merge_key!r}, got {element!r}")
        act = element.get(_PATCH)
        if act == "replace":
            # The directive may stand alone, or mark the elements that replace the rest.
            if len(element) > 1:
                result.append({k: v for k, v in element.items() if k != _PATCH})
            continue
        _merge_element(result, element, act == "delete", structure)
    return result


def _merge_element(result: list[Any], element: dict[str, Any], deletes: bool, structure: Structure) -> None:
    key = structure.merge_key
    if key not in element:
        raise PatchError(f"map: {element!r} does not contain declared merge key: {key}")
    value = element[key]
    places = [i for i, e in enumerate(result) if isinstance(e, dict) and e.get(key) == value]
    if deletes:
        for i in reversed(places):
            del result[i]
    elif places:
        result[places[0]] = _merge_map(result[places[0]], element, structure.items)
    else:
        result.append(_merge_map({}, element, structure.items))


def _ordered(items: list[Any], order: Any, key: str, before: Sequence[Any]) -> list[Any]:
    """Return ``items`` with those in ``order`` in that order, the server's own ones woven in.

    An element that the sender does not know of stays before the first ordered one that it preceded.
    """
    if not isinstance(order, list):
        raise PatchError(f"{_ORDER} is not a list", malformed=True)

    def name(element: Any) -> Any:
        return element.get(key) if key and isinstance(element, dict) else element

    places: dict[Any, Any] = {name(i): i for i in items}
    wanted = [name(e) for e in order if name(e) in places]
    rest = [n for n in places if n not in wanted]
    return [places[n] for n in weave(wanted, rest, [name(e) for e in before])]


def weave(wanted: Sequence[Any], rest: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    """Return both lists as one: ``wanted`` in its order, each of ``rest`` before the first of ``wanted``
    that it stood before in ``before``, otherwise at the end."""
    theirs, ours = list(dict.fromkeys(wanted)), list(rest)
    old = {name: place for place, name in enumerate(before)}
    result: list[Any] = []
    while ours and theirs:
        mine, his = ours[0], theirs[0]
        first = mine in old and his in old and old[mine] < old[his]
        result.append((ours if first else theirs).pop(0))
    return result + theirs + ours
