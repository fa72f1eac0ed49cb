"""The loops of load balancers: addresses for Services, announcers for addresses, the pools' own status."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from podwire.controllers.loadbalancers.plan import (
    elect,
    eligible_nodes,
    is_local,
    nodes_with_endpoints,
    plan_allocation,
    plan_status,
)
from podwire.controllers.loadbalancers.pools import Pool, parse_pool
from podwire.controllers.shared import Shared
from podwire.controllers.workload import keyed_loop, status_differs
from podwire.model.loadbalancers import (
    ANNOUNCER,
    LEASE_S,
    POOLS,
    IPAddress,
    announcer_of,
    ingress_addresses,
    is_ours,
    node_of_lease,
)
from podwire.model.objects import Key, Obj, is_deleting, is_ready, labels_of, timestamp
from podwire.model.resources import ENDPOINTSLICES, LEASES, NODES, SERVICES
from podwire.model.serviceslices import SERVICE_NAME_LABEL

COMPONENT = "podwire-loadbalancer"
_SUSPECT_S = 30.0


class Announcers:
    """Which nodes have an announcer, and which of them have fallen silent."""

    def __init__(self, shared: Shared) -> None:
        self._clock = shared.clock
        self._renewed: dict[str, tuple[str, float]] = {}  # node -> renewTime, and when it was seen to change
        self._suspected: dict[str, float] = {}

    def observe(self, node: str, lease: Obj | None) -> bool:
        """Take in a Lease (None: deleted); return whether its node is new or back."""
        if lease is None:
            self._renewed.pop(node, None)
            return False
        moment = (lease.get("spec") or {}).get("renewTime") or ""
        known = self._renewed.get(node)
        if known is not None and known[0] == moment:
            return False
        self._renewed[node] = (moment, self._clock.monotonic())
        return self._suspected.pop(node, None) is not None or known is None

    def known(self) -> Iterable[str]:
        """Return the nodes that have an announcer."""
        return self._renewed.keys()

    def silent(self) -> set[str]:
        """Return the nodes that were suspected lately and have said nothing since."""
        now_s = self._clock.monotonic()
        return {n for n, at_s in self._suspected.items() if now_s - at_s < _SUSPECT_S}

    def left_s(self, node: str, since_s: float) -> float:
        """Return for how long the node may stay silent still; it was given its work at ``since_s``."""
        heard_s = self._renewed.get(node, ("", 0.0))[1]
        return max(heard_s, since_s) + LEASE_S - self._clock.monotonic()

    def suspect(self, node: str) -> None:
        """Take the node for dead until it says something."""
        self._suspected[node] = self._clock.monotonic()


class LoadBalancers:
    """Gives Services of type LoadBalancer addresses of the pools, and each a node that answers for them."""

    def __init__(self, shared: Shared) -> None:
        self._shared, self._client = shared, shared.client
        self._services = shared.informer(SERVICES)
        self._nodes, self._pools = shared.informer(NODES), shared.informer(POOLS)
        self._slices_of = shared.index("service/endpointslices", ENDPOINTSLICES, _service_of)
        self._held: dict[Key, tuple[IPAddress, ...]] = {}  # the truth: ahead of what the mirror shows
        self._owners: dict[IPAddress, Key] = {}
        self._since: dict[Key, tuple[str, float]] = {}  # the announcer that was named, and when
        self._said: dict[Key, str] = {}
        self._announcers = Announcers(shared)
        self._loop = keyed_loop(shared, self._reconcile, workers=1)  # one at a time: none gets another's address
        self._pool_loop = keyed_loop(shared, self._reconcile_pool, workers=1)
        self._listen(shared)

    def _listen(self, shared: Shared) -> None:
        self._services.listen(self._service)
        self._pools.listen(self._pool)
        self._nodes.listen(self._node)
        shared.informer(LEASES).listen(self._lease)
        shared.informer(ENDPOINTSLICES).listen(self._slice)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(SERVICES, NODES, ENDPOINTSLICES, LEASES)
        for key, service in sorted(self._services.objects.items(), key=_by_age):
            if is_ours(service):
                self._take(key, [a for a in ingress_addresses(service) if a not in self._owners])
        await self._shared.synced(POOLS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop.run())
            group.create_task(self._pool_loop.run())

    # --- who is woken by what

    def _service(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if any(o is not None and (is_ours(o) or announcer_of(o)) for o in (old, new)) or key in self._held:
            self._loop.add(key)

    def _pool(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if old is not None and new is not None and old.get("spec") == new.get("spec"):
            return
        self._pool_loop.add(key)
        self._wake_all()

    def _node(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        facts = [o is not None and (is_ready(o), dict(labels_of(o))) for o in (old, new)]
        if facts[0] != facts[1]:
            self._wake_all()

    def _lease(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        node = node_of_lease(*key)
        if node and self._announcers.observe(node, new):
            self._wake_all()

    def _slice(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        for piece in (old, new):
            owner = Key(key.namespace, labels_of(piece).get(SERVICE_NAME_LABEL, "") if piece is not None else "")
            service = self._services.objects.get(owner)
            if service is not None and is_ours(service) and is_local(service):
                self._loop.add(owner)

    def _wake_all(self) -> None:
        for key, service in self._services.objects.items():
            if is_ours(service):
                self._loop.add(key)

    # --- one Service

    async def _reconcile(self, key: Key) -> float | None:
        service = self._services.objects.get(key)
        if service is None or is_deleting(service):
            self._release(key)
            return None
        if not is_ours(service):
            await self._give_up(key, service)
            return None
        held = self._held.get(key, ())
        others = {a for a, owner in self._owners.items() if owner != key}
        allocation = plan_allocation(service, held, self._usable_pools(), others)
        self._take(key, allocation.addresses)
        status = plan_status(service, allocation, timestamp(self._shared.clock.now()))
        if status_differs(status, {k: v for k, v in (service.get("status") or {}).items() if k in status}):
            await self._patch(key, {"status": status}, "status")
        self._say(key, service, held, allocation.why)
        return await self._name_announcer(key, service) if allocation.addresses else None

    def _usable_pools(self) -> list[Pool]:
        return [parse_pool(p) for _, p in sorted(self._pools.objects.items()) if not is_deleting(p)]

    async def _name_announcer(self, key: Key, service: Obj) -> float | None:
        """See to it that a living node answers; return when to look again."""
        current = announcer_of(service)
        named, since_s = self._since.get(key, ("", 0.0))
        now_s = self._shared.clock.monotonic()
        if current and named != current:
            named, since_s = self._since[key] = (current, now_s)
        if current and self._announcers.left_s(current, since_s) <= 0:
            self._announcers.suspect(current)
        candidates = eligible_nodes(self._nodes.objects.values(), set(self._announcers.known()))
        if is_local(service):
            candidates &= nodes_with_endpoints(self._slices_of.of((key.namespace, key.name)))
        chosen = elect(key, current, candidates, self._announcers.silent())
        if chosen != current:
            await self._patch(key, {"metadata": {"annotations": {ANNOUNCER: chosen or None}}})
            if chosen:
                self._since[key] = (chosen, self._shared.clock.monotonic())
                message = f'announcing from node "{chosen}" with layer 2'
                self._shared.recorder.normal(service, "NodeAssigned", message, COMPONENT)
        if not chosen:
            return None
        return max(0.2, self._announcers.left_s(chosen, self._since[key][1]) + 0.05)

    def _say(self, key: Key, service: Obj, before: tuple[IPAddress, ...], why: str) -> None:
        now = self._held.get(key, ())
        if now and now != before:
            text = "Assigned IP " + ", ".join(map(str, now))
            self._shared.recorder.normal(service, "IPAllocated", text, COMPONENT)
        if why and self._said.get(key) != why:
            self._shared.recorder.warning(service, "AllocationFailed", why, COMPONENT)
        if why:
            self._said[key] = why
        else:
            self._said.pop(key, None)

    async def _give_up(self, key: Key, service: Obj) -> None:
        """Clear what we wrote on a Service that is no load balancer (of ours) any more."""
        was_ours = key in self._held
        self._release(key)
        if announcer_of(service):
            await self._patch(key, {"metadata": {"annotations": {ANNOUNCER: None}}})
        if (was_ours or service["spec"].get("type") != "LoadBalancer") and ingress_addresses(service):
            await self._patch(key, {"status": {"loadBalancer": {"ingress": None}}}, "status")

    async def _patch(self, key: Key, patch: Obj, subresource: str = "") -> None:
        await self._client.patch(SERVICES, key.name, patch, key.namespace, subresource=subresource)

    def _take(self, key: Key, addresses: Iterable[IPAddress]) -> None:
        mine = tuple(addresses)
        before = self._held.get(key, ())
        if mine == before and key in self._held:
            return
        for address in before:
            self._owners.pop(address, None)
        self._owners.update(dict.fromkeys(mine, key))
        self._held[key] = mine
        self._wake_pools()
        if set(before) - set(mine):
            self._wake_all()  # somebody may be waiting for it

    def _release(self, key: Key) -> None:
        if key in self._held:
            self._take(key, ())
            del self._held[key]
        self._since.pop(key, None)
        self._said.pop(key, None)

    # --- the pools

    def _wake_pools(self) -> None:
        for key in self._pools.objects:
            self._pool_loop.add(key)

    async def _reconcile_pool(self, key: Key) -> float | None:
        obj = self._pools.objects.get(key)
        if obj is None or is_deleting(obj):
            return None
        pool = parse_pool(obj)
        status: Obj = {"assigned": sum(1 for a in self._owners if pool.has(a))}
        status["problems"] = [f"{p.field}: {p.why}" for p in pool.problems]
        if status_differs(status, obj.get("status")):
            await self._client.patch(POOLS, key.name, {"status": status}, subresource="status")
        if pool.problems and (obj.get("status") or {}).get("problems") != status["problems"]:
            self._shared.recorder.warning(obj, "InvalidPool", "; ".join(status["problems"]), COMPONENT)
        return None


def _service_of(piece: Obj) -> Iterable[tuple[str, ...]]:
    name = labels_of(piece).get(SERVICE_NAME_LABEL)
    return ((piece["metadata"].get("namespace", ""), name),) if name else ()


def _by_age(item: tuple[Key, Obj]) -> tuple[str, Key]:
    key, service = item
    return service["metadata"].get("creationTimestamp") or "~", key
