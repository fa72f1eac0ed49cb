"""Answers for load-balancer addresses on one node, as the Services' annotations say.

    announcer = Announcer("node-0", client, RealAnnounce(node_ips, RealSysctl()))
    group.create_task(announcer.run())

While it answers for any address it renews a Lease each second; the controller that hears nothing for four
seconds names another node. The addresses stay in the kernel when this process dies, so its restart within
that time is noticed by nobody. When the API cannot be reached nothing changes: nobody could take over.
"""

from __future__ import annotations

import asyncio

from podwire.client.errors import AlreadyExists, ApiError, NotFound
from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.kernel.announce.port import AnnouncePort, IPAddress
from podwire.loadbalancer.plan import plan_addresses
from podwire.model.errors import MachineError
from podwire.model.loadbalancers import ANNOUNCER, LEASE_NAMESPACE, LEASE_S, RENEW_S, is_ours, lease_name
from podwire.model.objects import Key, Obj, micro_timestamp
from podwire.model.resources import LEASES, SERVICES
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get

_SHOUTS_S = (0.0, 0.5, 1.1, 2.5)  # Linux ignores news of a neighbour that come within 1 s of the last (locktime)
_AGAIN_S = 1.0
_OF_OUR_TYPE = "spec.type=LoadBalancer"
_log = get("loadbalancer")


class Announcer:
    """The announcer of one node."""

    def __init__(self, node: str, client: Client, port: AnnouncePort, clock: Clock | None = None) -> None:
        self._node, self._client, self._port = node, client, port
        self._clock: Clock = clock or SystemClock()
        self._services = Informer(client, SERVICES, fields=_OF_OUR_TYPE, clock=clock, trim=trim_service)
        self._changed = asyncio.Event()
        self._holding = asyncio.Event()
        self._present = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        self._services.listen(self._service_changed)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._services.run())
            group.create_task(self._renew_for_ever())
            await self._services.synced.wait()
            while True:
                self._changed.clear()
                try:
                    fresh = self._reconcile()
                except MachineError as error:
                    _log.error("announce-failed", node=self._node, error=str(error))
                    await self._clock.sleep(_AGAIN_S)
                    continue
                if fresh:
                    group.create_task(self._shout(fresh))
                await self._changed.wait()

    def _service_changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if new is not None and is_ours(new):
            self._present.set()
        self._changed.set()

    def _reconcile(self) -> frozenset[IPAddress]:
        """Hold what is wanted and no more; return what is new. Raises MachineError."""
        wanted, held = plan_addresses(self._services.objects.values(), self._node), self._port.held()
        fresh, gone = wanted - held, held - wanted
        self._port.release(gone)
        self._port.hold(fresh)
        if wanted:
            self._holding.set()
        else:
            self._holding.clear()
        if fresh or gone:
            _log.info("reconciled", node=self._node, taken=len(fresh), left=len(gone), held=len(wanted))
        return fresh

    async def _shout(self, addresses: frozenset[IPAddress]) -> None:
        before_s = 0.0
        for at_s in _SHOUTS_S:
            await self._clock.sleep(at_s - before_s)
            before_s = at_s
            try:
                self._port.shout(sorted(addresses & self._port.held(), key=str))
            except MachineError as error:
                _log.warning("shout-failed", node=self._node, error=str(error))

    async def _renew_for_ever(self) -> None:
        """Have a Lease once there are load balancers; renew it while this node answers for one."""
        await self._present.wait()
        await self._services.synced.wait()
        heard_s = self._clock.monotonic()
        while True:
            try:
                await self._renew()
                if self._clock.monotonic() - heard_s > LEASE_S:
                    await self._yield()
            except (ApiError, MachineError) as error:
                _log.debug("renew-failed", node=self._node, error=str(error))
                await self._clock.sleep(RENEW_S)
                continue
            heard_s = self._clock.monotonic()
            await self._clock.sleep(RENEW_S)
            if not self._holding.is_set():
                await self._holding.wait()
                heard_s = self._clock.monotonic()

    async def _yield(self) -> None:
        """After a silence in which others may have taken over: let go of what is theirs now.

        Asked, not read from the mirror: the watch may take long to notice that its connection is broken.
        """
        listing = await self._client.list(SERVICES, fields=_OF_OUR_TYPE)
        lost = self._port.held() - plan_addresses(listing.items, self._node)
        self._port.release(lost)
        _log.info("came-back", node=self._node, lost=len(lost))

    async def _renew(self) -> None:
        spec = {
            "holderIdentity": self._node,
            "leaseDurationSeconds": LEASE_S,
            "renewTime": micro_timestamp(self._clock.now()),
        }
        name = lease_name(self._node)
        try:
            await self._client.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
        except NotFound:
            meta = {"name": name, "namespace": LEASE_NAMESPACE}
            lease: Obj = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": meta, "spec": spec}
            try:
                await self._client.create(LEASES, lease)
            except AlreadyExists:  # somebody was faster: the next renewal finds it
                return


def trim_service(service: Obj) -> Obj:
    """Return as much of a Service as the plan reads."""
    meta, spec, status = service["metadata"], service.get("spec") or {}, service.get("status") or {}
    kept = {k: meta[k] for k in ("namespace", "name", "resourceVersion", "deletionTimestamp") if k in meta}
    announcer = (meta.get("annotations") or {}).get(ANNOUNCER)
    if announcer:
        kept["annotations"] = {ANNOUNCER: announcer}
    return {
        "kind": "Service", "metadata": kept, "status": {"loadBalancer": status.get("loadBalancer") or {}},
        "spec": {k: spec[k] for k in ("type", "loadBalancerClass") if k in spec},
    }  # fmt: skip
