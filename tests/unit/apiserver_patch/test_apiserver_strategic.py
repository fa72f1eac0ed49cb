"""Strategic merge patches on a pod-like shape: name, current, patch, result."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.apiserver import strategic
from podwire.apiserver.jsonpatch import PatchError
from podwire.apiserver.structure import Structure

_MERGE = {"x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name"}
_CONTAINER = {
    "properties": {
        "name": {"type": "string"},
        "args": {"type": "array", "items": {"type": "string"}},
        "env": {"type": "array", "items": {"properties": {"name": {}, "value": {}}}, **_MERGE},
    }
}
DEFINITIONS = {"Container": _CONTAINER}
SHAPE = Structure(
    {
        "properties": {
            "containers": {"type": "array", "items": {"$ref": "#/defs/Container"}, **_MERGE},
            "finalizers": {"type": "array", "x-kubernetes-patch-strategy": "merge"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "strategy": {
                "properties": {"type": {}, "rollingUpdate": {"type": "object"}},
                "x-kubernetes-patch-strategy": "retainKeys",
            },
        }
    },
    DEFINITIONS.get,
)

TWO = {"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}]}
CASES: list[tuple[str, Any, Any, Any]] = [
    (
        "merge by key, lists without strategy are replaced",
        TWO,
        {"containers": [{"name": "a", "image": "9", "args": ["y", "z"]}]},
        {"containers": [{"name": "a", "image": "9", "args": ["y", "z"]}, {"name": "b", "image": "2"}]},
    ),
    (
        "append a new element",
        TWO,
        {"containers": [{"name": "c", "gone": None}]},
        {"containers": [*TWO["containers"], {"name": "c"}]},
    ),
    (
        "delete one",
        TWO,
        {"containers": [{"$patch": "delete", "name": "a"}]},
        {"containers": [TWO["containers"][1]]},
    ),
    (
        "replace the list",
        TWO,
        {"containers": [{"name": "z"}, {"$patch": "replace"}]},
        {"containers": [{"name": "z"}]},
    ),
    (
        "order, with an element of the server's in its place",
        {"containers": [{"name": "a"}, {"name": "injected"}, {"name": "b"}]},
        {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
            "containers": [{"name": "c"}],
        },
        {"containers": [{"name": "c"}, {"name": "injected"}, {"name": "b"}, {"name": "a"}]},
    ),
    (
        "scalars merge as a set and leave by directive",
        {"finalizers": ["x", "y"]},
        {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["y", "z"]},
        {"finalizers": ["y", "z"]},
    ),
    ("null removes", {"labels": {"a": "1", "b": "2"}}, {"labels": {"a": None}}, {"labels": {"b": "2"}}),
    (
        "replace a map",
        {"labels": {"a": "1"}},
        {"labels": {"$patch": "replace", "c": "3"}},
        {"labels": {"c": "3"}},
    ),
    ("delete a map", {"labels": {"a": "1"}}, {"labels": {"$patch": "delete"}}, {"labels": {}}),
    (
        "retain keys of a union",
        {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}},
        {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
        {"strategy": {"type": "Recreate"}},
    ),
    (
        "nested merging lists",
        {"containers": [{"name": "a", "env": [{"name": "K", "value": "1"}, {"name": "L", "value": "2"}]}]},
        {"containers": [{"name": "a", "env": [{"name": "K", "value": "3"}]}]},
        {"containers": [{"name": "a", "env": [{"name": "K", "value": "3"}, {"name": "L", "value": "2"}]}]},
    ),
]


@pytest.mark.parametrize(("name", "current", "patch", "result"), CASES, ids=[c[0] for c in CASES])
def test_strategic(name: str, current: Any, patch: Any, result: Any) -> None:
    assert strategic.merge(current, patch, SHAPE) == result


REFUSED = [
    ("no key", {"containers": [{"image": "1"}]}),
    ("unknown directive", {"labels": {"$patch": "explode"}}),
    ("set but not retained", {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}),
    ("no object", ["a"]),
]


@pytest.mark.parametrize(("name", "patch"), REFUSED, ids=[c[0] for c in REFUSED])
def test_refused(name: str, patch: Any) -> None:
    with pytest.raises(PatchError):
        strategic.merge(TWO, patch, SHAPE)
