"""Keeps the kernel's Service rules as the API wants them, on one node.

    agent = ProxyAgent("node-0", node_ips, pod_cidrs, client, RealNft(), service_cidrs=...)
    group.create_task(agent.run()); await agent.synced.wait()

Nothing is programmed before Services and EndpointSlices are both complete. The first round compares with what
the kernel already holds and writes the difference, so a restart breaks nothing. After that each change costs
its own Service. The first change of a burst is applied at once, the rest together a few milliseconds later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.kernel.nft.port import NftPort
from podwire.kernel.sysctl.port import SysctlPort
from podwire.model.errors import MachineError, Problem
from podwire.model.objects import Key, Obj, labels_of
from podwire.model.resources import ENDPOINTSLICES, SERVICES
from podwire.model.serviceslices import SERVICE_NAME_LABEL
from podwire.proxy.apply.nftables import NftablesDataplane
from podwire.proxy.conntrack import FlowTable
from podwire.proxy.desired import Here, IPAddress, IPNetwork
from podwire.proxy.healthcheck import HealthChecks
from podwire.proxy.programmer import Programmer
from podwire.proxy.server import ProxyStatus, serve_status
from podwire.proxy.snapshot import Snapshot
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get

_BURST_S = 0.004
_WATCH_S = 5.0  # how often a foreign edit of the table is looked for
_MAX_BACKOFF_S = 10.0
_log = get("proxy")


class ProxyAgent:
    """The Service proxy of one node."""

    def __init__(
        self,
        node_name: str,
        node_ips: Sequence[IPAddress],
        pod_cidrs: Sequence[IPNetwork],
        client: Client,
        nft: NftPort,
        conntrack: FlowTable | None = None,
        *,
        service_cidrs: Sequence[IPNetwork] = (),
        sysctl: SysctlPort | None = None,
        zone: str = "",
        listen: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """``node_ips``: where node ports are served. ``pod_cidrs``: the whole cluster's.

        ``service_cidrs``: addresses in them that belong to no Service are dropped rather than routed away.
        ``sysctl``: lets the agent see to it that bridged packets pass netfilter.
        ``listen``: answer on 10249 and 10256.
        """
        self.synced = asyncio.Event()
        self.status = ProxyStatus()
        self.problems: dict[Key, tuple[Problem, ...]] = {}
        self._here = Here(node_name, tuple(node_ips), zone)
        self._clock: Clock = clock or SystemClock()
        self._listen, self._sysctl = listen, sysctl
        self._services = Informer(client, SERVICES, clock=clock, trim=trim_service)
        self._slices = Informer(client, ENDPOINTSLICES, clock=clock, trim=trim_slice)
        self._snapshot = Snapshot(self._services.objects, self._slices.objects)
        versions = sorted({n.version for n in (*pod_cidrs, *service_cidrs)} | {a.version for a in node_ips})
        dataplane = NftablesDataplane(nft, versions or [4], pod_cidrs, service_cidrs)
        self._programmer = Programmer(dataplane, conntrack)
        self._checks = HealthChecks(lambda: self.status.healthy, self._clock)
        self._dirty: dict[Key, float] = {}
        self._wake = asyncio.Event()
        self._adoption_s = 0.0

    async def run(self) -> None:
        """Work until cancelled."""
        self._let_netfilter_see_bridges()
        self._services.listen(self._service_changed)
        self._slices.listen(self._slice_changed)
        servers = await self._serve()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._services.run())
                group.create_task(self._slices.run())
                group.create_task(self._reconcile_for_ever())
                group.create_task(self._watch_kernel())
                if self._listen:
                    group.create_task(self._checks.run())
        finally:
            for server in servers:
                server.close()

    def _let_netfilter_see_bridges(self) -> None:
        """Two pods on one bridge answer each other past the node's IP stack, and then nobody undoes the
        Service's translation, unless bridged packets go through netfilter too."""
        if self._sysctl is None:
            return
        for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
            try:
                known = self._sysctl.set(f"net/bridge/{name}", "1")
            except MachineError as error:
                _log.warning("bridge-filter", error=str(error))
                continue
            if not known:
                _log.warning("bridge-filter", missing=name, hint="load br_netfilter, or same-node Services fail")

    async def _serve(self) -> list[asyncio.Server]:
        if not self._listen:
            return []
        try:
            return await serve_status(self.status)
        except OSError as error:  # a port in use costs the pages, not the Services
            _log.error("status-port", error=str(error), hint="does another proxy run on this node?")
            return []

    def _service_changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        self._mark(key)

    def _slice_changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        for service in self._snapshot.note_slice(key, new):
            self._mark(service)

    def _mark(self, service: Key) -> None:
        self._dirty.setdefault(service, self._clock.monotonic())
        self._wake.set()

    async def _reconcile_for_ever(self) -> None:
        await self._services.synced.wait()
        await self._slices.synced.wait()
        failures = 0
        while True:
            batch, self._dirty = self._dirty, {}
            self._wake.clear()
            try:
                self._reconcile(batch)
                failures = 0
            except MachineError as error:
                failures += 1
                self._failed(error, batch)
                await self._clock.sleep(min(_MAX_BACKOFF_S, 0.02 * 2 ** min(failures, 10)))
                continue
            await self._clock.sleep(_BURST_S)
            await self._wake.wait()

    def _failed(self, error: MachineError, batch: dict[Key, float]) -> None:
        self._programmer.forget()
        self._dirty = batch | self._dirty
        self.status.failures += 1
        self.status.healthy, self.status.why = False, str(error)
        _log.error("sync-failed", error=str(error), services=len(batch))

    def _reconcile(self, batch: dict[Key, float]) -> None:
        start_s = self._clock.monotonic()
        whole = not self._programmer.adopted
        keys = self._snapshot.keys() if whole else batch.keys()
        plans = {k: self._snapshot.plan(k, self._here) for k in keys}
        outcome = self._programmer.program(plans)
        self._checks.note(plans, whole=whole)
        now_s = self._clock.monotonic()
        for key, problems in outcome.problems.items():
            self._tell(key, problems)
        for seen_s in batch.values():
            self.status.programming.observe(now_s - seen_s)
        self.status.sync.observe(now_s - start_s)
        self.status.services, self.status.frontends = self._programmer.count()
        self.status.healthy, self.status.why = True, ""
        self.status.last_sync_s = self._clock.now().timestamp()
        if whole:
            self._adoption_s = now_s - start_s
        if outcome.changed or not self.synced.is_set():
            _log.info(
                "reconciled", node=self._here.node, services=len(outcome.planned), changed=outcome.changed,
                flows_forgotten=outcome.flows_forgotten, took_s=now_s - start_s,
            )  # fmt: skip
        self.synced.set()

    def _tell(self, key: Key, problems: tuple[Problem, ...]) -> None:
        if problems == self.problems.get(key, ()):
            return
        for problem in problems:
            _log.warning("service-problem", problem=str(problem))
        if problems:
            self.problems[key] = problems
        else:
            self.problems.pop(key, None)

    async def _watch_kernel(self) -> None:
        """Notice transactions of others, compare with the kernel, and repair."""
        await self.synced.wait()
        while True:
            # Reading a large table back takes long: it may cost at most a fiftieth of the time.
            await self._clock.sleep(max(_WATCH_S, 50 * self._adoption_s))
            try:
                if self._programmer.disturbed():
                    self._programmer.forget()
                    self._wake.set()
            except MachineError as error:
                _log.warning("kernel-unreadable", error=str(error))


def trim_service(service: Obj) -> Obj:
    """Return as much of a Service as the plan reads."""
    meta = service["metadata"]
    kept = {k: meta[k] for k in ("namespace", "name", "resourceVersion", "creationTimestamp", "labels") if k in meta}
    trimmed: Obj = {"kind": "Service", "metadata": kept, "spec": service.get("spec") or {}}
    if service.get("status"):
        trimmed["status"] = service["status"]
    return trimmed


def trim_slice(piece: Obj) -> Obj:
    """Return as much of an EndpointSlice as the plan reads."""
    meta = piece["metadata"]
    label = labels_of(piece).get(SERVICE_NAME_LABEL)
    kept = {k: meta[k] for k in ("namespace", "name", "resourceVersion") if k in meta}
    if label:
        kept["labels"] = {SERVICE_NAME_LABEL: label}
    endpoints = [
        {k: e[k] for k in ("addresses", "conditions", "nodeName", "hints") if k in e}
        for e in piece.get("endpoints") or ()
    ]
    return {
        "kind": "EndpointSlice", "metadata": kept, "addressType": piece.get("addressType"),
        "ports": piece.get("ports"), "endpoints": endpoints,
    }  # fmt: skip
