"""The loops of endpoints: each Service is planned as a whole, coalesced, one write per change."""

from __future__ import annotations

from podwire.client.errors import AlreadyExists
from podwire.controllers.children import Children, generated_name
from podwire.controllers.endpoints.hints import Topology, wants_auto, with_hints
from podwire.controllers.endpoints.legacy import (
    MIRRORER,
    mirror_annotations,
    mirror_labels,
    parse_legacy,
    plan_legacy,
    says_the_same,
    should_mirror,
)
from podwire.controllers.endpoints.plan import (
    CONTROLLER,
    MANAGED_BY,
    SERVICE_NAME,
    TRIGGER_TIME,
    ZONE,
    families_of,
    plan_endpoints,
    pod_facts,
    selector_of,
    slice_labels,
)
from podwire.controllers.endpoints.slices import SliceChanges, SliceOwner, plan_slices
from podwire.controllers.endpoints.trigger import TriggerTimes
from podwire.controllers.scheduler.quantity import parse_milli
from podwire.controllers.shared import Shared, all_of
from podwire.controllers.workload import Pace, keyed_loop
from podwire.model.objects import Key, Obj, annotations_of, controller_of, is_deleting, is_ready, key_of, labels_of
from podwire.model.resources import ENDPOINTS, ENDPOINTSLICES, NODES, PODS, SERVICES
from podwire.runtime.workloop import WorkLoop


