"""The cluster's DNS server: mirrors the API, keeps the index, and has queries answered, here or by workers.

Names of the cluster are never cached and never stale: a change drops the records of its Service, and the next
query plans them anew.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.dns.corefile import Settings
from podwire.dns.engine import Engine, make_index
from podwire.dns.index import Index
from podwire.dns.metrics import render_metrics
from podwire.dns.packed import pack_service, pack_slice
from podwire.dns.server import DnsServer, open_sockets
from podwire.dns.workers import Change, Workers, apply_change
from podwire.model.errors import MachineError
from podwire.model.objects import Key, Obj, labels_of
from podwire.model.resources import ENDPOINTSLICES, NAMESPACES, PODS, SERVICES
from podwire.model.serviceslices import SERVICE_NAME_LABEL, ServiceSlices
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get
from podwire.runtime.statusserver import Page, serve_pages

_log = get("dns")


class DnsAgent:
    """One DNS server. ``ready``: the index is complete and queries are answered."""

    def __init__(self, settings: Settings, client: Client, *, clock: Clock | None = None, host: str = "") -> None:
        self.ready = asyncio.Event()
        self.draining = False
        self._settings, self._host = settings, host
        self._clock: Clock = clock or SystemClock()
        labels = settings.kubernetes.labels if settings.kubernetes is not None else ""
        self._services = Informer(client, SERVICES, clock=clock, trim=trim_service, labels=labels)
        self._slices = Informer(client, ENDPOINTSLICES, clock=clock, trim=trim_slice)
        self._namespaces = Informer(client, NAMESPACES, clock=clock, trim=trim_namespace)
        self._pods = Informer(client, PODS, clock=clock, trim=trim_pod)
        self._join = ServiceSlices()
        self._dirty: set[Key] = set()
        self._flushing = False
        self._index = self._new_index(settings)
        self._engine = Engine(settings, self._index, self._clock)
        self.workers: Workers | None = None

    def _new_index(self, settings: Settings) -> Index:
        return make_index(settings, serial=int(self._clock.now().timestamp()))

    @property
    def server(self) -> DnsServer:
        """The sockets of this process."""
        return self._engine.server

    def reconfigure(self, settings: Settings) -> None:
        """Take new settings over without losing a query. What a process has but once stays as it was."""
        former, self._settings = self._settings, settings
        self._index = self._new_index(settings)
        for key in self._namespaces.objects:
            self._index.set_namespace(key.name, True)
        for key, pod in self._pods.objects.items():
            for ip in pod["podIPs"]:
                self._index.count_pod_address(key.namespace, ip, 1)
        for key in self._services.objects:
            self._index.put(key, *self._packed(key))
        if _once(former) != _once(settings):
            _log.warning("settings-kept", hint="ports, multisocket, labels and pods modes change with a restart")
        if self.workers is not None:
            self.workers.reconfigure(settings, self._index)
        self._engine.reconfigure(settings, self._index)

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError when a port is taken, MachineError when upstreams lead back here."""
        count = self._settings.workers if self._settings.workers >= 0 else os.cpu_count() or 1
        sockets = [open_sockets(self._settings.port, self._host, shared=bool(count))]
        while len(sockets) < count:
            sockets.append(open_sockets(sockets[0].port, self._host, shared=True))
        if count:
            self.workers = Workers(self._settings, self._index, sockets)
            self.workers.start()
        else:
            await self._engine.start(sockets[0])
        pages = await self._serve_pages()
        informers = self._listen()
        try:
            async with asyncio.TaskGroup() as group:
                for informer in informers:
                    group.create_task(informer.run())
                group.create_task(self._begin(informers, sockets[0].port))
                group.create_task(self._watch_loops())
        finally:
            self._engine.close()
            if self.workers is not None:
                self.workers.close()
            for page in pages:
                page.close()

    async def _begin(self, informers: Sequence[Informer], port: int) -> None:
        for informer in informers:
            await informer.synced.wait()
        start_s = self._clock.monotonic()
        self._flush()
        self._engine.responder.synced = True
        if self.workers is not None:
            self.workers.announce_synced()
        self.ready.set()
        _log.info(
            "serving", services=len(self._services.objects), port=port, workers=self._settings.workers,
            upstreams=sum(len(f.upstreams) for f in self._engine.forwarders), built_s=self._clock.monotonic() - start_s,
        )  # fmt: skip

    async def _watch_loops(self) -> None:
        await self._engine.loop_found.wait()
        raise MachineError(
            "dns", "forward", ".", "the upstream resolvers send queries back to this server",
            "see /etc/resolv.conf of the node: it must not name the cluster DNS",
        )  # fmt: skip

    # --- pages

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
        report = self.workers.report() if self.workers is not None else self._engine.report()
        text = render_metrics(report, len(self._index), self._settings.port)
        return Page(text, content_type="text/plain; version=0.0.4")

    # --- keeping the index

    def _listen(self) -> list[Informer]:
        """Have every change reach the index; return the collections that are mirrored."""
        self._services.listen(lambda key, old, new: self._mark(key))
        self._slices.listen(self._slice_changed)
        self._namespaces.listen(lambda key, old, new: self._change(("namespace", key.name, new is not None)))
        informers = [self._services, self._slices, self._namespaces]
        if _needs_pods(self._settings):
            self._pods.listen(self._pod_changed)
            informers.append(self._pods)
        return informers

    def _change(self, change: Change) -> None:
        apply_change(self._index, change)
        if self.workers is not None:
            self.workers.broadcast(change)

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
        for key in dirty:
            self._change(("put", key.namespace, key.name, *self._packed(key)))

    def _packed(self, key: Key) -> tuple[bytes, tuple[bytes, ...]]:
        """Return a Service and its slices as the index takes them; b"" for one that has no names."""
        service = self._services.objects.get(key)
        kubernetes = self._settings.kubernetes
        chosen = kubernetes.namespaces if kubernetes is not None else ()
        if service is None or (chosen and key.namespace not in chosen):
            return b"", ()
        held = self._slices.objects
        return service["packed"], tuple(held[k]["packed"] for k in self._join.of(key) if k in held)

    def _pod_changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        before, after = (set(pod["podIPs"]) if pod else set() for pod in (old, new))
        for ip in before - after:
            self._change(("pod", key.namespace, ip, -1))
        for ip in after - before:
            self._change(("pod", key.namespace, ip, 1))


