"""metrics.k8s.io/v1beta1: what ``kubectl top`` shows, out of the kubelets' ``/stats/summary``.

A kubelet that reports only counters (usageCoreNanoSeconds) gets its rates from two looks: one at a request,
and one from the request before, or a moment later when there was none. Nodes that do not answer are left out,
as metrics-server leaves them out.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web

from podwire.apiserver.errors import ApiStatusError, bad_request
from podwire.apiserver.kinds import Kind
from podwire.apiserver.kubeletpaths import kubelet_of
from podwire.apiserver.routes import Target
from podwire.model.objects import Obj, parse_timestamp, timestamp
from podwire.model.selectors import EVERYTHING, Selector, parse
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get

if TYPE_CHECKING:
    import aiohttp

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
KINDS = (
    Kind(GROUP, VERSION, "NodeMetrics", "nodes", "", namespaced=False, verbs=("get", "list")),
    Kind(GROUP, VERSION, "PodMetrics", "pods", "", verbs=("get", "list")),
)
TIMEOUT_S = 3.0
FIRST_WINDOW_S = 0.5
_OLD_S = 300.0
_log = get("apiserver")

Read = Callable[[str], Iterable[Obj]]
"""Plural ("nodes", "pods") of the core group -> the objects as they are now."""

Where = tuple[str, str, str, str]
"""Node, pod namespace, pod, container; the last three "" for the node itself."""


class Counter(NamedTuple):
    """A CPU counter at a moment (Unix seconds)."""

    at_s: float
    cpu_ns: int


class Usage(NamedTuple):
    """What something uses. ``cpu_nanocores`` is None while only one look at its counter was taken."""

    cpu_nanocores: int | None
    memory_bytes: int


class MetricsApi:
    """Answers get and list of ``KINDS``. Call ``close`` at the end."""

    def __init__(
        self,
        read: Read,
        kubelet_context: Callable[[], ssl.SSLContext],
        clock: Clock | None = None,
        *,
        loopback_only: bool = False,
    ) -> None:
        self._read, self._make_context, self._loopback_only = read, kubelet_context, loopback_only
        self._clock: Clock = clock or SystemClock()
        self._session: aiohttp.ClientSession | None = None
        self._before: dict[Where, Counter] = {}

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def answer(self, request: web.Request, target: Target) -> web.Response:
        """Answer a get or list of ``KINDS``. Raises ApiStatusError."""
        if target.name:
            return web.json_response(await self.single(target.kind, target.namespace, target.name))
        try:
            labels = parse(request.query.get("labelSelector", ""))
        except ValueError as error:
            raise bad_request(str(error)) from error
        return web.json_response(await self.collection(target.kind, target.namespace, labels))

    async def collection(self, kind: Kind, namespace: str = "", labels: Selector = EVERYTHING) -> Obj:
        """Return NodeMetricsList or PodMetricsList, by namespace and name."""
        items = await self._items(kind, namespace, "", labels)
        return {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.api_version,
            "metadata": {},
            "items": items,
        }

    async def single(self, kind: Kind, namespace: str, name: str) -> Obj:
        """Return one object's metrics. Raises ApiStatusError (404) when there are none."""
        items = await self._items(kind, namespace, name, EVERYTHING)
        if not items:
            shown = f"{namespace}/{name}" if namespace else name
            message = f'{kind.kind.lower()}.{GROUP} "{shown}" not found'
            raise ApiStatusError(404, "NotFound", message, {"name": name, "group": GROUP, "kind": kind.plural})
        return items[0]

    async def _items(self, kind: Kind, namespace: str, name: str, labels: Selector) -> list[Obj]:
        objects = [o for o in self._read(kind.plural) if _chosen(o, namespace, name, labels)]
        if kind.plural == "nodes":
            nodes = {o["metadata"]["name"] for o in objects}
        else:
            nodes = {(o.get("spec") or {}).get("nodeName") for o in objects}
        usage = await self._usage([n for n in self._read("nodes") if n["metadata"]["name"] in nodes])
        now = timestamp(self._clock.now())
        shown = _node_metrics if kind.plural == "nodes" else _pod_metrics
        made = (shown(o, usage, now) for o in objects)
        items = [{"kind": kind.kind, "apiVersion": kind.api_version, **m} for m in made if m is not None]
        return sorted(items, key=lambda i: (i["metadata"].get("namespace", ""), i["metadata"]["name"]))

    async def _usage(self, nodes: list[Obj]) -> dict[Where, Usage]:
        usage = await self._look(nodes)
        if any(u.cpu_nanocores is None for u in usage.values()):
            await self._clock.sleep(FIRST_WINDOW_S)
            usage = await self._look(nodes)
        return usage

    async def _look(self, nodes: list[Obj]) -> dict[Where, Usage]:
        found = await asyncio.gather(*(self._summary(node) for node in nodes))
        now_s = self._clock.now().timestamp()
        usage: dict[Where, Usage] = {}
        for node, summary in zip(nodes, found, strict=True):
            for where, stats in _stats(node["metadata"]["name"], summary):
                usage[where] = self._measure(where, stats, now_s)
        for where in [w for w, c in self._before.items() if now_s - c.at_s > _OLD_S]:
            del self._before[where]
        return usage

    def _measure(self, where: Where, stats: Mapping[str, Any], now_s: float) -> Usage:
        cpu, memory = stats.get("cpu") or {}, stats.get("memory") or {}
        held = int(memory.get("workingSetBytes") or memory.get("usageBytes") or 0)
        if cpu.get("usageNanoCores") is not None:
            return Usage(int(cpu["usageNanoCores"]), held)
        at_s = _moment(cpu.get("time"), now_s)
        counter = Counter(at_s, int(cpu.get("usageCoreNanoSeconds") or 0))
        before = self._before.get(where)
        if before is None or counter.cpu_ns < before.cpu_ns:  # new, or restarted since
            self._before[where] = counter
            return Usage(None, held)
        elapsed_s = counter.at_s - before.at_s
        if elapsed_s < FIRST_WINDOW_S / 2:
            return Usage(None, held)
        self._before[where] = counter
        return Usage(int((counter.cpu_ns - before.cpu_ns) / elapsed_s), held)

    async def _summary(self, node: Obj) -> Obj:
        """Return a node's summary; empty when it does not answer."""
        import aiohttp

        name = node["metadata"]["name"]
        try:
            host, port = kubelet_of(node)
            if self._loopback_only and not ip_address(host).is_loopback:
                return {}
            if self._session is None:
                connector = aiohttp.TCPConnector(ssl=self._make_context(), limit=0)
                self._session = aiohttp.ClientSession(connector=connector)
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with self._session.get(f"https://{where}/stats/summary", timeout=timeout) as response:
                response.raise_for_status()
                answer: Obj = await response.json(content_type=None)
                return answer
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, ApiStatusError) as error:
            _log.debug("no-stats", node=name, error=f"{type(error).__name__}: {error}")
            return {}


