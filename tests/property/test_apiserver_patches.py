"""Patches, for any objects: what a patch says comes about, and nothing else does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from podwire.apiserver import fieldsets, jsonpatch, strategic
from podwire.apiserver.builtin_kinds import kinds
from podwire.apiserver.managedfields import structure_of, track_update
from podwire.apiserver.patch import APPLY, apply_patch

KINDS = {k.kind: k for k in kinds() if k.version == "v1"}
POD, CONFIGMAP = KINDS["Pod"], KINDS["ConfigMap"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)

NAMES = st.sampled_from("abcd")
SCALARS = st.one_of(st.integers(0, 3), st.booleans(), NAMES)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)


def merge_diff(a: Any, b: Any) -> Any:
    """Return a merge patch that turns ``a`` into ``b``."""
    patch: dict[str, Any] = {k: None for k in a if k not in b}
    for k, v in b.items():
        old = a.get(k)
        if isinstance(v, dict) and isinstance(old, dict):
            patch[k] = merge_diff(old, v)
        elif k not in a or not jsonpatch._equal(old, v):
            patch[k] = v
    return patch


@given(OBJECTS, OBJECTS)
def test_merge_patches_lead_from_a_to_b(a: Any, b: Any) -> None:
    assert jsonpatch._equal(jsonpatch.merge(a, merge_diff(a, b)), b)


def json_diff(a: Any, b: Any, path: str = "") -> list[dict[str, Any]]:
    """Return JSON patch operations that turn ``a`` into ``b``."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = [{"op": "remove", "path": f"{path}/{k}"} for k in a if k not in b]
        for k, v in b.items():
            here = f"{path}/{k}"
            found += json_diff(a[k], v, here) if k in a else [{"op": "add", "path": here, "value": v}]
        return found
    return [] if jsonpatch._equal(a, b) else [{"op": "replace", "path": path, "value": b}]


@given(OBJECTS, OBJECTS)
def test_json_patches_lead_from_a_to_b(a: Any, b: Any) -> None:
    before = orjson.dumps(a)
    assert jsonpatch._equal(jsonpatch.apply(a, json_diff(a, b)), b)
    assert orjson.dumps(a) == before


IMAGES = st.sampled_from(["1", "2", "3"])
ENV = st.dictionaries(NAMES, IMAGES, max_size=3).map(lambda d: [{"name": k, "value": v} for k, v in d.items()])
CONTAINERS = st.dictionaries(NAMES, st.tuples(IMAGES, ENV), max_size=4).map(
    lambda d: [{"name": k, "image": i, "env": e} for k, (i, e) in d.items()]
)


def list_diff(a: list[Any], b: list[Any]) -> list[Any]:
    """Return the strategic patch of a list with the merge key "name"."""
    old = {i["name"]: i for i in a}
    patch: list[Any] = [{"$patch": "delete", "name": n} for n in old if n not in {i["name"] for i in b}]
    for item in b:
        before = old.get(item["name"])
        if before is None:
            patch.append(item)
        elif before != item:
            change = {k: v for k, v in item.items() if k != "env" and before.get(k) != v}
            if "env" in item and item["env"] != before["env"]:
                change["env"] = list_diff(before["env"], item["env"])
                change["$setElementOrder/env"] = [{"name": e["name"]} for e in item["env"]]
            patch.append({"name": item["name"], **change})
    return patch


@given(CONTAINERS, CONTAINERS)
def test_strategic_patches_lead_from_a_to_b(a: Any, b: Any) -> None:
    order = [{"name": c["name"]} for c in b]
    patch = {"spec": {"containers": list_diff(a, b), "$setElementOrder/containers": order}}
    result = strategic.merge({"spec": {"containers": a}}, patch, structure_of(POD))
    assert result["spec"]["containers"] == b


def apply(live: Any, containers: Any, manager: str, *, force: bool = False, minutes: int = 0) -> Any:
    body = orjson.dumps({"metadata": {"name": "x"}, "spec": {"containers": containers}})
    at = NOW + timedelta(minutes=minutes)
    return apply_patch(POD, live, APPLY, body, field_manager=manager, force=force, now=at)


def by_name(items: list[Any]) -> dict[str, Any]:
    return {c["name"]: {**c, "env": {e["name"]: e for e in c.get("env", ())}} for c in items}


@given(CONTAINERS, CONTAINERS)
def test_the_last_applied_of_a_lone_manager_is_what_is_there(a: Any, b: Any) -> None:
    made = apply(apply(None, a, "alice"), b, "alice")
    assert by_name(made["spec"].get("containers", [])) == by_name(b)
    assert apply(made, b, "alice", minutes=5) == made


@given(CONTAINERS, CONTAINERS, CONTAINERS)
def test_a_forced_apply_wins_and_others_keep_the_rest(a: Any, b: Any, c: Any) -> None:
    made = apply(apply(None, a, "alice"), b, "bob", force=True)
    found, said = by_name(made["spec"].get("containers", [])), by_name(b)
    for name, container in said.items():
        assert found[name]["image"] == container["image"]
    assert set(found) == set(said) | {i["name"] for i in a}
    # Once bob applies nothing, only what alice still owns is there.
    made = apply(made, [], "bob")
    assert set(by_name(made["spec"].get("containers", []))) == {i["name"] for i in a}


@given(st.dictionaries(NAMES, IMAGES, max_size=4), st.dictionaries(NAMES, IMAGES, max_size=4))
def test_after_an_update_each_field_has_exactly_one_owner(a: Any, b: Any) -> None:
    old: Any = {"metadata": {"name": "x"}, "data": a}
    track_update(CONFIGMAP, None, old, "alice", "Update", "v1", "", NOW)
    new: Any = {"metadata": {"name": "x"}, "data": b}
    track_update(CONFIGMAP, old, new, "bob", "Update", "v1", "", NOW)
    owned = [p for m in new["metadata"].get("managedFields", ()) for p in fieldsets.paths(m["fieldsV1"])]
    assert sorted(p for p in owned if p != ".data") == sorted(f".data.{k}" for k in b)


STEPS = st.sampled_from(["f:a", "f:b", "f:c"])
TREES = st.recursive(
    st.just({}),
    lambda inner: st.dictionaries(STEPS, inner, min_size=1, max_size=3).flatmap(
        lambda d: st.sampled_from([d, {".": {}, **d}])
    ),
    max_leaves=6,
)


@given(TREES, TREES)
def test_sets_of_fields_behave_as_sets(a: Any, b: Any) -> None:
    def members(tree: Any) -> set[str]:
        return set(fieldsets.paths(tree))

    assert members(fieldsets.union(a, b)) == members(a) | members(b)
    assert members(fieldsets.intersection(a, b)) == members(a) & members(b)
    assert not members(fieldsets.difference(a, b)) & members(b)
    assert members(fieldsets.difference(a, b)) <= members(a)
    assert not members(fieldsets.difference(a, a))
