"""Request bodies: JSON, YAML or protobuf to an object, with duplicate fields found. Pure."""

from __future__ import annotations

import json
from typing import Any

import orjson

from podwire.apiserver.errors import ApiStatusError, bad_request, unsupported_media_type
from podwire.apiserver.negotiation import BODY_TYPES, JSON, PROTOBUF, YAML
from podwire.apiserver.values import FieldValidation
from podwire.model.objects import Obj


def decode(content_type: str, body: bytes) -> Obj:
    """Return the object of a body. Raises 400 (not an object, not well-formed) and 415."""
    media_type = content_type.partition(";")[0].strip().lower() or JSON
    if media_type == PROTOBUF or body.startswith(b"k8s\0"):
        from podwire.apiserver import protobuf

        try:
            return protobuf.decode(body)
        except ValueError as error:
            raise bad_request(f"cannot decode protobuf: {error}") from error
    if media_type == YAML:
        value = _yaml(body)
    elif media_type in (JSON, "application/x-www-form-urlencoded"):  # curl -d sends the latter
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
    else:
        raise unsupported_media_type(content_type, BODY_TYPES)
    if not isinstance(value, dict):
        raise bad_request("couldn't get version/kind; json parse error: the body is not an object")
    if not isinstance(value.get("metadata") or {}, dict):
        raise bad_request("json: cannot unmarshal metadata: it is not an object")
    return value


def _yaml(body: bytes) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(body, Loader=loader)
    except yaml.YAMLError as error:
        raise bad_request(f"error converting YAML to JSON: {error}") from error


def check_duplicates(body: bytes, validation: FieldValidation, warnings: list[str]) -> ApiStatusError | None:
    """Note fields that are there twice as warnings, or return the 400 when validation is Strict."""
    if validation == "Ignore" or not body.startswith(b"{"):
        return None
    found: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    found.append(name)
                seen.add(name)
        return made

    json.loads(body, object_pairs_hook=collect)
    texts = [f'duplicate field "{name}"' for name in found]
    if texts and validation == "Strict":
        return bad_request("strict decoding error: " + ", ".join(texts))
    warnings.extend(texts)
    return None
