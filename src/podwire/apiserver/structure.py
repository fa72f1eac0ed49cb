"""The shape of a kind, as patches and server-side apply see it: fields, maps, and how its lists merge.

Read from JSON schema with Kubernetes' extensions (``x-kubernetes-list-type``, ``-list-map-keys``,
``-map-type``, ``-patch-merge-key``, ``-patch-strategy``). Nodes are made as they are asked for and kept, so
a walk through the same kind costs dictionary look-ups only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

Schema = Mapping[str, Any]
Resolve = Callable[[str], Schema | None]
"""Definition name ("io.k8s.api.core.v1.PodSpec") -> its schema; None when there is none."""

ListType = Literal["atomic", "set", "map"]

_LIST_MARKS = (
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-patch-merge-key",
    "x-kubernetes-patch-strategy",
    "x-kubernetes-map-type",
)


class Structure:
    """One node of a kind's shape.

    ``list_type`` and ``keys`` speak for server-side apply, ``merge_key`` and ``merges`` for strategic
    merge patch: the two disagree on some lists (Service ports, topology spread constraints), on purpose.
    """

    __slots__ = (
        "_children",
        "_items",
        "_properties",
        "_resolve",
        "_rest",
        "_schema",
        "atomic",
        "keys",
        "list_type",
        "merge_key",
        "merges",
        "open",
        "retains_keys",
    )

    def __init__(self, schema: Schema, resolve: Resolve) -> None:
        marks = {k: schema[k] for k in _LIST_MARKS if k in schema}
        self._schema = {**_follow(schema, resolve), **marks}
        self._resolve = resolve
        self._children: dict[str, Structure] = {}
        self._items: Structure | None = None
        self._rest: Structure | None = None
        strategy = self._schema.get("x-kubernetes-patch-strategy", "").split(",")
        self.merges = "merge" in strategy
        self.retains_keys = "retainKeys" in strategy
        self.merge_key: str = self._schema.get("x-kubernetes-patch-merge-key", "")
        self.list_type: ListType = self._schema.get("x-kubernetes-list-type", "atomic")
        self.keys: tuple[str, ...] = tuple(self._schema.get("x-kubernetes-list-map-keys") or ())
        self.atomic: bool = self._schema.get("x-kubernetes-map-type") == "atomic"
        self._properties: Mapping[str, Schema] = self._schema.get("properties") or {}
        self.open = not self._properties

    def field(self, name: str) -> Structure:
        """Return the shape of a field or map value; ``ANYTHING`` for what the schema does not know."""
        child = self._children.get(name)
        if child is None:
            known = self._properties.get(name)
            if known is not None:
                child = self._children[name] = Structure(known, self._resolve)
            else:
                return self.rest
        return child

    def knows(self, name: str) -> bool:
        """Return whether ``name`` is a field of a struct, not an entry of a map."""
        return name in self._properties

    @property
    def rest(self) -> Structure:
        """The shape of values under names that are not fields (a map's values)."""
        if self._rest is None:
            extra = self._schema.get("additionalProperties")
            self._rest = Structure(extra, self._resolve) if isinstance(extra, Mapping) else ANYTHING
        return self._rest

    @property
    def items(self) -> Structure:
        """The shape of a list's elements."""
        if self._items is None:
            schema = self._schema.get("items")
            self._items = Structure(schema, self._resolve) if isinstance(schema, Mapping) else ANYTHING
        return self._items

    def defaults(self) -> dict[str, Any]:
        """Return the defaults of an element's own fields: a list key that is absent has its default."""
        found: dict[str, Any] = {}
        for name, schema in self._properties.items():
            if "default" in schema:
                found[name] = schema["default"]
        return found


def _follow(schema: Schema, resolve: Resolve) -> Schema:
    """Return the schema behind ``$ref`` and a single ``allOf``; ``{}`` when the reference is unknown."""
    for _ in range(8):
        inner = schema.get("allOf")
        if "$ref" in schema:
            schema = resolve(schema["$ref"].rpartition("/")[2]) or {}
        elif inner and "properties" not in schema:
            schema = inner[0]
        else:
            break
    return schema


ANYTHING = Structure({}, lambda _: None)
"""A shape of which nothing is known: maps merge field by field, lists are replaced whole."""


class Structures:
    """Shapes by definition name, each made once."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._known: dict[str, Structure] = {}

    def named(self, definition: str) -> Structure:
        """Return the shape of a definition; ``ANYTHING`` when there is none of that name."""
        structure = self._known.get(definition)
        if structure is None:
            schema = self._resolve(definition)
            structure = ANYTHING if schema is None else Structure(schema, self._resolve)
            self._known[definition] = structure
        return structure


def of_custom_resource(schema: Schema | None) -> Structure:
    """Return the shape that a CRD version's ``openAPIV3Schema`` describes."""
    return ANYTHING if not schema else Structure(schema, lambda _: None)
