"""Protobuf request bodies (application/vnd.kubernetes.protobuf) to the JSON form.

Clients of Kubernetes 1.32 and later send their typed objects so. The envelope is ``k8s\\0`` and a
runtime.Unknown: TypeMeta (1: apiVersion, 2: kind) in field 1, the object in field 2, contentEncoding in 3,
contentType in 4. Which field number has which JSON name lies in ``protobuf_fields.json``, made by
``tools/protobuf_fields.py``; the result is what Go's JSON encoder would have written for the same object.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from podwire.model.objects import Obj
from podwire.wire.protobuf import BYTES, Value, fields, signed

MAGIC = b"k8s\0"
CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAX_DEPTH = 64
_TABLES = Path(__file__).with_name("protobuf_fields.json")


class Undecodable(ValueError):
    """The bytes are not a Kubernetes protobuf object of a known kind. Says why."""


class _Field(NamedTuple):
    name: str
    type: str
    repeated: bool
    map: bool
    inline: bool
    keeps_zero: bool  # a pointer in Go, or a field without omitempty: a zero was meant


def decode(content: bytes) -> Obj:
    """Return the object in the envelope, with apiVersion and kind. Raises Undecodable."""
    if not content.startswith(MAGIC):
        raise Undecodable("does not begin with the prefix k8s\\0")
    try:
        unknown = {number: value for number, _, value in fields(content[len(MAGIC) :])}
        type_meta = {n: _bytes(v).decode() for n, _, v in fields(_bytes(unknown.get(1, b"")))}
    except (ValueError, UnicodeDecodeError) as error:
        raise Undecodable(f"envelope: {error}") from error
    api_version, kind = type_meta.get(1, ""), type_meta.get(2, "")
    raw, content_type = _bytes(unknown.get(2, b"")), _bytes(unknown.get(4, b""))
    if unknown.get(3):
        raise Undecodable(f"content encoding {unknown[3]!r} is not supported")
    if content_type == b"application/json":
        return dict(orjson.loads(raw))
    message = message_of(api_version, kind)
    if message not in _tables():
        raise Undecodable(f"no protobuf form of {kind!r} in {api_version!r} is known")
    try:
        return {"apiVersion": api_version, "kind": kind, **_message(message, raw, 0)}
    except (ValueError, UnicodeDecodeError, struct.error, OverflowError) as error:
        raise Undecodable(f"{api_version} {kind}: {error}") from error


def message_of(api_version: str, kind: str) -> str:
    """Return the message that carries a kind: "apps.v1.Deployment". Options live in every group."""
    if kind in _META_KINDS:
        return f"meta.v1.{kind}"
    group, _, version = api_version.rpartition("/")
    return f"{group.partition('.')[0] or 'core'}.{version}.{kind}"


_META_KINDS = frozenset(
    {"DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions", "GetOptions", "ListOptions", "Status"}
)

_raw_tables: dict[str, str] = {}
_parsed: dict[str, dict[int, _Field]] = {}


def _tables() -> dict[str, str]:
    if not _raw_tables:
        _raw_tables.update(orjson.loads(_TABLES.read_bytes()))
    return _raw_tables


def _fields_of(message: str) -> dict[int, _Field]:
    known = _parsed.get(message)
    if known is None:
        known = {}
        for entry in _tables().get(message, "").split():
            number, flags, name, type = entry.split(":")
            known[int(number)] = _Field(
                name, type, "*" in flags, "%" in flags, "^" in flags, "!" in flags or "=" in flags
            )
        _parsed[message] = known
    return known


def _message(message: str, content: bytes, depth: int) -> Obj:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    known = _fields_of(message)
    result: Obj = {}
    for number, wire_type, raw in fields(content):
        field = known.get(number)
        if field is None:
            continue  # a newer client's field, dropped as Kubernetes drops it
        if field.map:
            key, value = _entry(field.type, _bytes(raw), depth)
            result.setdefault(field.name, {})[key] = value
        elif field.repeated:
            items = result.setdefault(field.name, [])
            if wire_type == BYTES and field.type in "itd":
                items.extend(_packed(field.type, _bytes(raw)))
            else:
                items.append(_value(field.type, raw, depth))
        elif field.inline:
            result.update(_value(field.type, raw, depth) or {})
        else:
            value = _value(field.type, raw, depth)
            if value is not None and (field.keeps_zero or value not in _ZEROS):
                result[field.name] = value
    return result


# 0 == False == 0.0, so one zero stands for all three.
_ZEROS: tuple[Any, ...] = (0, "", {}, [])


def _entry(type: str, content: bytes, depth: int) -> tuple[str, Any]:
    key, value = "", None
    for number, _, raw in fields(content):
        if number == 1:
            key = _bytes(raw).decode()
        elif number == 2:
            value = _value(type, raw, depth)
    if value is None:
        value = _value(type, 0 if type in "itd" else b"", depth)
    return key, value


def _packed(type: str, content: bytes) -> list[Any]:
    from podwire.wire.protobuf import read_varint

    found, at = [], 0
    while at < len(content):
        value, at = read_varint(content, at)
        found.append(_value(type, value, 0))
    return found


def _value(type: str, raw: Value, depth: int) -> Any:
    """Return the JSON value of one field; None for what JSON leaves out (a zero time, no content)."""
    match type:
        case "s":
            return _bytes(raw).decode()
        case "i":
            return signed(_int(raw))
        case "t":
            return bool(_int(raw))
        case "b":
            return b64encode(_bytes(raw)).decode()
        case "d":
            number: float = struct.unpack("<d", _int(raw).to_bytes(8, "little"))[0]
            return int(number) if number.is_integer() else number
    special = _SPECIAL.get(type)
    if special is not None:
        return special(_bytes(raw), depth)
    return _message(type, _bytes(raw), depth + 1)


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("expected bytes, found a number")
    return value


def _int(value: Value) -> int:
    if isinstance(value, bytes):
        raise ValueError("expected a number, found bytes")
    return value


def _scalars(content: bytes) -> dict[int, Value]:
    return {number: value for number, _, value in fields(content)}


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _time(content: bytes, _: int) -> str | None:
    parts = _scalars(content)
    if not parts:
        return None
    moment = _EPOCH + timedelta(seconds=signed(_int(parts.get(1, 0))))
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment.year > 1 else None


def _micro_time(content: bytes, _: int) -> str | None:
    parts = _scalars(content)
    if not parts:
        return None
    seconds, nanos = signed(_int(parts.get(1, 0))), signed(_int(parts.get(2, 0)))
    moment = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment.year > 1 else None


def _quantity(content: bytes, _: int) -> str:
    return _bytes(_scalars(content).get(1, b"0")).decode() or "0"


def _int_or_string(content: bytes, _: int) -> int | str:
    parts = _scalars(content)
    if parts.get(1):
        return _bytes(parts.get(3, b"")).decode()
    return signed(_int(parts.get(2, 0)))


def _json(content: bytes, _: int) -> Any:
    raw = _bytes(_scalars(content).get(1, b""))
    return orjson.loads(raw) if raw else None


def _strings(content: bytes, _: int) -> list[str]:
    return [_bytes(value).decode() for number, _, value in fields(content) if number == 1]


def _duration(content: bytes, _: int) -> str:
    return f"{signed(_int(_scalars(content).get(1, 0))) / 1e9:g}s"


def _schema_or(message: str, other: str) -> Callable[[bytes, int], Any]:
    """Return the decoder of a union of a schema and something else, which JSON shows bare."""

    def decode_union(content: bytes, depth: int) -> Any:
        parts = _message(message, content, depth + 1)
        return parts["schema"] if "schema" in parts else parts.get(other)

    return decode_union


_APIEXTENSIONS = "apiextensions.v1"
_SPECIAL: dict[str, Callable[[bytes, int], Any]] = {
    "meta.v1.Time": _time,
    "meta.v1.MicroTime": _micro_time,
    "meta.v1.Duration": _duration,
    "meta.v1.FieldsV1": _json,
    "meta.v1.Verbs": _strings,
    "resource.Quantity": _quantity,
    "intstr.IntOrString": _int_or_string,
    "runtime.RawExtension": _json,
    "authentication.v1.ExtraValue": _strings,
    "authorization.v1.ExtraValue": _strings,
    "certificates.v1.ExtraValue": _strings,
    f"{_APIEXTENSIONS}.JSON": _json,
    f"{_APIEXTENSIONS}.JSONSchemaPropsOrArray": _schema_or(f"{_APIEXTENSIONS}.JSONSchemaPropsOrArray", "schemas"),
    f"{_APIEXTENSIONS}.JSONSchemaPropsOrBool": _schema_or(f"{_APIEXTENSIONS}.JSONSchemaPropsOrBool", "allows"),
    f"{_APIEXTENSIONS}.JSONSchemaPropsOrStringArray": _schema_or(
        f"{_APIEXTENSIONS}.JSONSchemaPropsOrStringArray", "strings"
    ),
}
