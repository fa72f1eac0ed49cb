"""Listing, watching, forms of answers, discovery, and what survives a restart."""

import asyncio

import orjson

from podwire.apiserver import builtin_kinds
from podwire.apiserver.kinds import Registry
from podwire.apiserver.negotiation import PLAIN
from podwire.apiserver.reads import Reads
from podwire.apiserver.store.memory import MemoryStore
from podwire.client.informer import Informer
from podwire.model.objects import Key
from podwire.model.resources import CONFIGMAPS, PODS
from podwire.runtime.clock import SystemClock


def config_map(name, **labels):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
    }


def pod(name, node=""):
    spec = {"containers": [{"name": "c", "image": "nginx"}]} | ({"nodeName": node} if node else {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


class Lines:
    """A raw watch: the decoded lines as they come."""

    def __init__(self, api, path, accept="application/json"):
        self._api, self._path, self._accept = api, path, accept
        self._queue = asyncio.Queue()

    async def __aenter__(self):
        self._task = asyncio.create_task(self._read())
        return self

    async def _read(self):
        headers = {"Authorization": "Bearer admin", "Accept": self._accept}
        async with self._api.client._session.get(self._path, headers=headers) as response:
            async for line in response.content:
                self._queue.put_nowait(orjson.loads(line))
        self._queue.put_nowait(None)

    async def next(self):
        return await asyncio.wait_for(self._queue.get(), 5)

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def brief(event):
    return event["type"], event["object"]["metadata"].get("name", "")


async def test_watch_follows_from_a_list(api):
    await api.client.create(CONFIGMAPS, config_map("a"))
    listing = await api.client.list(CONFIGMAPS, "default")
    path = f"{CONFIGMAPS.path('default')}?watch=true&resourceVersion={listing.resource_version}"
    async with Lines(api, path) as lines:
        await api.client.create(CONFIGMAPS, config_map("b"))
        await api.client.patch(CONFIGMAPS, "a", {"data": {"x": "y"}}, "default")
        await api.client.delete(CONFIGMAPS, "b", "default")
        assert [brief(await lines.next()) for _ in range(3)] == [
            ("ADDED", "b"),
            ("MODIFIED", "a"),
            ("DELETED", "b"),
        ]


async def test_objects_move_in_and_out_of_a_selector(api):
    path = f"{CONFIGMAPS.path('default')}?watch=true&labelSelector=on%3Dyes"
    async with Lines(api, path) as lines:
        await api.client.create(CONFIGMAPS, config_map("a", on="no"))
        await api.client.create(CONFIGMAPS, config_map("b", on="yes"))
        assert brief(await lines.next()) == ("ADDED", "b")
        await api.client.patch(CONFIGMAPS, "a", {"metadata": {"labels": {"on": "yes"}}}, "default")
        assert brief(await lines.next()) == ("ADDED", "a")
        out = await api.client.patch(CONFIGMAPS, "a", {"metadata": {"labels": {"on": "no"}}}, "default")
        event = await lines.next()
        assert brief(event) == ("DELETED", "a")
        assert event["object"]["metadata"]["labels"] == {"on": "yes"}  # as it was when it matched
        assert event["object"]["metadata"]["resourceVersion"] == out["metadata"]["resourceVersion"]


async def test_field_selector_of_a_node_agent(api):
    path = f"{PODS.path()}?watch=true&fieldSelector=spec.nodeName%3Dn1"
    async with Lines(api, path) as lines:
        await api.client.create(PODS, pod("other", "n2"))
        await api.client.create(PODS, pod("later"))
        binding = {"target": {"kind": "Node", "name": "n1"}, "metadata": {"name": "later"}}
        await api.client.create_subresource(PODS, "later", "default", "binding", binding)
        assert brief(await lines.next()) == ("ADDED", "later")
    code, answer, _ = await api.call("GET", PODS.path() + "?fieldSelector=spec.foo%3Dx")
    assert code == 400
    assert "field label not supported: spec.foo" in answer["message"]


async def test_streaming_list_ends_with_a_marked_bookmark(api):
    await api.client.create(CONFIGMAPS, config_map("a"))
    query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with Lines(api, f"{CONFIGMAPS.path('default')}?{query}") as lines:
        assert brief(await lines.next()) == ("ADDED", "a")
        mark = await lines.next()
        assert mark["type"] == "BOOKMARK"
        assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await api.client.create(CONFIGMAPS, config_map("b"))
        assert brief(await lines.next()) == ("ADDED", "b")


async def test_a_watch_ends_after_its_timeout(api):
    async with Lines(api, f"{CONFIGMAPS.path('default')}?watch=true&timeoutSeconds=1&resourceVersion=0") as lines:
        assert await lines.next() is None


async def test_a_watch_from_before_history_is_gone():
    store = MemoryStore(history_changes=0)
    kind = Registry(builtin_kinds.kinds()).find("", "v1", "configmaps")
    for name in ("a", "b"):
        await store.put("configmaps", Key("default", name), config_map(name))
    store.compact()
    reads = Reads(store, SystemClock())
    lines = [c async for c in reads.watch(kind, "default", "", {"resourceVersion": "2"}, PLAIN)]
    error = orjson.loads(lines[0])
    assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_pages_show_one_moment(api):
    for n in range(5):
        await api.client.create(CONFIGMAPS, config_map(f"c{n}"))
    _, first, _ = await api.call("GET", CONFIGMAPS.path("default") + "?limit=2")
    token = first["metadata"]["continue"]
    assert first["metadata"]["remainingItemCount"] == 3
    await api.client.delete(CONFIGMAPS, "c3", "default")
    await api.client.create(CONFIGMAPS, config_map("c9"))
    _, rest, _ = await api.call("GET", f"{CONFIGMAPS.path('default')}?limit=9&continue={token}")
    assert [i["metadata"]["name"] for i in rest["items"]] == ["c2", "c3", "c4"]
    assert rest["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in rest["metadata"]


async def test_a_revision_of_the_future_is_refused(api):
    code, answer, _ = await api.call("GET", CONFIGMAPS.path("default") + "?resourceVersion=999999")
    assert (code, answer["reason"]) == (504, "Timeout")


async def test_forms_of_an_answer(api):
    await api.client.create(CONFIGMAPS, config_map("a"))
    path = CONFIGMAPS.path("default")
    table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    _, answer, _ = await api.call("GET", path, headers=table)
    assert (answer["kind"], answer["rows"][0]["cells"][0]) == ("Table", "a")
    partial = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
    _, answer, _ = await api.call("GET", path, headers=partial)
    assert (answer["kind"], answer["items"][0]["kind"]) == ("PartialObjectMetadataList", "PartialObjectMetadata")
    _, text, headers = await api.call("GET", path + "/a", headers={"Accept": "application/yaml"})
    assert headers["Content-Type"].startswith("application/yaml")
    assert "kind: ConfigMap" in text
    assert (await api.call("GET", path, headers={"Accept": "text/html"}))[0] == 406


async def test_discovery(api):
    assert (await api.call("GET", "/version"))[1]["gitVersion"].startswith("v1.36")
    _, groups, _ = await api.call("GET", "/apis/")
    assert {"apps", "batch", "discovery.k8s.io"} <= {g["name"] for g in groups["groups"]}
    _, listed, _ = await api.call("GET", "/api/v1/")
    names = {r["name"] for r in listed["resources"]}
    assert {"pods", "pods/log", "pods/status", "services", "namespaces/finalize"} <= names
    accept = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"}
    _, found, headers = await api.call("GET", "/apis", headers=accept)
    assert headers["Content-Type"] == "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    apps = next(g for g in found["items"] if g["metadata"]["name"] == "apps")
    deployments = next(r for r in apps["versions"][0]["resources"] if r["resource"] == "deployments")
    assert deployments["scope"] == "Namespaced"
    assert {s["subresource"] for s in deployments["subresources"]} == {"scale", "status"}


async def test_openapi_v3(api):
    _, index, _ = await api.call("GET", "/openapi/v3")
    url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
    code, document, headers = await api.call("GET", url)
    assert (code, headers["Cache-Control"]) == (200, "public, immutable")
    schemas = document["components"]["schemas"]
    ports = schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"]
    assert ports["x-kubernetes-patch-merge-key"] == "containerPort"
    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"]["kind"] == "Deployment"
    assert "fieldValidation" in {p["name"] for p in patch["parameters"]}
    references = set(orjson.dumps(document).decode().split('"#/components/schemas/')[1:])
    assert {r.partition('"')[0] for r in references} <= set(schemas)
    assert (await api.call("GET", url, headers={"If-None-Match": headers["ETag"]}))[0] == 304


async def test_openapi_v2(api):
    _, document, _ = await api.call("GET", "/openapi/v2")
    assert document["swagger"] == "2.0"
    assert document["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"] == "int-or-string"


async def test_openapi_v2_in_protobuf(api):
    wanted = {
        "Accept": "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        "Authorization": "Bearer admin",
    }
    async with api.client._session.get("/openapi/v2", headers=wanted) as response:
        body = await response.read()
    assert response.headers["Content-Type"] == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    assert (response.headers["Vary"], body[:5]) == ("Accept", b"\x0a\x032.0")
    tag = response.headers["ETag"]
    assert (await api.call("GET", "/openapi/v2", headers={**wanted, "If-None-Match": tag}))[0] == 304
    assert (await api.call("GET", "/openapi/v2", headers={"If-None-Match": tag}))[0] == 200
    assert (await api.call("GET", "/openapi/v2", headers={"Accept": "text/html"}))[0] == 406


async def test_health_and_metrics(api):
    for path in ("/healthz", "/livez", "/readyz"):
        assert (await api.call("GET", path, token="alice"))[:2] == (200, "ok")
    _, text, _ = await api.call("GET", "/metrics")
    assert 'apiserver_request_total{verb="CREATE",resource="serviceaccounts",code="201"} 1' in text


async def test_the_cluster_begins_with_what_it_needs(api):
    _, service, _ = await api.call("GET", "/api/v1/namespaces/default/services/kubernetes")
    assert service["spec"]["clusterIP"] == "10.96.0.1"
    _, endpoints, _ = await api.call("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
    assert endpoints["endpoints"][0]["addresses"] == ["127.0.0.1"]
    for path in (
        "/api/v1/namespaces/kube-node-lease",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
    ):
        assert (await api.call("GET", path))[0] == 200


async def test_a_restart_loses_nothing_and_watches_resume(running):
    api = await running.start()
    made = await api.client.create(CONFIGMAPS, config_map("a"))
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]},
    }
    _, service, _ = await api.call("POST", "/api/v1/namespaces/default/services", service)
    await api.client.patch(CONFIGMAPS, "a", {"data": {"k": "v"}}, "default")
    await running.stop()
    api = await running.start()
    version = made["metadata"]["resourceVersion"]
    async with Lines(api, f"{CONFIGMAPS.path('default')}?watch=true&resourceVersion={version}") as lines:
        assert brief(await lines.next()) == ("MODIFIED", "a")
    taken = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "t", "namespace": "default"},
        "spec": {"ports": [{"port": 80}], "clusterIP": service["spec"]["clusterIP"]},
    }
    code, answer, _ = await api.call("POST", "/api/v1/namespaces/default/services", taken)
    assert (code, "provided IP is already allocated" in answer["message"]) == (422, True)


async def test_an_informer_mirrors(api):
    mirror = Informer(api.client, CONFIGMAPS, "default")
    task = asyncio.create_task(mirror.run())
    await mirror.synced.wait()
    seen = asyncio.Event()
    mirror.listen(lambda key, old, new: seen.set())
    await api.client.create(CONFIGMAPS, config_map("a"))
    await asyncio.wait_for(seen.wait(), 5)
    assert Key("default", "a") in mirror.objects
    task.cancel()
