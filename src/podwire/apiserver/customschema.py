"""Custom resources against their CRD's structural schema: pruning, and validation in Kubernetes' words.

CEL rules (``x-kubernetes-validations``) are stored and shown, not evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from podwire.apiserver.errors import FieldError, invalid_value, required, undecodable, unsupported, wrong_type
from podwire.apiserver.kinds import Kind
from podwire.apiserver.values import FieldValidation
from podwire.model.objects import Obj

_ROOT_FIELDS = frozenset({"apiVersion", "kind", "metadata"})
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED = "x-kubernetes-embedded-resource"
_INT_OR_STRING = "x-kubernetes-int-or-string"


def clean(kind: Kind, obj: Obj, validation: FieldValidation, warnings: list[str]) -> Obj:
    """Return ``obj`` without the fields that its schema does not know; they become warnings.

    Raises 400 for unknown fields when ``validation`` is Strict.
    """
    assert kind.schema is not None
    unknown: list[str] = []
    metadata = {k: v for k, v in (obj.get("metadata") or {}).items() if v is not None}
    body = {k: v for k, v in obj.items() if k != "metadata"}
    pruned = _prune(body, kind.schema, "", unknown, root=True)
    if unknown and validation != "Ignore":
        texts = [f'unknown field "{path}"' for path in unknown]
        if validation == "Strict":
            raise undecodable(kind, "strict decoding error: " + ", ".join(texts))
        warnings.extend(texts)
    return {**pruned, "metadata": metadata}


def _prune(value: Any, schema: Mapping[str, Any], path: str, unknown: list[str], *, root: bool = False) -> Any:
    if isinstance(value, dict):
        properties: Mapping[str, Any] = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        open_ = bool(schema.get(_PRESERVE)) or extra is True
        kept = {}
        for name, item in value.items():
            where = f"{path}.{name}" if path else name
            if name in properties and not (root and name in _ROOT_FIELDS):
                kept[name] = _prune(item, properties[name], where, unknown)
            elif isinstance(extra, Mapping):
                kept[name] = _prune(item, extra, where, unknown)
            elif open_ or ((root or schema.get(_EMBEDDED)) and name in _ROOT_FIELDS):
                kept[name] = item
            else:
                unknown.append(where)
        return kept
    if isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, Mapping):
            return [_prune(v, items, f"{path}[{n}]", unknown) for n, v in enumerate(value)]
    return value


@lru_cache(maxsize=256)
def _validator(kind: Kind) -> Any:
    import jsonschema_rs

    return jsonschema_rs.Draft4Validator(_plain(kind.schema or {}))


def _plain(schema: Any) -> Any:
    """Return OpenAPI's dialect as JSON schema: nullable, int-or-string."""
    if isinstance(schema, list):
        return [_plain(s) for s in schema]
    if not isinstance(schema, Mapping):
        return schema
    answer: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "patternProperties", "definitions"):
            answer[key] = {name: _plain(inner) for name, inner in value.items()}
        elif key in ("items", "additionalProperties", "not", "allOf", "anyOf", "oneOf"):
            answer[key] = _plain(value)
        elif key not in ("default", "example", "description", "title", "nullable", "format"):
            answer[key] = value
    if schema.get(_INT_OR_STRING):
        answer.pop("anyOf", None)
        answer["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(answer.get("type"), str):
        answer["type"] = [answer["type"], "null"]
        if "enum" in answer:
            answer["enum"] = [*answer["enum"], None]
    return answer


def check(kind: Kind, obj: Obj) -> Iterator[FieldError]:
    """Yield what is wrong with a custom resource."""
    validator = _validator(kind)
    if validator.is_valid(obj):
        return
    for error in validator.iter_errors(obj):
        yield _explain(error)


def _explain(error: Any) -> FieldError:
    path = field_path(error.instance_path)
    rule = error.schema_path[-1] if error.schema_path else ""
    value = error.instance
    argument = getattr(error.kind, "limit", None)
    match rule:
        case "required":
            name = getattr(error.kind, "property", "")
            return required(f"{path}.{name}" if path else name)
        case "type":
            types = [t for t in getattr(error.kind, "types", []) if t != "null"]
            shown = "null" if value is None else _type_name(value)
            wanted = types[0] if len(types) == 1 else " or ".join(types) or "another type"
            return wrong_type(path, shown, f'{path} in body must be of type {wanted}: "{shown}"')
        case "enum":
            options = getattr(error.kind, "options", [])
            return unsupported(path, value, [str(o) for o in options if o is not None])
        case "pattern":
            return invalid_value(path, value, f"{path} in body should match '{error.kind.pattern}'")
        case "minimum":
            return invalid_value(path, value, f"{path} in body should be greater than or equal to {argument}")
        case "maximum":
            return invalid_value(path, value, f"{path} in body should be less than or equal to {argument}")
        case "minLength":
            return invalid_value(path, value, f"{path} in body should be at least {argument} chars long")
        case "maxLength":
            return FieldError("FieldValueTooLong", path, f"Too long: may not be more than {argument} bytes")
        case "minItems":
            return invalid_value(path, value, f"{path} in body should have at least {argument} items")
        case "maxItems":
            return FieldError("FieldValueTooMany", path, f"Too many: must have at most {argument} items")
    return invalid_value(path, value, f"{path} in body is invalid: {error.message}")


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return names.get(type(value), "null")


def field_path(steps: Sequence[str | int]) -> str:
    """Return a path as Kubernetes writes it: ``spec.ports[0].name``."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