def _needs_pods(settings: Settings) -> bool:
    verified = settings.kubernetes is not None and settings.kubernetes.pods == "verified"
    return verified or (settings.autopath is not None and settings.autopath.source == "@kubernetes")


def _once(s: Settings) -> tuple[object, ...]:
    labels = s.kubernetes.labels if s.kubernetes is not None else ""
    return s.port, s.health, s.ready, s.prometheus, s.workers, labels, _needs_pods(s)


# --- what is kept of each object


def _meta(obj: Obj, *more: str) -> Obj:
    meta = obj["metadata"]
    return {k: meta[k] for k in ("namespace", "name", "resourceVersion", *more) if k in meta}


def trim_service(service: Obj) -> Obj:
    """Return as much of a Service as its records need, packed."""
    return {"metadata": _meta(service), "packed": pack_service(service)}


def trim_slice(piece: Obj) -> Obj:
    """Return as much of an EndpointSlice as its records need, packed."""
    meta = _meta(piece)
    label = labels_of(piece).get(SERVICE_NAME_LABEL)
    if label:
        meta["labels"] = {SERVICE_NAME_LABEL: label}
    return {"metadata": meta, "packed": pack_slice(piece)}


def trim_namespace(namespace: Obj) -> Obj:
    """Return the name alone."""
    return {"metadata": _meta(namespace)}


def trim_pod(pod: Obj) -> Obj:
    """Return the name and the addresses."""
    ips = (pod.get("status") or {}).get("podIPs") or ()
    return {"metadata": _meta(pod), "podIPs": [i["ip"] for i in ips]}
