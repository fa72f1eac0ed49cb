"""The Swagger document in protobuf, read back by a decoder of the test's own and held to the JSON one."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.apiserver import builtin_kinds, openapiproto
from podwire.apiserver.crds import kinds_of
from podwire.apiserver.errors import ApiStatusError
from podwire.apiserver.kinds import Registry
from podwire.apiserver.openapi import Documents

JSON, NEW = "application/json", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
OLD = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
DEPLOYMENT = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}"


def wire(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, int, float or bytes)."""
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = content[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(content):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        elif tag & 7 == 1:
            yield tag >> 3, struct.unpack_from("<d", content, at)[0]
            at += 8
        else:
            assert tag & 7 == 2
            size = varint()
            assert at + size <= len(content)
            yield tag >> 3, content[at : at + size]
            at += size


def every(content: bytes, number: int) -> list[Any]:
    return [value for n, value in wire(content) if n == number]


def one(content: bytes, *path: int) -> Any:
    for number in path:
        (content,) = every(content, number)
    return content


def named(content: bytes, number: int) -> dict[str, bytes]:
    """Return a map of messages: name in field 1, value in field 2."""
    return {one(entry, 1).decode(): one(entry, 2) for entry in every(content, number)}


def anything(content: bytes) -> Any:
    return json.loads(one(content, 2))


def extensions(content: bytes, number: int) -> dict[str, Any]:
    return {name: anything(value) for name, value in named(content, number).items()}


TEXTS = {1: "$ref", 2: "format", 3: "title", 4: "description", 13: "pattern"}
NUMBERS = {
    6: "multipleOf", 7: "maximum", 9: "minimum", 11: "maxLength", 12: "minLength", 14: "maxItems", 15: "minItems",
    17: "maxProperties", 18: "minProperties",
}  # fmt: skip
FLAGS = {8: "exclusiveMaximum", 10: "exclusiveMinimum", 16: "uniqueItems", 27: "readOnly"}


def schema(content: bytes) -> dict[str, Any]:
    """Return the JSON of a Schema message."""
    found: dict[str, Any] = extensions(content, 31)
    for number, value in wire(content):
        if number in TEXTS:
            found[TEXTS[number]] = value.decode()
        elif number in NUMBERS:
            found[NUMBERS[number]] = value
        elif number in FLAGS:
            found[FLAGS[number]] = bool(value)
        elif number == 5:
            found["default"] = anything(value)
        elif number == 19:
            found.setdefault("required", []).append(value.decode())
        elif number == 20:
            found.setdefault("enum", []).append(anything(value))
        elif number == 21:
            inner = every(value, 1)
            found["additionalProperties"] = schema(inner[0]) if inner else bool(one(value, 2))
        elif number == 22:
            found["type"] = one(value, 1).decode()
        elif number == 23:
            found["items"] = schema(one(value, 1))
        elif number == 25:
            found["properties"] = {name: schema(v) for name, v in named(value, 1).items()}
        else:
            assert number == 31, number
    return found


@pytest.fixture(scope="module")
def documents() -> Documents:
    return Documents(Registry(builtin_kinds.kinds()))


def test_every_definition_is_as_in_json(documents: Documents) -> None:
    plain = json.loads(documents.v2().body)
    message = documents.v2(OLD).body
    read = {name: schema(value) for name, value in named(one(message, 9), 1).items()}
    assert read == plain["definitions"]
    assert len(read) > 400


def test_head_of_the_document(documents: Documents) -> None:
    message = documents.v2(NEW).body
    assert one(message, 1) == b"2.0"
    assert (one(message, 2, 1), one(message, 2, 2)[:3]) == (b"Kubernetes", b"v1.")


def test_what_kubectl_looks_for_in_a_patch(documents: Documents) -> None:
    item = named(one(documents.v2(OLD).body, 8), 2)[DEPLOYMENT]
    patch = one(item, 8)
    group_version_kind = extensions(patch, 13)["x-kubernetes-group-version-kind"]
    assert group_version_kind == {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert b"application/apply-patch+yaml" in every(patch, 7)
    parameters = [one(p, 1) for p in every(patch, 8)]
    queries = [one(p, 2, 3) for p in parameters if every(p, 2)]
    assert {b"dryRun", b"fieldManager", b"fieldValidation", b"force"} == {one(q, 4) for q in queries}
    (body,) = (one(p, 1) for p in parameters if every(p, 1))
    assert schema(one(body, 5)) == {"$ref": "#/definitions/io.k8s.api.apps.v1.Deployment"}
    assert [one(one(p, 1), 2, 4, 4) for p in every(item, 9)] == [b"name", b"namespace"]
    answer = named(one(patch, 9), 1)["200"]
    assert schema(one(answer, 1, 2, 1)) == {"$ref": "#/definitions/io.k8s.api.apps.v1.Deployment"}


# name, Accept, media type of the answer or None for 406
ACCEPTED = [
    ("nothing said", "", JSON),
    ("anything", "*/*", JSON),
    ("kubectl get --raw", "application/json, */*", JSON),
    ("kubectl 1.20 to 1.28", OLD, NEW),
    ("the later name", NEW, NEW),
    ("weights decide", f"application/json;q=0.5, {NEW}", NEW),
    ("a bad weight is none", f"{NEW};q=x, application/json;q=0.1", JSON),
    ("neither", "text/html", None),
]


@pytest.mark.parametrize(("name", "accept", "media_type"), ACCEPTED, ids=[row[0] for row in ACCEPTED])
def test_negotiation(documents: Documents, name: str, accept: str, media_type: str | None) -> None:
    if media_type is None:
        with pytest.raises(ApiStatusError) as refused:
            documents.v2(accept)
        assert refused.value.code == 406
        return
    assert documents.v2(accept).media_type == media_type


def test_kept_until_the_kinds_change() -> None:
    registry = Registry(builtin_kinds.kinds())
    documents = Documents(registry)
    before = documents.v2(OLD)
    assert documents.v2(NEW) is before
    assert documents.v2(JSON).tag != before.tag
    for kind in kinds_of(_crd({"type": "object", "properties": {"spec": {"type": "object"}}})):
        registry.add(kind)
    after = documents.v2(OLD)
    assert after.tag != before.tag
    names = named(one(after.body, 9), 1)
    assert "com.example.toys.v1.Robot" in names


# name, the CRD's schema of spec, what the document says of it
CUSTOM: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("plain", {"type": "string", "pattern": "a.*"}, {"type": "string", "pattern": "a.*"}),
    ("null is allowed", {"type": "object", "nullable": True, "properties": {"a": {"type": "string"}}}, {}),
    (
        "integer or string",
        {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"x-kubernetes-int-or-string": True},
    ),
    (
        "unknown fields stay",
        {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"a": {"type": "string"}}},
        {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    ),
    ("a list of nothing known", {"type": "array"}, {}),
    (
        "deep inside",
        {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "array"}}},
        {"type": "array", "items": {"type": "object", "additionalProperties": {}}},
    ),
    ("bounds", {"type": "number", "maximum": 1.5, "minimum": -2}, {"type": "number", "maximum": 1.5, "minimum": -2.0}),
]


