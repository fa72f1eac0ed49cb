"""Creating, changing and deleting objects through HTTP."""

import asyncio

import pytest

from podwire.client.errors import AlreadyExists, ApiError, Conflict, Invalid, NotFound
from podwire.model.resources import (
    CONFIGMAPS,
    DEPLOYMENTS,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    SERVICEACCOUNTS,
    SERVICES,
)


def meta(name, **more):
    return {"name": name, "namespace": "default", **more}


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(name), "data": data}


def pod(name, **spec):
    containers = [{"name": "c", "image": "nginx"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta(name, labels={"app": name}),
        "spec": {"containers": containers, **spec},
    }


def deployment(name, replicas=1):
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx:1.2"}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(name), "spec": spec}


async def test_create_sets_what_the_server_sets(api):
    made = await api.client.create(DEPLOYMENTS, deployment("web"))
    assert made["metadata"]["uid"]
    assert made["metadata"]["generation"] == 1
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": "25%", "maxSurge": "25%"}
    assert made["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    with pytest.raises(AlreadyExists, match=r'deployments.apps "web" already exists'):
        await api.client.create(DEPLOYMENTS, deployment("web"))


async def test_generate_name(api):
    obj = config_map("x")
    obj["metadata"] = {"generateName": "made-", "namespace": "default"}
    first, second = await api.client.create(CONFIGMAPS, obj), await api.client.create(CONFIGMAPS, obj)
    assert first["metadata"]["name"].startswith("made-")
    assert first["metadata"]["name"] != second["metadata"]["name"]


async def test_generation_counts_spec_changes_only(api):
    made = await api.client.create(DEPLOYMENTS, deployment("web"))
    made["metadata"]["labels"] = {"a": "b"}
    made["status"] = {"replicas": 7}
    labelled = await api.client.update(DEPLOYMENTS, made)
    assert labelled["metadata"]["generation"] == 1
    assert labelled["status"] == {}
    labelled["status"] = {"replicas": 7}
    labelled["spec"]["replicas"] = 9
    written = await api.client.update(DEPLOYMENTS, labelled, "status")
    assert written["status"] == {"replicas": 7}
    assert written["spec"]["replicas"] == 1
    written["spec"]["replicas"] = 9
    scaled = await api.client.update(DEPLOYMENTS, written)
    assert scaled["metadata"]["generation"] == 2
    assert scaled["status"] == {"replicas": 7}


async def test_a_stale_update_is_a_conflict_and_an_empty_one_no_write(api):
    made = await api.client.create(CONFIGMAPS, config_map("cm", a="1"))
    changed = await api.client.update(CONFIGMAPS, {**made, "data": {"a": "2"}})
    with pytest.raises(Conflict, match="the object has been modified"):
        await api.client.update(CONFIGMAPS, {**made, "data": {"a": "3"}})
    again = await api.client.update(CONFIGMAPS, changed)
    assert again["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]


async def test_the_four_patches(api):
    client = api.client
    await client.create(DEPLOYMENTS, deployment("web"))
    await client.patch(DEPLOYMENTS, "web", {"metadata": {"labels": {"x": "y"}}}, "default")
    sidecar = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}}
    both = await client.patch(DEPLOYMENTS, "web", sidecar, "default", kind="strategic")
    assert {c["name"] for c in both["spec"]["template"]["spec"]["containers"]} == {"c", "side"}
    operations = [{"op": "replace", "path": "/spec/replicas", "value": 4}]
    assert (await client.patch(DEPLOYMENTS, "web", operations, "default", kind="json"))["spec"]["replicas"] == 4
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("new"), "data": {"k": "v"}}
    made = await client.patch(CONFIGMAPS, "new", applied, "default", kind="apply", field_manager="me")
    assert made["data"] == {"k": "v"}
    assert made["metadata"]["managedFields"][0]["manager"] == "me"
    with pytest.raises(Conflict):
        await client.patch(
            CONFIGMAPS, "new", {**applied, "data": {"k": "w"}}, "default", kind="apply", field_manager="other"
        )


