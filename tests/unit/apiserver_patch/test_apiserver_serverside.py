"""Server-side apply and managedFields, as stories on real kinds: who wrote what, and who wins."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from podwire.apiserver import fieldsets
from podwire.apiserver.builtin_kinds import kinds
from podwire.apiserver.errors import ApiStatusError
from podwire.apiserver.kinds import Kind
from podwire.apiserver.managedfields import structure_of, track_update
from podwire.apiserver.patch import APPLY, JSON, MERGE, STRATEGIC, apply_patch

KINDS = {k.kind: k for k in kinds() if k.version in ("v1",)}
DEPLOYMENT, POD, SERVICE, CONFIGMAP = (KINDS[k] for k in ("Deployment", "Pod", "Service", "ConfigMap"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


def apply(
    kind: Kind, live: Any, config: Any, manager: str = "alice", *, force: bool = False, at: datetime = NOW
) -> Any:
    before = copy.deepcopy(live)
    body = orjson.dumps({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "x"}, **config})
    result = apply_patch(kind, live, APPLY, body, field_manager=manager, force=force, now=at)
    assert live == before, "the input was changed"
    return result


def update(kind: Kind, old: Any, new: Any, manager: str = "bob", subresource: str = "", at: datetime = NOW) -> Any:
    new = copy.deepcopy(new)
    track_update(kind, old, new, manager, "Update", kind.api_version, subresource, at)
    return new


def owners(obj: Any) -> dict[str, list[str]]:
    return {
        m["manager"] + ("/" + m["subresource"] if "subresource" in m else ""): sorted(fieldsets.paths(m["fieldsV1"]))
        for m in obj["metadata"].get("managedFields", [])
    }


def deployment(*containers: Any, **spec: Any) -> Any:
    return {"spec": {**spec, "template": {"spec": {"containers": list(containers)}}}}


def test_applying_creates_and_owns_what_was_said() -> None:
    made = apply(DEPLOYMENT, None, deployment({"name": "a", "image": "1"}, replicas=2))
    assert made["spec"]["replicas"] == 2
    path = '.spec.template.spec.containers[name="a"]'
    assert owners(made) == {"alice": [".spec.replicas", path, f"{path}.image", f"{path}.name"]}


def test_applying_the_same_again_changes_nothing() -> None:
    config = deployment({"name": "a", "image": "1", "ports": [{"containerPort": 80}]}, replicas=2)
    made = apply(DEPLOYMENT, None, config)
    assert apply(DEPLOYMENT, made, config, at=LATER) == made


def test_what_is_no_longer_applied_goes_unless_somebody_else_wants_it() -> None:
    made = apply(CONFIGMAP, None, {"data": {"a": "1", "b": "2", "c": "3"}})
    made = apply(CONFIGMAP, made, {"data": {"b": "2"}}, "carol")
    made = apply(CONFIGMAP, made, {"data": {"a": "1"}})
    assert made["data"] == {"a": "1", "b": "2"}
    made = apply(CONFIGMAP, made, {}, "carol")
    assert made["data"] == {"a": "1"}


def test_what_an_update_added_stays() -> None:
    made = apply(CONFIGMAP, None, {"data": {"a": "1"}})
    made = update(CONFIGMAP, made, {**made, "data": {"a": "1", "z": "9"}})
    made = apply(CONFIGMAP, made, {"data": {"b": "2"}})
    assert made["data"] == {"b": "2", "z": "9"}
    assert owners(made) == {"alice": [".data.b"], "bob": [".data.z"]}


def test_conflicts_name_field_and_manager() -> None:
    made = apply(DEPLOYMENT, None, deployment(replicas=2))
    scaled = update(DEPLOYMENT, made, {**made, "spec": {**made["spec"], "replicas": 5}}, "kubectl-scale")
    assert ".spec.replicas" not in owners(scaled)["alice"]
    with pytest.raises(ApiStatusError) as error:
        apply(DEPLOYMENT, scaled, deployment(replicas=2))
    status = error.value.status()
    assert status["code"] == 409
    assert status["message"] == (
        'Apply failed with 1 conflict: conflict with "kubectl-scale" using apps/v1: .spec.replicas'
    )
    assert status["details"]["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl-scale" using apps/v1 at 2026-01-01T00:00:00Z',
            "field": ".spec.replicas",
        }
    ]
    forced = apply(DEPLOYMENT, scaled, deployment(replicas=2), force=True)
    assert forced["spec"]["replicas"] == 2
    assert owners(forced) == {"alice": [".spec.replicas", ".spec.template.spec.containers"]}


def test_equal_values_are_shared_without_conflict() -> None:
    made = apply(CONFIGMAP, None, {"data": {"a": "1"}})
    made = apply(CONFIGMAP, made, {"data": {"a": "1"}}, "carol")
    assert owners(made) == {"alice": [".data.a"], "carol": [".data.a"]}
    made = apply(CONFIGMAP, made, {})
    assert made["data"] == {"a": "1"}


def test_lists_merge_by_key_with_a_default_in_the_key() -> None:
    ports = [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53}]
    made = apply(POD, None, {"spec": {"containers": [{"name": "a", "ports": ports}]}})
    ports = [{"containerPort": 53, "protocol": "TCP", "name": "tcp"}]
    made = apply(POD, made, {"spec": {"containers": [{"name": "a", "ports": ports}]}}, "carol")
    assert made["spec"]["containers"][0]["ports"] == [
        {"containerPort": 53, "protocol": "UDP"},
        {"containerPort": 53, "protocol": "TCP", "name": "tcp"},
    ]


def test_an_element_no_longer_applied_goes_with_its_defaults() -> None:
    config = deployment({"name": "a", "image": "1"}, {"name": "b", "image": "2"})
    made = apply(DEPLOYMENT, None, config)
    for container in made["spec"]["template"]["spec"]["containers"]:
        container["imagePullPolicy"] = "Always"  # as defaulting does: nobody's
    made = apply(DEPLOYMENT, made, deployment({"name": "a", "image": "1"}))
    assert made["spec"]["template"]["spec"]["containers"] == [{"name": "a", "image": "1", "imagePullPolicy": "Always"}]


def test_duplicate_keys_and_missing_managers_are_refused() -> None:
    with pytest.raises(ApiStatusError, match="duplicate entries"):
        apply(POD, None, {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}})
    with pytest.raises(ApiStatusError, match="fieldManager"):
        apply(POD, None, {}, "")
    with pytest.raises(ApiStatusError, match="managedFields must be nil"):
        apply(POD, None, {"metadata": {"managedFields": [{}]}})


def test_status_belongs_to_its_subresource() -> None:
    made = update(POD, None, {"metadata": {"name": "x"}, "spec": {"nodeName": "n"}, "status": {"phase": "Pending"}})
    assert owners(made) == {"bob": [".spec.nodeName"]}
    ran = update(POD, made, {**made, "status": {"phase": "Running", "podIP": "10.0.0.1"}}, "kubelet", "status")
    assert owners(ran) == {"bob": [".spec.nodeName"], "kubelet/status": [".status.phase", ".status.podIP"]}


def test_an_update_takes_over_and_forgets_what_it_removes() -> None:
    made = update(CONFIGMAP, None, {"metadata": {"name": "x"}, "data": {"a": "1", "b": "2"}}, "alice")
    changed = {"metadata": {"name": "x"}, "data": {"a": "9"}}  # without managedFields: the old ones hold
    made = update(CONFIGMAP, made, changed, "bob", at=LATER)
    assert owners(made) == {"alice": [".data"], "bob": [".data.a"]}
    assert update(CONFIGMAP, made, dict(made), "eve", at=LATER) == made


def test_an_empty_list_clears_managed_fields() -> None:
    made = update(CONFIGMAP, None, {"metadata": {"name": "x"}, "data": {"a": "1"}})
    cleared = {"metadata": {"name": "x", "managedFields": []}, "data": {"a": "1"}}
    assert "managedFields" not in update(CONFIGMAP, made, cleared)["metadata"]


def test_malformed_managed_fields_of_a_client_are_left_out() -> None:
    entry = {"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsV1": {"f:data": {"f:a": 1}}}
    new = {"metadata": {"name": "x", "managedFields": [entry, 3]}, "data": {"a": "1"}}
    assert owners(update(CONFIGMAP, None, new)) == {"bob": [".data", ".data.a"]}


def test_too_many_updaters_are_folded() -> None:
    made: Any = {"metadata": {"name": "x"}, "data": {}}
    for i in range(15):
        new = {**made, "data": {**made["data"], f"k{i}": "v"}}
        made = update(CONFIGMAP, made, new, f"m{i}", at=NOW + timedelta(minutes=i))
    assert len(made["metadata"]["managedFields"]) == 10
    assert {p for ps in owners(made).values() for p in ps} >= {f".data.k{i}" for i in range(15)}


def test_custom_resources_apply_by_their_schema() -> None:
    items = {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}
    listed = {"type": "array", "items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"]}
    spec = {"type": "object", "properties": {"things": listed, "plain": {"type": "array"}}}
    kind = Kind("e.org", "v1", "T", "ts", "t", schema={"type": "object", "properties": {"spec": spec}})
    made = apply(kind, None, {"spec": {"things": [{"id": "a", "n": 1}], "plain": [1]}})
    made = apply(kind, made, {"spec": {"things": [{"id": "b", "n": 2}]}}, "carol")
    assert made["spec"]["things"] == [{"id": "b", "n": 2}, {"id": "a", "n": 1}]
    assert ".metadata.labels.a" in owners(apply(kind, made, {"metadata": {"name": "x", "labels": {"a": "b"}}}))["alice"]
    with pytest.raises(ApiStatusError) as error:
        apply_patch(kind, made, STRATEGIC, b"{}", field_manager="x", force=False)
    assert error.value.code == 415


WEB = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}}
# content type, body, code
REFUSED = [
    (JSON, b"{", 400),
    (JSON, b'{"op":"add"}', 400),
    (JSON, b'[{"op":"remove","path":"/none"}]', 422),
    (JSON, b'[{"op":"replace","path":"","value":[]}]', 422),
    (MERGE, b"[]", 400),
    (MERGE, b'{"metadata":null}', 422),
    (STRATEGIC, b'{"spec":{"containers":[{"image":"2"}]}}', 422),
    (STRATEGIC, b'{"spec":{"$setElementOrder/containers":3}}', 400),
    (STRATEGIC, b'{"spec":{"containers":[{"name":{}},{"name":"a"}],"$setElementOrder/containers":[{"name":{}}]}}', 400),
    (APPLY, b"a: [", 400),
    ("text/plain", b"{}", 415),
]  # fmt: skip


@pytest.mark.parametrize(("content_type", "body", "code"), REFUSED)
def test_refused_patches(content_type: str, body: bytes, code: int) -> None:
    with pytest.raises(ApiStatusError) as error:
        apply_patch(POD, WEB, content_type, body, field_manager="x", force=False)
    assert error.value.code == code, error.value.message


def test_the_three_other_patches_reach_the_object() -> None:
    strategic = b'{"spec":{"containers":[{"name":"a","image":"2"}]}}'
    merge = b'{"spec":{"containers":[{"name":"a","image":"2"}]}}'
    json = b'[{"op":"replace","path":"/spec/containers/0/image","value":"2"}]'
    images = [
        [c.get("image") for c in apply_patch(POD, WEB, t, b, field_manager="x", force=False)["spec"]["containers"]]
        for t, b in ((STRATEGIC, strategic), (MERGE, merge), (JSON, json))
    ]
    assert images == [["2", None], ["2"], ["2", None]]


def test_services_merge_ports_by_port_and_protocol_when_applied() -> None:
    assert structure_of(SERVICE).field("spec").field("ports").keys == ("port", "protocol")
    assert structure_of(SERVICE).field("spec").field("ports").merge_key == "port"
