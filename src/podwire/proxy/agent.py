"""Keeps the kernel's Service rules as the API wants them, on one node.

    agent = ProxyAgent("node-0", node_ips, pod_cidrs, client, RealNft(), service_cidrs=...)
    group.create_task(agent.run()); await agent.synced.wait()

Nothing is programmed before Services and EndpointSlices are both complete. The first round compares with what
the kernel already holds and writes the difference, so a restart breaks nothing. After that each change costs
its own Service. The first change of a burst is applied at once, the rest together a few milliseconds later.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.kernel.iptables.port import IptablesPort
from podwire.kernel.nft.port import NftPort
from podwire.kernel.sysctl.port import SysctlPort
from podwire.model.errors import MachineError, Problem, Unsupported
from podwire.model.objects import Key, Obj, describe, labels_of
from podwire.model.resources import CONFIGMAPS, ENDPOINTSLICES, NODES, SERVICES
from podwire.model.serviceslices import SERVICE_NAME_LABEL
from podwire.proxy import modes
from podwire.proxy.apply.iptables import IptablesDataplane
from podwire.proxy.apply.nftables import NftablesDataplane
from podwire.proxy.apply.port import Dataplane
from podwire.proxy.conntrack import FlowTable
from podwire.proxy.desired import Here, IPAddress, IPNetwork
from podwire.proxy.healthcheck import HealthChecks
from podwire.proxy.programmer import Programmer
from podwire.proxy.report import Reporter
from podwire.proxy.server import ProxyStatus, serve_status
from podwire.proxy.snapshot import Snapshot, pack, trim_endpoint, unpack
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get

ZONE_LABEL = "topology.kubernetes.io/zone"
_BURST_S = 0.004
_PATIENCE_S = 1.0
_MANY = 500  # Services, from which on the collector of garbage is worth a thought
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
        iptables: IptablesPort | None = None,
        mode: str = modes.DEFAULT,
    ) -> None:
        """``node_ips``: where node ports are served. ``pod_cidrs``: the whole cluster's.

        ``service_cidrs``: addresses in them that belong to no Service are dropped rather than routed away.
        ``sysctl``: lets the agent see to it that bridged packets pass netfilter.
        ``listen``: answer on 10249 and 10256. ``mode``: where the ConfigMap kube-system/kube-proxy names none.
        ``zone``: where the Node's label names none.
        """
        self.synced = asyncio.Event()
        self.status = ProxyStatus()
        self.problems: dict[Key, tuple[Problem, ...]] = {}
        self._here, self._zone = Here(node_name, tuple(node_ips), zone), zone
        self._clock: Clock = clock or SystemClock()
        self._listen, self._sysctl = listen, sysctl
        self._services = Informer(client, SERVICES, clock=clock, trim=trim_service)
        self._slices = Informer(client, ENDPOINTSLICES, clock=clock, trim=trim_slice)
        self._snapshot = Snapshot(self._services.objects, self._slices.objects)
        versions = sorted({n.version for n in (*pod_cidrs, *service_cidrs)} | {a.version for a in node_ips})
        frame = versions or [4], pod_cidrs, service_cidrs
        self._dataplanes: dict[str, Dataplane] = {"nftables": NftablesDataplane(nft, *frame)}
        if iptables is not None:
            self._dataplanes["iptables"] = IptablesDataplane(iptables, *frame, nft.generation)
        self._default_mode = self._mode = mode
        self._superseded: str = ""  # the mode whose rules are to go once the new one's are in place
        self.status.mode = mode
        self._programmer = Programmer(self._dataplanes[mode], conntrack)
        self._config = Informer(
            client, CONFIGMAPS, modes.CONFIG_NAMESPACE, fields=f"metadata.name={modes.CONFIG_NAME}", clock=clock
        )
        self._node = Informer(client, NODES, fields=f"metadata.name={node_name}", clock=clock, trim=trim_node)
        self._reporter = Reporter(client, self._clock)
        self._checks = HealthChecks(lambda: self.status.healthy, self._clock)
        self._dirty: dict[Key, float] = {}
        self._wake = asyncio.Event()
        self._adoption_s = 0.0

    async def run(self) -> None:
        """Work until cancelled."""
        self._let_netfilter_see_bridges()
        self._services.listen(self._service_changed)
        self._slices.listen(self._slice_changed)
        self._config.listen(self._config_changed)
        self._node.listen(self._node_changed)
        servers = await self._serve()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._services.run())
                group.create_task(self._slices.run())
                group.create_task(self._config.run())
                group.create_task(self._node.run())
                group.create_task(self._reporter.run())
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

    def _config_changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if key != (modes.CONFIG_NAMESPACE, modes.CONFIG_NAME):
            return
        mode, problem = modes.choose(new, self._mode if new is not None else self._default_mode)
        if problem is None and mode not in self._dataplanes:
            problem = Problem(describe(new or {}), "mode", f"{mode!r} cannot be had on this node")
            mode = self._mode
        if problem is not None and new is not None:
            self._reporter.tell(new | {"kind": "ConfigMap"}, problem, "ProxyModeRefused")
        if mode != self._mode:
            self._mode = mode
            self._wake.set()

    def _node_changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        labels = labels_of(new) if new is not None and key.name == self._here.node else {}
        zone = labels.get(ZONE_LABEL, self._zone)
        if zone != self._here.zone:
            self._here = replace(self._here, zone=zone)
            for service in self._services.objects:
                self._mark(service)

    def _mark(self, service: Key) -> None:
        self._dirty.setdefault(service, self._clock.monotonic())
        self._wake.set()

    async def _reconcile_for_ever(self) -> None:
        await self._services.synced.wait()
        await self._slices.synced.wait()
        with suppress(TimeoutError):  # without a readable configuration, the mode that this node was given
            await asyncio.wait_for(asyncio.gather(self._config.synced.wait(), self._node.synced.wait()), _PATIENCE_S)
        failures = 0
        while True:
            batch, self._dirty = self._dirty, {}
            self._wake.clear()
            try:
                self._follow_mode()
                await self._reconcile(batch)
                failures = 0
            except MachineError as error:
                failures += 1
                self._failed(error, batch)
                await self._clock.sleep(min(_MAX_BACKOFF_S, 0.02 * 2 ** min(failures, 10)))
                continue
            await self._clock.sleep(_BURST_S)
            await self._wake.wait()

    def _follow_mode(self) -> None:
        if self.status.mode != self._mode:
            _log.info("mode", old=self.status.mode, new=self._mode)
            self._superseded, self.status.mode = self.status.mode, self._mode
            self._programmer.switch(self._dataplanes[self._mode])

    def _failed(self, error: MachineError, batch: dict[Key, float]) -> None:
        self._programmer.forget()
        if isinstance(error, Unsupported) and self._superseded:  # the old mode's rules still stand: keep to it
            config = self._config.objects.get(Key(modes.CONFIG_NAMESPACE, modes.CONFIG_NAME))
            if config is not None:
                problem = Problem(describe(config | {"kind": "ConfigMap"}), "mode", str(error))
                self._reporter.tell(config | {"kind": "ConfigMap"}, problem, "ProxyModeRefused")
            self._mode = self._superseded
        self._dirty = batch | self._dirty
        self.status.failures += 1
        self.status.healthy, self.status.why = False, str(error)
        _log.error("sync-failed", error=str(error), services=len(batch))

    async def _reconcile(self, batch: dict[Key, float]) -> None:
        whole = not self._programmer.adopted
        if not whole:
            await self._write_rules(batch, whole)
            return
        # What is built here stays: looking for garbage in it again and again would double the time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            await self._write_rules(batch, whole)
        finally:
            if collecting:
                gc.enable()
            if len(self._services.objects) > _MANY:
                gc.freeze()

    async def _write_rules(self, batch: dict[Key, float], whole: bool) -> None:
        start_s = self._clock.monotonic()
        keys = self._snapshot.keys() if whole else batch.keys()
        plans = {k: self._snapshot.plan(k, self._here) for k in keys}
        if self.status.mode == "iptables":  # programs are started: the rest of the node must not wait for them
            outcome = await asyncio.to_thread(self._programmer.program, plans)
        else:
            outcome = self._programmer.program(plans)
        if self._superseded:
            self._dataplanes[self._superseded].remove()
            self._superseded = ""
        self._checks.note(plans, whole=whole)
        now_s = self._clock.monotonic()
        for key, problems in outcome.problems.items():
            self._tell(key, problems)
        for seen_s in batch.values():
            self.status.programming.observe(now_s - seen_s)
        self.status.sync.observe(now_s - start_s)
        self.status.services, self.status.frontends = self._programmer.count()
        self.status.healthy, self.status.why = True, ""
        self.status.rounds += 1
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
        known, service = self.problems.get(key, ()), self._services.objects.get(key)
        for problem in problems:
            if problem not in known and service is not None:
                self._reporter.tell(unpack(service), problem, "ServiceProblem")
        if problems:
            self.problems[key] = problems
        else:
            self.problems.pop(key, None)

    async def _watch_kernel(self) -> None:
        """Notice transactions of others, compare with the kernel, and repair."""
        await self.synced.wait()
        await self._clock.sleep(_WATCH_S)
        self._clear_other_modes()
        while True:
            # Reading a large table back takes long: it may cost at most a fiftieth of the time.
            await self._clock.sleep(max(_WATCH_S, 50 * self._adoption_s))
            try:
                if self._programmer.disturbed():
                    self._programmer.forget()
                    self._wake.set()
            except MachineError as error:
                _log.warning("kernel-unreadable", error=str(error))

    def _clear_other_modes(self) -> None:
        """Remove what an agent in another mode may have left before this one was started."""
        for mode, dataplane in self._dataplanes.items():
            if mode != self.status.mode:
                try:
                    dataplane.remove()
                except MachineError as error:
                    _log.debug("other-mode", mode=mode, error=str(error))


def trim_node(node: Obj) -> Obj:
    """Return as much of a Node as the plan reads."""
    meta = node["metadata"]
    labels = {ZONE_LABEL: labels_of(node)[ZONE_LABEL]} if ZONE_LABEL in labels_of(node) else {}
    kept = {k: meta[k] for k in ("name", "resourceVersion") if k in meta}
    return {"kind": "Node", "metadata": kept | {"labels": labels}}


def trim_service(service: Obj) -> Obj:
    """Return as much of a Service as the plan reads, packed."""
    meta = service["metadata"]
    kept = {k: meta[k] for k in ("namespace", "name", "uid", "creationTimestamp", "labels") if k in meta}
    trimmed: Obj = {"kind": "Service", "metadata": kept, "spec": service.get("spec") or {}}
    if service.get("status"):
        trimmed["status"] = service["status"]
    return pack(meta, trimmed)


def trim_slice(piece: Obj) -> Obj:
    """Return as much of an EndpointSlice as the plan reads, packed; the label that joins it stays readable."""
    meta = piece["metadata"]
    label = labels_of(piece).get(SERVICE_NAME_LABEL)
    trimmed = {
        "kind": "EndpointSlice", "metadata": {k: meta[k] for k in ("namespace", "name") if k in meta},
        "addressType": piece.get("addressType"), "ports": piece.get("ports"),
        "endpoints": [trim_endpoint(e) for e in piece.get("endpoints") or ()],
    }  # fmt: skip
    return pack(meta, trimmed, {SERVICE_NAME_LABEL: label} if label else None)