async def test_a_pod_is_admitted_with_account_token_and_tolerations(api):
    made = await api.client.create(PODS, pod("p"))
    spec = made["spec"]
    assert spec["serviceAccountName"] == "default"
    assert spec["containers"][0]["volumeMounts"][0]["mountPath"].endswith("serviceaccount")
    assert [t["key"].rpartition("/")[2] for t in spec["tolerations"]] == ["not-ready", "unreachable"]
    assert made["status"] == {"phase": "Pending"}


async def test_a_pod_waits_for_the_account_of_a_new_namespace(api):
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fresh"}}
    await api.client.create(NAMESPACES, space)
    early = pod("p")
    early["metadata"]["namespace"] = "fresh"
    task = asyncio.create_task(api.client.create(PODS, early))
    await asyncio.sleep(0.02)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "fresh"}}
    await api.client.create(SERVICEACCOUNTS, account)
    assert (await task)["spec"]["serviceAccountName"] == "default"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"containers": []}, "spec.containers: Required value"),
        ({"containers": [{"name": "A_b", "image": "x"}]}, 'spec.containers[0].name: Invalid value: "A_b"'),
        ({"containers": [{"name": "a"}]}, "spec.containers[0].image: Required value"),
        (
            {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}]},
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            {"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/x"}]}]},
            'spec.containers[0].volumeMounts[0].name: Not found: "v"',
        ),
        ({"restartPolicy": "Maybe"}, 'spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always"'),
        (
            {"containers": [{"name": "a", "image": "x", "livenessProbe": {}}]},
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            {"containers": [{"name": "a", "image": "x", "resources": {"limits": {"cpu": "much"}}}]},
            'spec.containers[0].resources.limits[cpu]: Invalid value: "much"',
        ),
    ],
)
async def test_bad_pods_are_refused_by_field(api, change, message):
    with pytest.raises(Invalid) as refusal:
        await api.client.create(PODS, pod("p", **change))
    assert message in refusal.value.message
    assert refusal.value.status["details"]["causes"]


async def test_decoding_errors_name_the_field(api):
    bad = deployment("web")
    bad["spec"]["replicas"] = "three"
    with pytest.raises(ApiError, match=r"cannot unmarshal string into Go struct field .*replicas of type int32") as e:
        await api.client.create(DEPLOYMENTS, bad)
    assert e.value.code == 400


async def test_field_validation(api):
    body = pod("p", foo=1)
    path = PODS.path("default")
    code, answer, _ = await api.call("POST", path + "?fieldValidation=Strict", body)
    assert code == 400
    assert 'strict decoding error: unknown field "spec.foo"' in answer["message"]
    code, answer, headers = await api.call("POST", path + "?fieldValidation=Warn&dryRun=All", body)
    assert code == 201
    assert headers.getall("Warning") == ['299 - "unknown field \\"spec.foo\\""']
    assert "foo" not in answer["spec"]
    code, _, headers = await api.call("POST", path + "?fieldValidation=Ignore", body)
    assert code == 201
    assert "Warning" not in headers


async def test_duplicate_fields_are_found(api):
    body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"d"},"data":{"a":"1","a":"2"}}'
    headers = {"Content-Type": "application/json"}
    path = CONFIGMAPS.path("default") + "?fieldValidation=Strict"
    code, answer, _ = await api.call("POST", path, body, headers)
    assert (code, 'duplicate field "a"' in answer["message"]) == (400, True)


async def test_dry_run_changes_nothing(api):
    code, answer, _ = await api.call("POST", SERVICES.path("default") + "?dryRun=All", service("s"))
    assert code == 201
    with pytest.raises(NotFound):
        await api.client.get(SERVICES, "s", "default")
    kept = service("s")
    kept["spec"]["clusterIP"] = answer["spec"]["clusterIP"]
    await api.client.create(SERVICES, kept)  # the address was not kept


def service(name, **spec):
    ports = [{"port": 80}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta(name), "spec": {"ports": ports, **spec}}


async def test_pod_deletion_has_grace_and_ends_with_zero(api):
    made = await api.client.create(PODS, pod("p", nodeName="n1"))
    await api.client.delete(PODS, "p", "default")
    going = await api.client.get(PODS, "p", "default")
    assert going["metadata"]["deletionGracePeriodSeconds"] == 30
    assert going["metadata"]["generation"] == 2
    with pytest.raises(Conflict, match="UID"):
        await api.client.delete(PODS, "p", "default", grace_period_s=0, uid="other")
    await api.client.delete(PODS, "p", "default", grace_period_s=0, uid=made["metadata"]["uid"])
    with pytest.raises(NotFound):
        await api.client.get(PODS, "p", "default")


