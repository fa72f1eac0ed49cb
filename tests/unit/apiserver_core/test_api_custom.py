"""CustomResourceDefinitions: served, defaulted, pruned, validated, scaled, removed."""

import asyncio

import pytest

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
TOYS = "/apis/toys.example.com/v1/namespaces/default/robots"
MERGE = {"Content-Type": "application/merge-patch+json"}


def crd():
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 1},
                    "color": {"type": "string", "default": "red", "enum": ["red", "blue"]},
                    "replicas": {"type": "integer", "default": 1},
                    "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    "port": {"x-kubernetes-int-or-string": True},
                },
            },
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
        },
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
        },
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
    }
    old = {**version, "name": "v1beta1", "storage": False}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "robots.toys.example.com"},
        "spec": {
            "group": "toys.example.com",
            "scope": "Namespaced",
            "names": {"plural": "robots", "kind": "Robot", "shortNames": ["rb"]},
            "versions": [old, version],
        },
    }


def robot(name, **spec):
    return {"apiVersion": "toys.example.com/v1", "kind": "Robot", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
async def toys(api):
    """The API with the CRD installed."""
    code, made, _ = await api.call("POST", CRDS, crd())
    assert code == 201
    conditions = {c["type"]: c["status"] for c in made["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    return api


async def test_served_at_once_with_defaults_and_without_unknown_fields(toys):
    code, made, headers = await toys.call("POST", TOYS, robot("r", size=2, foo=1, any={"x": 1}, port="http"))
    assert code == 201
    assert made["spec"] == {"size": 2, "any": {"x": 1}, "port": "http", "color": "red", "replicas": 1}
    assert 'unknown field \\"spec.foo\\"' in headers["Warning"]
    assert made["metadata"]["generation"] == 1
    code, answer, _ = await toys.call("POST", TOYS + "?fieldValidation=Strict", robot("q", size=2, foo=1))
    assert (code, 'unknown field "spec.foo"' in answer["message"]) == (400, True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "spec.size: Required value"),
        ({"size": 0}, "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        ({"size": "x"}, 'spec.size in body must be of type integer: "string"'),
        ({"size": 1, "color": "pink"}, 'spec.color: Unsupported value: "pink": supported values: "red", "blue"'),
    ],
)
async def test_validation_in_kubernetes_words(toys, spec, message):
    code, answer, _ = await toys.call("POST", TOYS, robot("r", **spec))
    assert code == 422
    assert message in answer["message"]


async def test_status_and_scale_are_apart(toys):
    await toys.call("POST", TOYS, robot("r", size=1))
    _, changed, _ = await toys.call("PATCH", TOYS + "/r", {"status": {"replicas": 3}}, MERGE)
    assert "status" not in changed
    _, changed, _ = await toys.call(
        "PATCH", TOYS + "/r/status", {"status": {"replicas": 3}, "spec": {"size": 9}}, MERGE
    )
    assert (changed["status"], changed["spec"]["size"]) == ({"replicas": 3}, 1)
    _, scale, _ = await toys.call("GET", TOYS + "/r/scale")
    assert (scale["spec"], scale["status"]["replicas"]) == ({"replicas": 1}, 3)
    await toys.call("PATCH", TOYS + "/r/scale", {"spec": {"replicas": 4}}, MERGE)
    _, found, _ = await toys.call("GET", TOYS + "/r")
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (4, 2)


async def test_every_served_version_shows_the_same_object(toys):
    await toys.call("POST", TOYS, robot("r", size=1))
    _, found, _ = await toys.call("GET", TOYS.replace("/v1/", "/v1beta1/") + "/r")
    assert found["apiVersion"] == "toys.example.com/v1beta1"
    _, group, _ = await toys.call("GET", "/apis/toys.example.com")
    assert group["preferredVersion"]["version"] == "v1"
    table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    _, answer, _ = await toys.call("GET", TOYS, headers=table)
    assert answer["rows"][0]["cells"] == ["r", 1]


async def test_discovery_and_openapi_know_it(toys):
    _, document, _ = await toys.call("GET", "/openapi/v3/apis/toys.example.com/v1")
    schema = document["components"]["schemas"]["com.example.toys.v1.Robot"]
    assert "metadata" in schema["properties"]
    _, listed, _ = await toys.call("GET", "/apis/toys.example.com/v1")
    assert {r["name"] for r in listed["resources"]} == {"robots", "robots/status", "robots/scale"}


async def test_deleting_the_definition_deletes_the_objects(toys):
    await toys.call("POST", TOYS, robot("r", size=1))
    assert (await toys.call("DELETE", f"{CRDS}/robots.toys.example.com"))[0] == 200
    for _ in range(100):
        if (await toys.call("GET", f"{CRDS}/robots.toys.example.com"))[0] == 404:
            break
        await asyncio.sleep(0.01)
    assert (await toys.call("GET", TOYS))[0] == 404
    assert (await toys.call("POST", CRDS, crd()))[0] == 201
    _, listed, _ = await toys.call("GET", TOYS)
    assert listed["items"] == []


async def test_definitions_survive_a_restart(running):
    api = await running.start()
    await api.call("POST", CRDS, crd())
    await running.stop()
    api = await running.start()
    assert (await api.call("POST", TOYS, robot("r", size=1)))[0] == 201


async def test_bad_definitions_are_refused(api):
    bad = crd()
    bad["metadata"]["name"] = "other"
    code, answer, _ = await api.call("POST", CRDS, bad)
    assert (code, 'must be spec.names.plural+"."+spec.group' in answer["message"]) == (422, True)
    bad = crd()
    bad["spec"]["versions"][0]["storage"] = True
    code, answer, _ = await api.call("POST", CRDS, bad)
    assert (code, "exactly one version marked as storage version" in answer["message"]) == (422, True)