def _chosen(obj: Obj, namespace: str, name: str, labels: Selector) -> bool:
    meta = obj["metadata"]
    if (name and meta["name"] != name) or (namespace and meta.get("namespace") != namespace):
        return False
    return labels.matches(meta.get("labels") or {})


def _moment(text: str | None, now_s: float) -> float:
    try:
        # Whole seconds are too coarse to divide by; such a clock is not worth more than ours.
        return parse_timestamp(text).timestamp() if text and "." in text else now_s
    except ValueError:
        return now_s


def _stats(node: str, summary: Obj) -> Iterable[tuple[Where, Mapping[str, Any]]]:
    if summary.get("node"):
        yield (node, "", "", ""), summary["node"]
    for pod in summary.get("pods") or ():
        reference = pod.get("podRef") or {}
        for container in pod.get("containers") or ():
            yield (node, reference.get("namespace", ""), reference.get("name", ""), container["name"]), container


def _quantities(usage: Usage) -> Obj:
    return {"cpu": f"{usage.cpu_nanocores or 0}n", "memory": f"{usage.memory_bytes // 1024}Ki"}


def _metadata(obj: Obj, now: str) -> Obj:
    meta = obj["metadata"]
    shown = {"name": meta["name"], "creationTimestamp": now}
    return shown | {k: meta[k] for k in ("namespace", "labels") if meta.get(k)}


def _node_metrics(node: Obj, usage: Mapping[Where, Usage], now: str) -> Obj | None:
    found = usage.get((node["metadata"]["name"], "", "", ""))
    if found is None:
        return None
    return {"metadata": _metadata(node, now), "timestamp": now, "window": "10s", "usage": _quantities(found)}


def _pod_metrics(pod: Obj, usage: Mapping[Where, Usage], now: str) -> Obj | None:
    meta, node = pod["metadata"], (pod.get("spec") or {}).get("nodeName", "")
    containers = [
        {"name": where[3], "usage": _quantities(found)}
        for where, found in usage.items()
        if where[:3] == (node, meta.get("namespace", ""), meta["name"])
    ]
    if not containers:
        return None
    containers.sort(key=lambda c: str(c["name"]))
    return {"metadata": _metadata(pod, now), "timestamp": now, "window": "10s", "containers": containers}