async def test_a_pod_on_no_node_goes_at_once(api):
    await api.client.create(PODS, pod("p"))
    await api.client.delete(PODS, "p", "default")
    with pytest.raises(NotFound):
        await api.client.get(PODS, "p", "default")


async def test_finalizers_hold_an_object(api):
    obj = config_map("held")
    obj["metadata"]["finalizers"] = ["example.com/hold"]
    await api.client.create(CONFIGMAPS, obj)
    await api.client.delete(CONFIGMAPS, "held", "default")
    held = await api.client.get(CONFIGMAPS, "held", "default")
    assert "deletionTimestamp" in held["metadata"]
    await api.client.patch(CONFIGMAPS, "held", {"metadata": {"finalizers": None}}, "default")
    with pytest.raises(NotFound):
        await api.client.get(CONFIGMAPS, "held", "default")


async def test_foreground_and_orphan_leave_their_mark(api):
    for policy, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
        await api.client.create(DEPLOYMENTS, deployment("web"))
        await api.client.delete(DEPLOYMENTS, "web", "default", propagation=policy)
        held = await api.client.get(DEPLOYMENTS, "web", "default")
        assert held["metadata"]["finalizers"] == [finalizer]
        await api.client.patch(DEPLOYMENTS, "web", {"metadata": {"finalizers": []}}, "default")


async def test_namespace_ends_in_two_steps_and_takes_nothing_new(api):
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    made = await api.client.create(NAMESPACES, space)
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "n"}
    await api.client.delete(NAMESPACES, "n")
    going = await api.client.get(NAMESPACES, "n")
    assert going["status"]["phase"] == "Terminating"
    late = config_map("x")
    late["metadata"]["namespace"] = "n"
    with pytest.raises(ApiError, match="because it is being terminated") as refusal:
        await api.client.create(CONFIGMAPS, late)
    assert refusal.value.status["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    going["spec"]["finalizers"] = []
    await api.client.update(NAMESPACES, going, "finalize")
    with pytest.raises(NotFound):
        await api.client.get(NAMESPACES, "n")
    with pytest.raises(ApiError, match="may not be deleted"):
        await api.client.delete(NAMESPACES, "default")
    late["metadata"]["namespace"] = "nowhere"
    with pytest.raises(NotFound, match='namespaces "nowhere" not found'):
        await api.client.create(CONFIGMAPS, late)


async def test_binding_assigns_once(api):
    await api.client.create(PODS, pod("p"))
    body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    await api.client.create_subresource(PODS, "p", "default", "binding", body)
    bound = await api.client.get(PODS, "p", "default")
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    with pytest.raises(Conflict, match='already assigned to node "n1"'):
        await api.client.create_subresource(PODS, "p", "default", "binding", body)


async def test_pod_spec_is_frozen_but_for_a_few_fields(api):
    made = await api.client.create(PODS, pod("p"))
    made["spec"]["containers"][0]["image"] = "other"
    changed = await api.client.update(PODS, made)
    changed["spec"]["hostNetwork"] = True
    with pytest.raises(Invalid, match="pod updates may not change fields other than"):
        await api.client.update(PODS, changed)


async def test_eviction_respects_a_budget(api):
    await api.client.create(PODS, pod("p", nodeName="n1"))
    await api.client.patch(PODS, "p", {"status": {"phase": "Running"}}, "default", subresource="status")
    path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "p"}}},
    }
    assert (await api.call("POST", path, budget))[0] == 201
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    code, answer, _ = await api.call("POST", PODS.path("default", "p", "eviction"), eviction)
    assert (code, answer["reason"]) == (429, "TooManyRequests")
    allow = {"status": {"disruptionsAllowed": 1}}
    headers = {"Content-Type": "application/merge-patch+json"}
    assert (await api.call("PATCH", path + "/b/status", allow, headers))[0] == 200
    assert (await api.call("POST", PODS.path("default", "p", "eviction"), eviction))[0] == 201
    assert "deletionTimestamp" in (await api.client.get(PODS, "p", "default"))["metadata"]


