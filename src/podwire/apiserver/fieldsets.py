"""Sets of fields, in the form of ``managedFields[].fieldsV1``. Pure.

A set is a tree of dictionaries. Keys name one step: ``f:NAME`` a field or map entry, ``k:{"name":"a"}`` an
element of a list with keys, ``v:VALUE`` an element of a list that is a set. ``{}`` is a member without
members below; ``.`` beside others says that the node itself is a member, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from podwire.apiserver.structure import Structure

Tree = dict[str, Any]
_SELF = "."
_SORTED = orjson.OPT_SORT_KEYS
# Keys of lists that may be left out, where the schema's copy at hand does not say so.
_KEY_DEFAULTS = {"protocol": "TCP"}


class Changes(NamedTuple):
    """How one object became another: the fields that went, changed, and came."""

    removed: Tree
    modified: Tree
    added: Tree


def step_of(item: Any, structure: Structure) -> str:
    """Return the key of a list element: ``k:`` or ``v:``. Raises ValueError when a key is missing."""
    if structure.list_type == "set":
        return "v:" + orjson.dumps(item, option=_SORTED).decode()
    if not isinstance(item, dict):
        raise ValueError(f"expected an object with {', '.join(structure.keys)}, got {item!r}")
    found = {}
    defaults: dict[str, Any] | None = None
    for key in structure.keys:
        if key in item:
            found[key] = item[key]
            continue
        if defaults is None:
            defaults = {**_KEY_DEFAULTS, **structure.items.defaults()}
        if key in defaults:
            found[key] = defaults[key]
    if not found:
        raise ValueError(f"associative list with keys {', '.join(structure.keys)} has an element without them")
    return "k:" + orjson.dumps(found, option=_SORTED).decode()


def is_tree(tree: Any) -> bool:
    """Return whether ``tree`` has the form of a set: dictionaries all the way down."""
    return isinstance(tree, dict) and all(is_tree(below) for below in tree.values())


def is_keyed(structure: Structure) -> bool:
    """Return whether the list's elements have owners of their own."""
    return structure.list_type == "set" or (structure.list_type == "map" and bool(structure.keys))


def fields_of(value: Any, structure: Structure, *, containers: bool = False) -> Tree:
    """Return the fields that ``value`` sets. Elements and map entries are members, structs only their fields.

    ``containers`` adds the maps and lists themselves, as for what an update brings in.
    """
    tree: Tree = {}
    if isinstance(value, dict) and not structure.atomic:
        for name, inner in value.items():
            below = fields_of(inner, structure.field(name), containers=containers)
            if below and (containers or not structure.knows(name)):
                below = {_SELF: {}, **below}
            tree[f"f:{name}"] = below
    elif isinstance(value, list) and is_keyed(structure):
        for item in value:
            below = fields_of(item, structure.items, containers=containers) if isinstance(item, dict) else {}
            tree[step_of(item, structure)] = {_SELF: {}, **below} if below else {}
    return tree


def union(a: Tree, b: Tree) -> Tree:
    """Return the members of either."""
    if not a or not b:
        return a or b
    result = dict(a)
    for step, below in b.items():
        mine = result.get(step)
        if mine is None:
            result[step] = below
        elif bool(mine) != bool(below):
            result[step] = {_SELF: {}, **(mine or below)}
        elif mine:
            result[step] = union(mine, below)
    return result


def _is_member(node: Tree) -> bool:
    return not node or _SELF in node


def difference(a: Tree, b: Tree) -> Tree:
    """Return the members of ``a`` that are not in ``b``; a member of ``b`` without members below it takes
    everything below along."""
    if not b:
        return a
    result: Tree = {}
    for step, below in a.items():
        other = b.get(step)
        if other is None:
            result[step] = below
        elif other and step != _SELF:
            left = difference({k: v for k, v in below.items() if k != _SELF}, other)
            stays = _is_member(below) and not _is_member(other)
            if left:
                result[step] = {_SELF: {}, **left} if stays else left
            elif stays:
                result[step] = {}
    return result


def intersection(a: Tree, b: Tree) -> Tree:
    """Return the members of both."""
    result: Tree = {}
    for step, below in a.items():
        other = b.get(step)
        if other is None or step == _SELF:
            continue
        both = intersection(below, other)
        if _is_member(below) and _is_member(other):
            result[step] = {_SELF: {}, **both} if both else {}
        elif both:
            result[step] = both
    return result


def compare(old: Any, new: Any, structure: Structure) -> Changes:
    """Return what changed between two objects of the same kind."""
    changes = Changes({}, {}, {})
    _compare_maps(old, new, structure, changes)
    return changes


def _compare_maps(old: Any, new: Any, structure: Structure, into: Changes) -> None:
    for name in old.keys() | new.keys():
        inner = structure.field(name)
        _compare(f"f:{name}", old.get(name), new.get(name), inner, into, name in old, name in new)


def _compare_lists(old: list[Any], new: list[Any], structure: Structure, into: Changes) -> None:
    before = {step_of(i, structure): i for i in old}
    after = {step_of(i, structure): i for i in new}
    for step in before.keys() | after.keys():
        _compare(step, before.get(step), after.get(step), structure.items, into, step in before, step in after)


def _compare(step: str, old: Any, new: Any, structure: Structure, into: Changes, was: bool, remains: bool) -> None:
    if was and remains and old == new:
        return
    if not was or not remains:
        value, target = (new, into.added) if remains else (old, into.removed)
        below = fields_of(value, structure, containers=True)
        target[step] = {_SELF: {}, **below} if below else {}
        return
    inner = Changes({}, {}, {})
    if isinstance(old, dict) and isinstance(new, dict) and not structure.atomic:
        _compare_maps(old, new, structure, inner)
    elif isinstance(old, list) and isinstance(new, list) and is_keyed(structure):
        _compare_lists(old, new, structure, inner)
    else:
        into.modified[step] = {}
        return
    for target, found in zip(into, inner, strict=True):
        if found:
            target[step] = found


def paths(tree: Tree, prefix: str = "") -> Iterator[str]:
    """Yield the members as people read them: ``.spec.containers[name="web"].image``."""
    for step, below in tree.items():
        if step == _SELF:
            continue
        here = prefix + _shown(step)
        if _is_member(below):
            yield here
        yield from paths(below, here)


def _shown(step: str) -> str:
    kind, text = step[:2], step[2:]
    if kind == "f:":
        return f".{text}"
    if kind == "v:":
        return f"[={text}]"
    try:
        keys = orjson.loads(text)
    except orjson.JSONDecodeError:
        return f"[{text}]"
    return "[" + ",".join(f"{k}={orjson.dumps(v).decode()}" for k, v in sorted(keys.items())) + "]"
