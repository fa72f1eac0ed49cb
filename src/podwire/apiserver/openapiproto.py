"""The Swagger document as a protobuf message, which is how kubectl before 1.29 reads it. Pure.

``kubectl apply``, ``create -f``, ``explain``, ``diff`` and ``edit`` of those versions ask for /openapi/v2 as
the message ``openapi.v2.Document`` of gnostic and understand nothing else. Each table below is one message: under
the document's key, the field's number (OpenAPIv2.proto) and how its value is written. What no table names is
left out, except vendor extensions, which every message keeps as YAML text; JSON is YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from podwire.model.objects import Obj
from podwire.wire.protobuf import write_double, write_field

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
OLD_MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
"""What kubectl asks for; ``@`` is no character of media types, so answers are called by the other name."""

_Write = Callable[[int, Any], bytes]
_Table = Mapping[str, tuple[int, _Write]]


def encode(document: Obj) -> bytes:
    """Return a Swagger 2.0 document as a Document message."""
    return _message(document, _DOCUMENT, extensions=16)


def _message(value: Mapping[str, Any], table: _Table, *, extensions: int) -> bytes:
    """Return the fields of a message, in the order of the document."""
    pieces = []
    for key, inner in value.items():
        known = table.get(key)
        if known is not None:
            pieces.append(known[1](known[0], inner))
        elif key.startswith("x-"):
            pieces.append(_named(extensions, key, _any(2, inner)))
    return b"".join(pieces)


def _named(number: int, name: str, value: bytes) -> bytes:
    """Return an entry of a map: a message with the name in field 1 and, written already, the value in field 2."""
    return write_field(number, write_field(1, name.encode()) + value)


def _text(number: int, value: str) -> bytes:
    return write_field(number, value.encode())


def _texts(number: int, values: Iterable[str]) -> bytes:
    return b"".join(_text(number, v) for v in values)


def _whole(number: int, value: int) -> bytes:
    return write_field(number, int(value))


def _any(number: int, value: object) -> bytes:
    return write_field(number, _text(2, orjson.dumps(value).decode()))


def _anys(number: int, values: Iterable[object]) -> bytes:
    return b"".join(_any(number, v) for v in values)


def _schema(number: int, value: Mapping[str, Any]) -> bytes:
    return write_field(number, _message(value, _SCHEMA, extensions=31))


def _schemas(number: int, values: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(_schema(number, v) for v in values)


def _schemas_by_name(number: int, values: Mapping[str, Mapping[str, Any]]) -> bytes:
    return write_field(number, b"".join(_named(1, name, _schema(2, v)) for name, v in values.items()))


def _additional(number: int, value: bool | Mapping[str, Any]) -> bytes:
    return write_field(number, _whole(2, value) if isinstance(value, bool) else _schema(1, value))


def _types(number: int, value: str | list[str]) -> bytes:
    return write_field(number, _texts(1, [value] if isinstance(value, str) else value))


def _items(number: int, value: Mapping[str, Any] | list[Mapping[str, Any]]) -> bytes:
    return write_field(number, _schemas(1, value if isinstance(value, list) else [value]))


_SCHEMA: _Table = {
    "$ref": (1, _text),
    "format": (2, _text),
    "title": (3, _text),
    "description": (4, _text),
    "default": (5, _any),
    "multipleOf": (6, write_double),
    "maximum": (7, write_double),
    "exclusiveMaximum": (8, _whole),
    "minimum": (9, write_double),
    "exclusiveMinimum": (10, _whole),
    "maxLength": (11, _whole),
    "minLength": (12, _whole),
    "pattern": (13, _text),
    "maxItems": (14, _whole),
    "minItems": (15, _whole),
    "uniqueItems": (16, _whole),
    "maxProperties": (17, _whole),
    "minProperties": (18, _whole),
    "required": (19, _texts),
    "enum": (20, _anys),
    "additionalProperties": (21, _additional),
    "type": (22, _types),
    "items": (23, _items),
    "allOf": (24, _schemas),
    "properties": (25, _schemas_by_name),
    "discriminator": (26, _text),
    "readOnly": (27, _whole),
    "example": (30, _any),
}


_BODY: _Table = {
    "description": (1, _text),
    "name": (2, _text),
    "in": (3, _text),
    "required": (4, _whole),
    "schema": (5, _schema),
}
_NAMED_PARAMETER: _Table = {"required": (1, _whole), "in": (2, _text), "description": (3, _text), "name": (4, _text)}
_QUERY: _Table = {**_NAMED_PARAMETER, "allowEmptyValue": (5, _whole), "type": (6, _text), "format": (7, _text)}
_PATH: _Table = {**_NAMED_PARAMETER, "type": (5, _text), "format": (6, _text)}


def _parameters(number: int, values: Iterable[Mapping[str, Any]]) -> bytes:
    """Return ParametersItem messages: each holds a Parameter, which holds one of the kinds of parameters."""
    return b"".join(write_field(number, write_field(1, _parameter(v))) for v in values)


def _parameter(value: Mapping[str, Any]) -> bytes:
    if value["in"] == "body":
        return write_field(1, _message(value, _BODY, extensions=6))
    if value["in"] == "query":
        kind = write_field(3, _message(value, _QUERY, extensions=23))
    else:
        kind = write_field(4, _message(value, _PATH, extensions=22))
    return write_field(2, kind)


_RESPONSE: _Table = {
    "description": (1, _text),
    "schema": (2, lambda number, value: write_field(number, _schema(1, value))),
}


def _responses(number: int, values: Mapping[str, Mapping[str, Any]]) -> bytes:
    made = (
        _named(1, code, write_field(2, write_field(1, _message(value, _RESPONSE, extensions=5))))
        for code, value in values.items()
    )
    return write_field(number, b"".join(made))


_OPERATION: _Table = {
    "tags": (1, _texts),
    "summary": (2, _text),
    "description": (3, _text),
    "operationId": (5, _text),
    "produces": (6, _texts),
    "consumes": (7, _texts),
    "parameters": (8, _parameters),
    "responses": (9, _responses),
    "schemes": (10, _texts),
    "deprecated": (11, _whole),
}


def _operation(number: int, value: Mapping[str, Any]) -> bytes:
    return write_field(number, _message(value, _OPERATION, extensions=13))


_PATH_ITEM: _Table = {
    "get": (2, _operation),
    "put": (3, _operation),
    "post": (4, _operation),
    "delete": (5, _operation),
    "options": (6, _operation),
    "head": (7, _operation),
    "patch": (8, _operation),
    "parameters": (9, _parameters),
}


def _paths(number: int, values: Mapping[str, Mapping[str, Any]]) -> bytes:
    made = (_named(2, path, write_field(2, _message(item, _PATH_ITEM, extensions=10))) for path, item in values.items())
    return write_field(number, b"".join(made))


_INFO: _Table = {"title": (1, _text), "version": (2, _text), "description": (3, _text), "termsOfService": (4, _text)}
_DOCUMENT: _Table = {
    "swagger": (1, _text),
    "info": (2, lambda number, value: write_field(number, _message(value, _INFO, extensions=7))),
    "host": (3, _text),
    "basePath": (4, _text),
    "schemes": (5, _texts),
    "consumes": (6, _texts),
    "produces": (7, _texts),
    "paths": (8, _paths),
    "definitions": (9, _schemas_by_name),
}