async def test_scale(api):
    await api.client.create(DEPLOYMENTS, deployment("web"))
    path = DEPLOYMENTS.path("default", "web", "scale")
    _, scale, _ = await api.call("GET", path)
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"]["selector"] == "app=web"
    scale["spec"]["replicas"] = 5
    assert (await api.call("PUT", path, scale))[1]["spec"]["replicas"] == 5
    headers = {"Content-Type": "application/merge-patch+json"}
    assert (await api.call("PATCH", path, {"spec": {"replicas": 6}}, headers))[1]["spec"]["replicas"] == 6
    found = await api.client.get(DEPLOYMENTS, "web", "default")
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (6, 3)


async def test_secret_takes_plain_text(api):
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta("s"), "stringData": {"a": "b"}}
    assert (await api.client.create(SECRETS, secret))["data"] == {"a": "Yg=="}


async def test_events_in_both_groups_are_one(api):
    new = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": meta("e"),
        "regarding": {"kind": "Pod", "name": "p"},
        "note": "hello",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "c",
        "reportingInstance": "i",
        "action": "a",
        "reason": "r",
        "type": "Normal",
    }
    code, answer, _ = await api.call("POST", "/apis/events.k8s.io/v1/namespaces/default/events", new)
    assert (code, answer["note"]) == (201, "hello")
    old = await api.client.get(EVENTS, "e", "default")
    assert (old["message"], old["involvedObject"]["name"]) == ("hello", "p")
    assert len((await api.client.list(EVENTS, "default", fields="involvedObject.name=p")).items) == 1


async def test_delete_collection(api):
    for n in range(3):
        await api.client.create(CONFIGMAPS, {**config_map(f"c{n}"), "metadata": meta(f"c{n}", labels={"n": str(n)})})
    path = CONFIGMAPS.path("default") + "?labelSelector=n%21%3D1,n"
    code, answer, _ = await api.call("DELETE", path)
    assert (code, len(answer["items"])) == (200, 2)
    assert [i["metadata"]["name"] for i in (await api.client.list(CONFIGMAPS, "default")).items] == ["c1"]


async def test_what_is_not_served(api):
    assert (await api.call("GET", "/apis/nothing.io/v1/things"))[0] == 404
    assert (await api.call("PATCH", PODS.path("default", "p")))[0] == 404
    code, answer, _ = await api.call("POST", CONFIGMAPS.path("default"), b"\x00", {"Content-Type": "text/html"})
    assert (code, answer["reason"]) == (415, "UnsupportedMediaType")
    code, answer, _ = await api.call("POST", CONFIGMAPS.path("default"), b"[1]", {"Content-Type": "application/json"})
    assert code == 400
    big = config_map("big", a="x" * (4 << 20))
    assert (await api.call("POST", CONFIGMAPS.path("default"), big))[0] == 413


async def test_authorization(api):
    code, answer, _ = await api.call("GET", PODS.path("default"), token="alice")
    assert code == 403
    assert answer["message"].startswith('pods is forbidden: User "alice" cannot list resource "pods"')
    assert (await api.call("GET", PODS.path("default"), token="nobody"))[0] == 401
    assert (await api.call("GET", "/version", token="alice"))[0] == 200
    headers = {"Impersonate-User": "alice"}
    assert (await api.call("GET", NODES.path(), headers=headers))[0] == 403


async def test_autoscalers_in_both_versions_are_one(api):
    old = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": meta("h"),
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "web"},
            "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 70,
        },
    }
    path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
    code, made, _ = await api.call("POST", path, old)
    assert (code, made["spec"]["targetCPUUtilizationPercentage"]) == (201, 70)
    _, new, _ = await api.call("GET", path.replace("v1", "v2") + "/h")
    assert new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 70
    headers = {"Content-Type": "application/merge-patch+json"}
    _, changed, _ = await api.call("PATCH", path + "/h", {"spec": {"maxReplicas": 9}}, headers)
    assert (changed["spec"]["maxReplicas"], changed["spec"]["targetCPUUtilizationPercentage"]) == (9, 70)
