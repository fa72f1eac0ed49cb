"""Protobuf bodies: what kubectl 1.33 really sent, what must be refused, and Go's JSON conventions."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.apiserver import protobuf
from podwire.apiserver.protobuf import MAGIC, Undecodable, decode
from podwire.wire.protobuf import fields, read_varint, signed, write_field, write_varint

CAPTURED = json.loads(Path(__file__).with_name("captured.json").read_text())


@pytest.mark.parametrize("case", CAPTURED, ids=[c["command"] for c in CAPTURED])
def test_what_kubectl_sends(case: Any) -> None:
    assert decode(base64.b64decode(case["sent"])) == case["object"]


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    meta = write_field(1, api_version.encode()) + write_field(2, kind.encode())
    return MAGIC + write_field(1, meta) + write_field(2, raw)


def message(*pairs: tuple[int, Any]) -> bytes:
    return b"".join(write_field(n, v.encode() if isinstance(v, str) else v) for n, v in pairs)


# name, apiVersion, kind, bytes, the rest of the object
CASES: list[tuple[str, str, str, bytes, dict[str, Any]]] = [
    ("zero of a pointer stays", "apps/v1", "Deployment", message((2, message((1, 0)))), {"spec": {"replicas": 0}}),
    ("zero of a plain field goes", "apps/v1", "Deployment", message((2, message((5, 0)))), {}),
    (
        "inlined structs",
        "v1",
        "Pod",
        message((2, message((1, message((1, "v"), (2, message((2, b"")))))))),
        {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}},
    ),
    (
        "quantities in maps",
        "v1",
        "ResourceQuota",
        message((2, message((1, message((1, "cpu"), (2, message((1, "500m")))))))),
        {"spec": {"hard": {"cpu": "500m"}}},
    ),
    (
        "times",
        "v1",
        "Pod",
        message((1, message((8, message((1, 1767225600), (2, 0))), (9, b"")))),
        {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}},
    ),
    (
        "micro times",
        "coordination.k8s.io/v1",
        "Lease",
        message((2, message((1, "me"), (3, message((1, 1767225600), (2, 1500)))))),
        {"spec": {"holderIdentity": "me", "acquireTime": "2026-01-01T00:00:00.000001Z"}},
    ),
    (
        "options are known in every group",
        "apps/v1",
        "DeleteOptions",
        message((1, 0), (4, "Foreground")),
        {"gracePeriodSeconds": 0, "propagationPolicy": "Foreground"},
    ),
    ("negative numbers", "scheduling.k8s.io/v1", "PriorityClass", message((2, -10)), {"value": -10}),
    ("unknown fields are dropped", "v1", "Namespace", message((99, "x")), {}),
    (
        "bytes",
        "v1",
        "Secret",
        message((2, message((1, "k"), (2, b"\x00\xff")))),
        {"data": {"k": "AP8="}},
    ),
]


@pytest.mark.parametrize(("name", "api_version", "kind", "raw", "rest"), CASES, ids=[c[0] for c in CASES])
def test_conventions(name: str, api_version: str, kind: str, raw: bytes, rest: Any) -> None:
    assert decode(envelope(api_version, kind, raw)) == {"apiVersion": api_version, "kind": kind, **rest}


def test_a_custom_resource_definitions_schema() -> None:
    union = message((1, 0), (2, message((5, "string"))))
    schema = message((5, "object"), (29, message((1, "spec"), (2, message((30, union), (11, b""))))))
    assert protobuf._message("apiextensions.v1.JSONSchemaProps", message((5, "object"), (30, union)), 0) == {
        "type": "object",
        "additionalProperties": {"type": "string"},
    }
    with pytest.raises(ValueError):
        protobuf._message("apiextensions.v1.JSONSchemaProps", schema, 0)  # maximum is a number, not bytes


REFUSED = [
    ("no prefix", b"{}"),
    ("truncated", base64.b64decode(CAPTURED[0]["sent"])[:-3]),
    ("unknown kind", envelope("v1", "Nonsense", b"")),
    ("wrong type", envelope("v1", "Pod", message((1, 7)))),
    ("not UTF-8", envelope("v1", "Namespace", message((1, message((1, b"\xff")))))),
    ("encoded", envelope("v1", "Pod", b"") + write_field(3, b"gzip")),
]


@pytest.mark.parametrize(("name", "content"), REFUSED, ids=[c[0] for c in REFUSED])
def test_refused(name: str, content: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(content)


def test_nesting_is_bounded() -> None:
    content = b""
    for _ in range(500):
        content = write_field(28, content)  # JSONSchemaProps.not
    with pytest.raises(ValueError, match="deeply"):
        protobuf._message("apiextensions.v1.JSONSchemaProps", content, 0)


def test_every_table_is_well_formed() -> None:
    tables = protobuf._tables()
    known = set(tables) | set(protobuf._SPECIAL) | set("sbitd")
    for name in tables:
        for field in protobuf._fields_of(name).values():
            assert field.type in known, (name, field)


@given(st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1))
def test_varints_round_trip(value: int) -> None:
    content = write_varint(value)
    raw, end = read_varint(content, 0)
    assert (signed(raw), end) == (value, len(content))


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.binary(max_size=40))))
def test_fields_round_trip(pairs: list[tuple[int, bytes]]) -> None:
    content = b"".join(write_field(n, v) for n, v in pairs)
    assert [(n, v) for n, _, v in fields(content)] == pairs


@given(st.binary(max_size=200))
def test_garbage_is_refused_not_crashed_on(content: bytes) -> None:
    try:
        decode(envelope("v1", "Pod", content))
    except Undecodable:
        pass
