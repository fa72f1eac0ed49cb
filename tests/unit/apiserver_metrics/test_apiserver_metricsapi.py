"""kubectl top's numbers, from a kubelet that a test plays."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from podwire.apiserver import pki, routes
from podwire.apiserver.errors import ApiStatusError
from podwire.apiserver.kinds import Registry
from podwire.apiserver.metricsapi import KINDS, MetricsApi
from podwire.model.selectors import parse
from podwire.runtime.clock import FakeClock

NODES, PODS = KINDS


class Ticking(FakeClock):
    """A clock whose sleepers wake at once, the time gone by."""

    async def sleep(self, seconds: float) -> None:
        self._elapsed_s += seconds


class Kubelet:
    """Answers /stats/summary with what the test set."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.port = 0
        self.context: Any = None

    async def summary(self, request: web.Request) -> web.Response:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.json_response(answer)


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    made = pki.ensure(tmp_path)
    played = Kubelet()
    app = web.Application()
    app.router.add_get("/stats/summary", played.summary)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=pki.server_context(made)).start()
    played.port = runner.addresses[0][1]
    played.context = lambda: pki.kubelet_context(made)
    yield played
    await runner.cleanup()


def node(name: str, port: int) -> Any:
    address = {"type": "InternalIP", "address": "127.0.0.1"}
    endpoints = {"kubeletEndpoint": {"Port": port}}
    return {"metadata": {"name": name}, "status": {"addresses": [address], "daemonEndpoints": endpoints}}


def pod(name: str, on: str = "n0", **labels: str) -> Any:
    return {"metadata": {"name": name, "namespace": "d", "labels": labels}, "spec": {"nodeName": on}}


def stats(**cpu: Any) -> Any:
    return {"cpu": cpu, "memory": {"workingSetBytes": 4096_000}}


def summary(node_stats: Any, **pods: Any) -> Any:
    return {
        "node": node_stats,
        "pods": [
            {"podRef": {"name": n, "namespace": "d"}, "containers": [{"name": "c", **s}]} for n, s in pods.items()
        ],
    }


def api(kubelet: Kubelet, *pods: Any) -> MetricsApi:
    objects = {"nodes": [node("n0", kubelet.port), node("dead", 9)], "pods": list(pods)}
    return MetricsApi(lambda plural: objects[plural], kubelet.context, Ticking())


async def test_rates_as_the_kubelet_gives_them(kubelet: Kubelet) -> None:
    kubelet.answers = [summary(stats(usageNanoCores=250_000_000), a=stats(usageNanoCores=1_000_000))]
    served = api(kubelet, pod("a", tier="web"), pod("b"), pod("c", on="dead"))
    nodes = await served.collection(NODES)
    assert nodes["kind"] == "NodeMetricsList"
    assert [(i["metadata"]["name"], i["usage"]) for i in nodes["items"]] == [
        ("n0", {"cpu": "250000000n", "memory": "4000Ki"})
    ]
    pods = await served.collection(PODS, "d")
    assert [(i["metadata"]["name"], i["containers"]) for i in pods["items"]] == [
        ("a", [{"name": "c", "usage": {"cpu": "1000000n", "memory": "4000Ki"}}])
    ]
    assert (await served.collection(PODS, "d", parse("tier=db")))["items"] == []
    assert (await served.collection(PODS, "elsewhere"))["items"] == []
    await served.close()


async def test_rates_from_counters_need_two_looks(kubelet: Kubelet) -> None:
    looks = [summary(stats(usageCoreNanoSeconds=n), a=stats(usageCoreNanoSeconds=n)) for n in (0, 10**8, 10**9)]
    kubelet.answers = looks
    served = api(kubelet, pod("a"))
    first = await served.collection(NODES)
    assert first["items"][0]["usage"]["cpu"] == "200000000n"  # 0.1 s of CPU in half a second
    await served.close()


async def test_what_is_not_there_is_not_found(kubelet: Kubelet) -> None:
    kubelet.answers = [summary(stats(usageNanoCores=1))]
    served = api(kubelet, pod("a"))
    assert (await served.single(NODES, "", "n0"))["kind"] == "NodeMetrics"
    for kind, namespace, name in ((NODES, "", "dead"), (NODES, "", "none"), (PODS, "d", "a")):
        with pytest.raises(ApiStatusError) as error:
            await served.single(kind, namespace, name)
        assert error.value.code == 404
    await served.close()


# path, status, names
ASKED = [
    ("/apis/metrics.k8s.io/v1beta1/nodes", 200, ["n0"]),
    ("/apis/metrics.k8s.io/v1beta1/nodes/n0", 200, None),
    ("/apis/metrics.k8s.io/v1beta1/nodes/none", 404, None),
    ("/apis/metrics.k8s.io/v1beta1/pods", 200, ["a"]),
    ("/apis/metrics.k8s.io/v1beta1/namespaces/d/pods?labelSelector=tier%3Dweb", 200, ["a"]),
    ("/apis/metrics.k8s.io/v1beta1/namespaces/d/pods?labelSelector=tier%3Ddb", 200, []),
    ("/apis/metrics.k8s.io/v1beta1/namespaces/d/pods?labelSelector=((", 400, None),
]


@pytest.mark.parametrize(("path", "status", "names"), ASKED)
async def test_over_http(kubelet: Kubelet, path: str, status: int, names: Any) -> None:
    kubelet.answers = [summary(stats(usageNanoCores=1), a=stats(usageNanoCores=1))]
    served, registry = api(kubelet, pod("a", tier="web")), Registry(KINDS)
    request = make_mocked_request("GET", path)
    target = routes.parse(registry, request.path)
    assert target is not None
    try:
        response = await served.answer(request, target)
        code, body = response.status, json.loads(response.text or "")
    except ApiStatusError as error:
        code, body = error.code, error.status()
    await served.close()
    assert code == status, body
    if names is not None:
        assert [i["metadata"]["name"] for i in body["items"]] == names
