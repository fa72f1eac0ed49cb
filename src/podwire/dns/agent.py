"""The cluster's DNS server as one process: mirrors the API, keeps the index, answers queries.

Cluster names are never cached and never stale: an answer is rebuilt when its Service changes, and a query only
looks it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address

from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.dns.corefile import Kubernetes, Settings
from podwire.dns.desired import Answer
from podwire.dns.index import Index, Neighbourhood
from podwire.dns.metrics import render_metrics
from podwire.dns.plan import Zone, plan_service, type_key
from podwire.dns.responder import Forward, Responder
from podwire.dns.server import DnsServer
from podwire.dns.upstream import Forwarder, find_upstreams
from podwire.model.errors import BadInput, Problem
from podwire.model.objects import Key, Obj, labels_of
from podwire.model.resources import ENDPOINTSLICES, NAMESPACES, PODS, SERVICES
from podwire.model.serviceslices import SERVICE_NAME_LABEL, ServiceSlices
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get
from podwire.runtime.statusserver import Page, serve_pages
from podwire.wire import dns as wire

_DNS_SERVICE = Key("kube-system", "kube-dns")
_log = get("dns")


class DnsAgent:
    """One DNS server. ``ready``: the index is complete and queries are answered."""

    def __init__(self, settings: Settings, client: Client, *, clock: Clock | None = None, host: str = "") -> None:
        self.ready = asyncio.Event()
        self.draining = False
        self._settings, self._host = settings, host
        self._clock: Clock = clock or SystemClock()
        self._services = Informer(client, SERVICES, clock=clock, trim=trim_service)
        self._slices = Informer(client, ENDPOINTSLICES, clock=clock, trim=trim_slice)
        self._namespaces = Informer(client, NAMESPACES, clock=clock, trim=trim_namespace)
        self._pods = Informer(client, PODS, clock=clock, trim=trim_pod)
        self._join = ServiceSlices()
        self._dirty: set[Key] = set()
        self._flushing = False
        self._pod_addresses: dict[tuple[str, str], int] = {}
        self._configure(settings)
        self.server = DnsServer(self._responder, self._resolve)

    def _configure(self, settings: Settings) -> None:
        kubernetes = settings.kubernetes or Kubernetes()
        zone = Zone(_cluster_zone(kubernetes), kubernetes.ttl_s, kubernetes.endpoint_pod_names)
        around = Neighbourhood(
            has_namespace=lambda name: Key("", name) in self._namespaces.objects,
            slices_of=self._slices_of,
            pod_has_address=lambda namespace, address: (namespace, address) in self._pod_addresses,
        )
        self._namespace_filter = frozenset(kubernetes.namespaces)
        serial = int(self._clock.now().timestamp())
        self._index = Index(zone, around, pods=kubernetes.pods, serial=serial)
        self._responder = Responder(
            self._index,
            reverse_falls_through=bool(kubernetes.fallthrough),
            rotate=settings.loadbalance,
        )
        forward = settings.forward
        self._forwarder = Forwarder(
            find_upstreams(forward.to) if forward is not None else (),
            self._clock,
            cache_s=settings.cache_s,
            max_concurrent=forward.max_concurrent if forward is not None else 0,
            policy=forward.policy if forward is not None else "random",
        )
        self._responder.has_upstream = bool(self._forwarder.upstreams)
        self._hosts = _host_answers(settings, zone)
        self._settings = settings

    def reconfigure(self, settings: Settings) -> None:
        """Take new settings over without losing a query. Ports stay as they were at the start."""
        former = self._settings
        self._configure(settings)
        if (former.port, former.health, former.ready, former.prometheus) != (
            settings.port, settings.health, settings.ready, settings.prometheus,
        ):  # fmt: skip
            _log.warning("ports-kept", hint="addresses and ports of the Corefile change with a restart")
        if self.ready.is_set():
            self._dirty.update(self._services.objects)
            self._flush()
            self._responder.synced = True
        self.server.use(self._responder)

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError when a port is taken."""
        await self.server.start(self._settings.port, self._host)
        pages = await self._serve_pages()
        informers = [self._services, self._slices, self._namespaces]
        self._services.listen(lambda key, old, new: self._mark(key))
        self._slices.listen(self._slice_changed)
        self._namespaces.listen(lambda key, old, new: self._index.touch())
        if self._settings.kubernetes is not None and self._settings.kubernetes.pods == "verified":
            self._pods.listen(self._pod_changed)
            informers.append(self._pods)
        try:
            async with asyncio.TaskGroup() as group:
                for informer in informers:
                    group.create_task(informer.run())
                group.create_task(self._begin(informers))
        finally:
            self.server.close()
            for page in pages:
                page.close()

    async def _begin(self, informers: Sequence[Informer]) -> None:
        for informer in informers:
            await informer.synced.wait()
        start_s = self._clock.monotonic()
        self._flush()
        self._responder.synced = True
        self.ready.set()
        _log.info(
            "serving", services=len(self._services.objects), port=self.server.port,
            upstreams=len(self._forwarder.upstreams), built_s=self._clock.monotonic() - start_s,
        )  # fmt: skip

    async def _serve_pages(self) -> list[asyncio.Server]:
        s = self._settings
        found: list[asyncio.Server] = []
        for address, path, page in (
            (s.health, "/health", self._health),
            (s.ready, "/ready", self._readiness),
            (s.prometheus, "/metrics", self._metrics),
        ):
            if address is not None:
                found.append(await serve_pages(address[0] or self._host or None, address[1], {path: page}))
        return found

    def _health(self) -> Page:
        return Page("OK", 503 if self.draining else 200)

    def _readiness(self) -> Page:
        return Page("OK") if self.ready.is_set() and not self.draining else Page("kubernetes\n", 503)

    def _metrics(self) -> Page:
        text = render_metrics(self._responder.counts, len(self._index), self._settings.port)
        return Page(text, content_type="text/plain; version=0.0.4")

    # --- keeping the index

    def _slice_changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        for service in self._join.note(key, new):
            self._mark(service)

    def _mark(self, service: Key) -> None:
        self._dirty.add(service)
        if self.ready.is_set() and not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        dirty, self._dirty = self._dirty, set()
        self._index.touch()  # lookups by endpoint address read the slices themselves
        for key in dirty:
            service = self._services.objects.get(key)
            if service is None or (self._namespace_filter and key.namespace not in self._namespace_filter):
                self._index.remove(key)
            else:
                self._index.put(plan_service(service, self._slices_of(key), self._index.zone))
            if key == _DNS_SERVICE:
                self._set_glue()

    def _set_glue(self) -> None:
        name = wire.encode_name("kube-dns.kube-system.svc")[:-1] + self._index.zone.origin
        found = {t: self._index.get(type_key(name, t)) for t in (wire.A, wire.AAAA)}
        self._index.set_server_addresses({t: a for t, a in found.items() if a is not None})

    def _slices_of(self, service: Key) -> Sequence[Obj]:
        held = self._slices.objects
        return [held[k] for k in self._join.of(service) if k in held]

    def _pod_changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        self._index.touch()
        for pod, sign in ((old, -1), (new, 1)):
            for ip in (pod or {}).get("podIPs", ()):
                where = (key.namespace, ip)
                count = self._pod_addresses.get(where, 0) + sign
                if count > 0:
                    self._pod_addresses[where] = count
                else:
                    self._pod_addresses.pop(where, None)

    # --- names of elsewhere

    async def _resolve(self, forward: Forward, protocol: str) -> bytes:
        asked, responder = forward.asked, self._responder
        hosted = self._hosts.get(type_key(forward.name, asked.type))
        if hosted is not None and forward.so_far is None:
            return responder.encode(asked, hosted, protocol)
        if forward.so_far is not None:
            return await self._finish_alias(forward, forward.so_far, protocol)
        answer = await self._forwarder.resolve(asked.raw)
        if answer is None:
            why = (22, "no upstream resolver answers" if self._forwarder.upstreams else "no upstream resolver is known")
            return responder.refuse(asked, wire.SERVFAIL, protocol, why)
        if len(answer) > asked.limit_bytes:  # fetched whole over TCP: the client must do so too
            return responder.truncate(asked, protocol)
        return answer

    async def _finish_alias(self, forward: Forward, so_far: Answer, protocol: str) -> bytes:
        asked = forward.asked
        question = forward.name + asked.question[-4:]
        query = asked.id + b"\x01\x00\0\1\0\0\0\0\0\0" + question
        raw = await self._forwarder.resolve(query)
        more = list(so_far.more)
        if raw is not None:
            try:
                records = wire.decode_message(raw).answer
            except wire.Malformed:
                records = ()
            more += (r.name + wire.record_tail(r.type, r.ttl_s, r.rdata, r.cls) for r in records)
        return self._responder.encode(asked, Answer(so_far.own, tuple(more)), protocol)