@pytest.mark.parametrize(("name", "spec", "said"), CUSTOM, ids=[row[0] for row in CUSTOM])
def test_custom_resources(name: str, spec: dict[str, Any], said: dict[str, Any]) -> None:
    document = Documents(Registry(kinds_of(_crd({"type": "object", "properties": {"spec": spec}})))).v2(OLD)
    robot = schema(named(one(document.body, 9), 1)["com.example.toys.v1.Robot"])
    assert robot["properties"]["spec"] == said
    assert robot["properties"]["metadata"]["$ref"].endswith("ObjectMeta")


def test_no_strategic_merge_patch_for_custom_resources() -> None:
    documents = Documents(Registry(kinds_of(_crd({"type": "object"}))))
    path = "/apis/toys.example.com/v1/namespaces/{namespace}/robots/{name}"
    takes = ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"]
    assert json.loads(documents.v2().body)["paths"][path]["patch"]["consumes"] == takes
    v3 = documents.v3("apis/toys.example.com/v1")
    assert v3 is not None
    assert list(json.loads(v3.body)["paths"][path]["patch"]["requestBody"]["content"]) == takes


def test_a_custom_resource_that_takes_anything_says_nothing() -> None:
    anything_goes = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    document = Documents(Registry(kinds_of(_crd(anything_goes)))).v2(OLD)
    robot = schema(named(one(document.body, 9), 1)["com.example.toys.v1.Robot"])
    kind = {"group": "toys.example.com", "version": "v1", "kind": "Robot"}
    assert robot == {"type": "object", "x-kubernetes-group-version-kind": [kind]}


def _crd(of: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": "robots.toys.example.com"},
        "spec": {
            "group": "toys.example.com",
            "scope": "Namespaced",
            "names": {"plural": "robots", "kind": "Robot"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": of}}],
        },
    }


def _schemas() -> st.SearchStrategy[dict[str, Any]]:
    leaves: dict[str, st.SearchStrategy[Any]] = {
        "description": st.text(),
        "type": st.sampled_from(("string", "object", "integer")),
        "enum": st.lists(st.text() | st.integers(-9, 9) | st.booleans(), min_size=1),
        "required": st.lists(st.text(), min_size=1),
        "maximum": st.floats(allow_nan=False),
        "maxLength": st.integers(0, 2**63 - 1),
        "uniqueItems": st.booleans(),
        "default": st.none() | st.dictionaries(st.text(), st.integers(-9, 9)),
        "x-a": st.lists(st.text()),
        "additionalProperties": st.booleans(),
    }
    return st.recursive(
        st.fixed_dictionaries({}, optional=leaves),
        lambda inner: st.fixed_dictionaries(
            {},
            optional={"items": inner, "properties": st.dictionaries(st.text(), inner), "additionalProperties": inner},
        ),
        max_leaves=6,
    )


@given(_schemas())
def test_any_schema_comes_back(given_schema: dict[str, Any]) -> None:
    message = openapiproto.encode({"definitions": {"X": given_schema}})
    assert schema(named(one(message, 9), 1)["X"]) == given_schema