class _ServicePods:
    """Which pods a Service selects, and which Services a changed pod concerns."""

    def __init__(self, shared: Shared, loop: WorkLoop[Key]) -> None:
        self._services = shared.informer(SERVICES)
        self._nodes = shared.informer(NODES)
        self._loop, self._pace = loop, Pace(loop)
        self._in_namespace = shared.index("namespace/services", SERVICES, _namespace_of)
        self._pods_in = shared.index("namespace/pods", PODS, _namespace_of)
        self._services.listen(self._service)
        shared.informer(PODS).listen(self._pod)
        self._nodes.listen(self._node)

    def selected(self, service: Obj) -> list[Obj]:
        """Return the pods that match the Service's selector; empty without one."""
        selector = selector_of(service)
        if selector is None:
            return []
        return [p for p in self._pods_in.of(service["metadata"]["namespace"]) if selector.matches(labels_of(p))]

    def zones(self) -> dict[str, str]:
        """Return the zone of each node that has one."""
        return {k.name: z for k, n in self._nodes.objects.items() if (z := labels_of(n).get(ZONE))}

    def topology(self, service: Obj) -> Topology:
        """Return where the nodes are; their CPUs only for a Service that shares by them."""
        if not wants_auto(service):
            return Topology(self.zones(), {})
        cpu_milli: dict[str, int] = {}
        for node in self._nodes.objects.values():
            if is_ready(node):
                zone, cpu = labels_of(node).get(ZONE), _cpu_milli(node)
                if not zone or not cpu:
                    return Topology(self.zones(), {})
                cpu_milli[zone] = cpu_milli.get(zone, 0) + cpu
        return Topology(self.zones(), cpu_milli)

    def _service(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        self._loop.add(key)

    def _pod(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if old is not None and new is not None and pod_facts(old) == pod_facts(new):
            return
        for service in self._in_namespace.of(key.namespace):
            selector = selector_of(service)
            if selector is not None and any(o is not None and selector.matches(labels_of(o)) for o in (old, new)):
                self._pace.add(key_of(service))

    def _node(self, node_key: Key, old: Obj | None, new: Obj | None) -> None:
        facts = [(labels_of(o).get(ZONE), is_ready(o), _cpu_milli(o)) if o is not None else None for o in (old, new)]
        if facts[0] == facts[1]:
            return
        moved = (facts[0] or (None,))[0] != (facts[1] or (None,))[0]
        for key, service in self._services.objects.items():
            if moved or wants_auto(service):
                self._loop.add(key)


def _cpu_milli(node: Obj) -> int:
    return parse_milli(((node.get("status") or {}).get("allocatable") or {}).get("cpu", "0"))


def _namespace_of(obj: Obj) -> tuple[str, ...]:
    return (obj["metadata"].get("namespace", ""),)


async def _write_slices(slices: Children, owner: Obj, changes: SliceChanges) -> None:
    """Write the changes; what appears is written before what goes, so no endpoint is ever missing."""
    base = f"{owner['metadata']['name']}-"
    created = [{**s, "metadata": {**s["metadata"], "name": generated_name(base)}} for s in changes.create]
    await all_of([*(slices.create(owner, s) for s in created), *(slices.update(owner, s) for s in changes.update)])
    await all_of([slices.delete(owner, s) for s in changes.delete])


class EndpointSlices:
    """Keeps the slices of every Service with a selector."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._services = shared.informer(SERVICES)
        self._slices = Children(shared, ENDPOINTSLICES)
        self._times = TriggerTimes()
        self._loop = keyed_loop(shared, self._reconcile, workers=4)
        self._pods = _ServicePods(shared, self._loop)
        self._slices.listen(self._slice)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(SERVICES, PODS, NODES, ENDPOINTSLICES)
        await self._loop.run()

    def _slice(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        for obj in (old, new):
            if obj is not None and labels_of(obj).get(MANAGED_BY) == CONTROLLER and SERVICE_NAME in labels_of(obj):
                self._loop.add(Key(key.namespace, labels_of(obj)[SERVICE_NAME]))

    async def _reconcile(self, key: Key) -> float | None:
        service = self._services.objects.get(key)
        if service is None:
            self._times.forget(key)
            return None  # its slices are owned, hence garbage
        if is_deleting(service) or selector_of(service) is None:
            return None
        pods = self._pods.selected(service)
        topology = self._pods.topology(service)
        wanted = with_hints(service, plan_endpoints(service, pods, topology.zones), topology)
        owner = SliceOwner(service, slice_labels(service), families_of(service))
        existing = [s for s in self._slices.of(service) if labels_of(s).get(MANAGED_BY) == CONTROLLER]
        changes = plan_slices(owner, existing, wanted, self._times.of(service, pods))
        await _write_slices(self._slices, service, changes)
        return None


class LegacyEndpoints:
    """Keeps the Endpoints object of every Service with a selector."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._services = shared.informer(SERVICES)
        self._endpoints = shared.informer(ENDPOINTS)
        self._times = TriggerTimes()
        self._loop = keyed_loop(shared, self._reconcile, workers=2)
        self._pods = _ServicePods(shared, self._loop)
        self._endpoints.listen(lambda key, old, new: self._loop.add(key))

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(SERVICES, PODS, NODES, ENDPOINTS)
        await self._loop.run()

    async def _reconcile(self, key: Key) -> float | None:
        service, present = self._services.objects.get(key), self._endpoints.objects.get(key)
        if service is None:
            self._times.forget(key)
            if present is not None and _is_ours(present):
                await self._shared.client.delete(ENDPOINTS, key.name, key.namespace, uid=present["metadata"]["uid"])
            return None
        if is_deleting(service) or selector_of(service) is None:
            return None
        pods = self._pods.selected(service)
        wanted = plan_legacy(service, plan_endpoints(service, pods, {}), self._times.of(service, pods))
        if present is None:
            try:
                await self._shared.client.create(ENDPOINTS, wanted)
            except AlreadyExists:
                return 0.05
        elif not says_the_same(present, wanted):
            meta = {**present["metadata"], **wanted["metadata"]}
            await self._shared.client.update(ENDPOINTS, {**wanted, "metadata": meta})
        return None


def _is_ours(endpoints: Obj) -> bool:
    return labels_of(endpoints).get("endpoints.kubernetes.io/managed-by") == "endpoint-controller"


class MirroredEndpoints:
    """Makes slices of the Endpoints that people write for Services without a selector."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._services = shared.informer(SERVICES)
        self._endpoints = shared.informer(ENDPOINTS)
        self._nodes = shared.informer(NODES)
        self._slices = Children(shared, ENDPOINTSLICES)
        self._loop = keyed_loop(shared, self._reconcile, workers=1)
        self._endpoints.listen(lambda key, old, new: self._loop.add(key))
        self._services.listen(lambda key, old, new: self._loop.add(key))
        self._slices.listen(self._slice)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(SERVICES, ENDPOINTS, ENDPOINTSLICES, NODES)
        await self._loop.run()

    def _slice(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        for obj in (old, new):
            ref = controller_of(obj) if obj is not None else None
            if ref is not None and ref["kind"] == "Endpoints":
                self._loop.add(Key(key.namespace, ref["name"]))

    async def _reconcile(self, key: Key) -> float | None:
        endpoints = self._endpoints.objects.get(key)
        if endpoints is None or is_deleting(endpoints):
            return None
        existing = [s for s in self._slices.of(endpoints) if labels_of(s).get(MANAGED_BY) == MIRRORER]
        if not should_mirror(endpoints, self._services.objects.get(key)):
            await all_of([self._slices.delete(endpoints, s) for s in existing])
            return None
        if self._served_otherwise(key):
            return None
        zones = {k.name: z for k, n in self._nodes.objects.items() if (z := labels_of(n).get(ZONE))}
        wanted = parse_legacy(endpoints, zones)
        owner = SliceOwner(endpoints, mirror_labels(endpoints), (), mirror_annotations(endpoints))
        times = annotations_of(endpoints).get(TRIGGER_TIME, "")
        await _write_slices(self._slices, endpoints, plan_slices(owner, existing, wanted, times))
        return None

    def _served_otherwise(self, key: Key) -> bool:
        """Return whether whoever made the Endpoints also made slices (the API server's own Service)."""
        return key == Key("default", "kubernetes")