def _cluster_zone(kubernetes: Kubernetes) -> bytes:
    zones = [z for z in kubernetes.zones if not z.endswith(".arpa")]
    if len(zones) != 1:
        raise BadInput(Problem("Corefile", "kubernetes", f"one cluster zone is expected, not {zones}"))
    return wire.encode_name(zones[0]).lower()


def _host_answers(settings: Settings, zone: Zone) -> dict[bytes, Answer]:
    tails: dict[bytes, list[bytes]] = {}
    for name, text in settings.hosts:
        type = wire.AAAA if ":" in text else wire.A
        tail = wire.record_tail(type, zone.ttl_s, ip_address(text).packed)
        tails.setdefault(type_key(wire.encode_name(name), type), []).append(tail)
    return {key: Answer(tuple(found)) for key, found in tails.items()}


# --- what is kept of each object


def _meta(obj: Obj, *more: str) -> Obj:
    meta = obj["metadata"]
    return {k: meta[k] for k in ("namespace", "name", "resourceVersion", *more) if k in meta}


def trim_service(service: Obj) -> Obj:
    """Return as much of a Service as its records need."""
    spec = service.get("spec") or {}
    kept = ("type", "clusterIP", "clusterIPs", "ports", "externalName", "publishNotReadyAddresses")
    return {"metadata": _meta(service), "spec": {k: spec[k] for k in kept if k in spec}}


def trim_slice(piece: Obj) -> Obj:
    """Return as much of an EndpointSlice as its records need."""
    meta = _meta(piece)
    label = labels_of(piece).get(SERVICE_NAME_LABEL)
    if label:
        meta["labels"] = {SERVICE_NAME_LABEL: label}
    kept = ("addresses", "conditions", "hostname", "targetRef")
    endpoints = [{k: e[k] for k in kept if k in e} for e in piece.get("endpoints") or ()]
    return {"metadata": meta, "ports": piece.get("ports"), "endpoints": endpoints}


def trim_namespace(namespace: Obj) -> Obj:
    """Return the name alone."""
    return {"metadata": _meta(namespace)}


def trim_pod(pod: Obj) -> Obj:
    """Return the name and the addresses."""
    ips = (pod.get("status") or {}).get("podIPs") or ()
    return {"metadata": _meta(pod), "podIPs": [i["ip"] for i in ips]}
