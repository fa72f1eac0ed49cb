"""The kinds' JSON schemas: are a body's fields known and of the right type, and what to do if not.

Schemas come from the ``kubernetes-validate`` package. A compiled validator says yes in a microsecond for
nearly every body; only a body that fails is walked in Python, to drop and name unknown fields and to say
which value has the wrong type. ``required`` is left out: Kubernetes fills such fields with zero values
unless a semantic rule (``validation/``) demands them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from podwire.apiserver import customschema
from podwire.apiserver.errors import undecodable
from podwire.apiserver.kinds import Kind
from podwire.apiserver.values import FieldValidation
from podwire.model.objects import Obj

_VERSION = "v1.36.0"
_PREFIX = "/api/_definitions.json#/$defs/"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"

Schema = Mapping[str, Any]


def directory(strict: bool = True) -> Path:
    """Return where the schemas of the release that podwire follows lie."""
    import importlib.util

    spec = importlib.util.find_spec("kubernetes_validate")
    assert spec is not None
    assert spec.origin is not None
    name = f"{_VERSION}-local-strict" if strict else f"{_VERSION}-local"
    return Path(spec.origin).parent / "kubernetes-json-schema" / name


@cache
def definitions() -> dict[str, Obj]:
    """Return every definition by name; unknown fields are refused where Kubernetes knows all fields."""
    loaded = orjson.loads((directory() / "_definitions.json").read_bytes())
    return loaded["$defs"]  # type: ignore[no-any-return]


def resolve(name: str) -> Schema | None:
    """Return a definition by name, or None."""
    return definitions().get(name)


@cache
def _validator(definition: str) -> Any:
    """Return the compiled validator of a definition with all that it refers to."""
    import jsonschema_rs

    wanted = _closure(definition)
    return jsonschema_rs.Draft202012Validator({"$ref": f"#/$defs/{definition}", "$defs": wanted})


def _closure(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    todo = [name]
    while todo:
        current = todo.pop()
        if current not in found:
            found[current] = _localised(definitions()[current], todo)
    return found


def _localised(schema: Any, todo: list[str], inside: str = "") -> Any:
    """Return the schema with local references and without ``required``; note what it refers to."""
    if isinstance(schema, list):
        return [_localised(item, todo) for item in schema]
    if not isinstance(schema, dict):
        return schema
    answer = {}
    for key, value in schema.items():
        if inside != "properties" and key in ("required", "description", "enum"):
            continue
        if key == "$ref" and isinstance(value, str):
            name = value.rpartition("/")[2]
            todo.append(name)
            answer[key] = "#/$defs/" + name
        else:
            answer[key] = _localised(value, todo, key)
    return answer


def clean(kind: Kind, obj: Obj, raw: bytes, validation: FieldValidation, warnings: list[str]) -> Obj:
    """Return ``obj`` without nulls and unknown fields; the latter become warnings.

    Raises 400 for a value of the wrong type and, when ``validation`` is Strict, for unknown fields. The
    fast way is a yes from the compiled validator on a body that has no null.
    """
    if kind.schema is not None:
        return customschema.clean(kind, obj, validation, warnings)
    if b"null" in raw:
        obj = without_nulls(obj, kind.definition)
    if not kind.definition or _validator(kind.definition).is_valid(obj):
        return obj
    walk = _Walk()
    obj = walk.clean(obj, {"$ref": _PREFIX + kind.definition}, "", "")
    if walk.mismatches:
        raise undecodable(kind, walk.mismatches[0])
    if walk.unknown and validation != "Ignore":
        texts = [f'unknown field "{path}"' for path in walk.unknown]
        if validation == "Strict":
            raise undecodable(kind, "strict decoding error: " + ", ".join(texts))
        warnings.extend(texts)
    return obj


_FREE_FORM = ("ControllerRevision", "CustomResourceDefinition")  # null means something inside


def without_nulls(value: Any, definition: str = "") -> Any:
    """Return a copy in which a null field is an absent one, as a typed decoder sees it."""
    if definition.endswith(_FREE_FORM):
        return {k: v if k in ("data", "spec") else without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, dict):
        return {k: without_nulls(v) if isinstance(v, (dict, list)) else v for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) if isinstance(v, (dict, list)) else v for v in value if v is not None]
    return value


class _Walk:
    """One slow walk along a schema. Collects what a fast validator would only refuse."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self.mismatches: list[str] = []

    def clean(self, value: Any, schema: Schema, path: str, owner: str) -> Any:
        """Return ``value`` with unknown fields dropped; ``owner`` is the Go struct that holds it."""
        reference = schema.get("$ref")
        name = ""
        if reference is not None:
            name = reference.rpartition("/")[2]
            if name == _INT_OR_STRING:
                return self._scalar(value, (str, int), path, owner, "intstr.IntOrString")
            if name == _QUANTITY:
                return self._scalar(value, (str, int, float), path, owner, "resource.Quantity")
            schema = definitions().get(name) or {}
        expected = _type_of(schema)
        if expected == "object":
            return self._object(value, schema, path, name or owner)
        if expected == "array":
            return self._array(value, schema, path, owner)
        types = _SCALARS.get(expected)
        return value if types is None else self._scalar(value, types, path, owner, _go_type(schema, expected))

    def _object(self, value: Any, schema: Schema, path: str, owner: str) -> Any:
        if not isinstance(value, dict):
            return self._mismatch(value, path, owner, owner.rpartition(".")[2] or "map[string]string")
        properties: Mapping[str, Schema] = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        answer = {}
        for key, item in value.items():
            where = f"{path}.{key}" if path else key
            if key in properties:
                answer[key] = self.clean(item, properties[key], where, owner)
            elif isinstance(extra, Mapping):
                answer[key] = self.clean(item, extra, where, owner)
            elif extra is False:
                self.unknown.append(where)
            else:
                answer[key] = item
        return answer

    def _array(self, value: Any, schema: Schema, path: str, owner: str) -> Any:
        items: Schema = schema.get("items") or {}
        if not isinstance(value, list):
            inner = (items.get("$ref") or "").rpartition(".")[2]
            return self._mismatch(value, path, owner, "[]" + (inner or _go_type(items, _type_of(items))))
        return [self.clean(v, items, f"{path}[{n}]", owner) for n, v in enumerate(value)]

    def _scalar(self, value: Any, types: tuple[type, ...], path: str, owner: str, go_type: str) -> Any:
        if isinstance(value, bool) and bool not in types:
            return self._mismatch(value, path, owner, go_type)
        if isinstance(value, float) and float not in types and int in types and value.is_integer():
            return int(value)
        return value if isinstance(value, types) else self._mismatch(value, path, owner, go_type)

    def _mismatch(self, value: Any, path: str, owner: str, go_type: str) -> Any:
        struct = owner.rpartition(".")[2]
        plain = "".join(_without_indexes(path))
        self.mismatches.append(
            f"json: cannot unmarshal {_json_type(value)} into Go struct field {struct}.{plain} of type {go_type}"
        )
        return value


_SCALARS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def _type_of(schema: Schema) -> str:
    kind = schema.get("type") or ""
    return next((k for k in kind if k != "null"), "") if isinstance(kind, list) else kind


def _go_type(schema: Schema, kind: str) -> str:
    if kind == "integer":
        return str(schema.get("format") or "int64")
    return {"boolean": "bool", "number": "float64"}.get(kind, kind or "struct")


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return {str: "string", int: "number", float: "number", dict: "object", list: "array"}.get(type(value), "null")


def _without_indexes(path: str) -> Iterator[str]:
    depth = 0
    for character in path:
        depth += (character == "[") - (character == "]")
        if not depth and character != "]":
            yield character
