"""RFC 6902's own appendix, RFC 7386's own table, and what Kubernetes users rely on."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.apiserver import jsonpatch
from podwire.apiserver.jsonpatch import PatchError

# name, document, operations, result
RFC6902 = [
    ("A.1 add a member", {"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}],
     {"baz": "qux", "foo": "bar"}),
    ("A.2 add an element", {"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}],
     {"foo": ["bar", "qux", "baz"]}),
    ("A.3 remove a member", {"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ("A.4 remove an element", {"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}],
     {"foo": ["bar", "baz"]}),
    ("A.5 replace", {"baz": "qux", "foo": "bar"}, [{"op": "replace", "path": "/baz", "value": "boo"}],
     {"baz": "boo", "foo": "bar"}),
    ("A.6 move", {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
     [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
     {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
    ("A.7 move an element", {"foo": ["all", "grass", "cows", "eat"]},
     [{"op": "move", "from": "/foo/1", "path": "/foo/3"}], {"foo": ["all", "cows", "eat", "grass"]}),
    ("A.8 test", {"baz": "qux", "foo": ["a", 2, "c"]},
     [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}],
     {"baz": "qux", "foo": ["a", 2, "c"]}),
    ("A.10 add nested", {"foo": "bar"}, [{"op": "add", "path": "/child", "value": {"grandchild": {}}}],
     {"foo": "bar", "child": {"grandchild": {}}}),
    ("A.14 escapes", {"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    ("A.16 append", {"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}],
     {"foo": ["bar", ["abc", "def"]]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "document", "operations", "result"), RFC6902, ids=[c[0] for c in RFC6902])
def test_rfc6902(name: str, document: Any, operations: Any, result: Any) -> None:
    assert jsonpatch.apply(document, operations) == result


# name, operations on {"a": [1], "s": "x"}, whether the patch itself is malformed
REFUSED = [
    ("A.9 test differs", [{"op": "test", "path": "/s", "value": "y"}], False),
    ("A.12 below nothing", [{"op": "add", "path": "/baz/bat", "value": 1}], False),
    ("A.15 number is no string", [{"op": "test", "path": "/a/0", "value": "1"}], False),
    ("true is not 1", [{"op": "test", "path": "/a/0", "value": True}], False),
    ("remove nothing", [{"op": "remove", "path": "/b"}], False),
    ("replace nothing", [{"op": "replace", "path": "/b", "value": 1}], False),
    ("out of bounds", [{"op": "add", "path": "/a/2", "value": 1}], False),
    ("leading zero", [{"op": "remove", "path": "/a/00"}], False),
    ("below a scalar", [{"op": "add", "path": "/s/t", "value": 1}], False),
    ("move into itself", [{"op": "move", "from": "/a", "path": "/a/b"}], False),
    ("unknown op", [{"op": "spoil", "path": "/a"}], True),
    ("no value", [{"op": "add", "path": "/a"}], True),
    ("no path", [{"op": "remove"}], True),
    ("no list", {"op": "remove", "path": "/a"}, True),
    ("no slash", [{"op": "remove", "path": "a"}], True),
]


@pytest.mark.parametrize(("name", "operations", "malformed"), REFUSED, ids=[c[0] for c in REFUSED])
def test_refused(name: str, operations: Any, malformed: bool) -> None:
    document = {"a": [1], "s": "x"}
    with pytest.raises(PatchError) as error:
        jsonpatch.apply(document, operations)
    assert error.value.malformed is malformed
    assert document == {"a": [1], "s": "x"}


RFC7386 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "result"), RFC7386)
def test_rfc7386(target: Any, patch: Any, result: Any) -> None:
    assert jsonpatch.merge(target, patch) == result
