"""IPAddress objects of the Services' cluster IPs, and ServiceCIDRs as ranges to allocate from (KEP-1880).

``ServiceIps`` decides in memory; the IPAddresses follow it a moment later and are put right at each start, so
a crash between a Service and its IPAddress leaves nothing wrong. A ServiceCIDR that is being deleted stays
until no Service has an address that only it covers.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network

import orjson

from podwire.apiserver.errors import ApiStatusError
from podwire.apiserver.kinds import Kind, Registry
from podwire.apiserver.serviceips import Network, ServiceIps, cluster_addresses
from podwire.apiserver.store.port import Change, Store
from podwire.apiserver.values import RequestContext, User
from podwire.apiserver.writes import Writes
from podwire.model.objects import Key, Obj, condition, is_deleting, timestamp, with_condition
from podwire.runtime.clock import Clock
from podwire.runtime.logging import get

GROUP = "networking.k8s.io"
ADDRESSES, CIDRS = f"ipaddresses.{GROUP}", f"servicecidrs.{GROUP}"
PROTECTION = f"{GROUP}/service-cidr-finalizer"
DEFAULT_CIDR = "kubernetes"
_log = get("apiserver")


class ServiceAddresses:
    """Keeps IPAddress objects and ServiceCIDRs' status in step with the Services."""

    def __init__(self, registry: Registry, store: Store, ips: ServiceIps, clock: Clock, user: User) -> None:
        self._registry, self._store, self._ips, self._clock, self._user = registry, store, ips, clock, user
        self._owners: dict[str, Key] = {}  # address -> the Service that has it
        self._work: asyncio.Queue[tuple[str, str]] = asyncio.Queue()  # (bucket, name), each looked at anew
        store.listen("services", self._service)
        store.listen(ADDRESSES, lambda change: self._work.put_nowait((ADDRESSES, change.row.key.name)))
        store.listen(CIDRS, self._cidr)
        for row in store.rows(CIDRS):
            self._take_in(row.key.name, orjson.loads(row.body))
        for row in store.rows("services"):
            self._owners.update(dict.fromkeys(_addresses(row.body), row.key))
        known = {row.key.name for row in store.rows(ADDRESSES)}
        for name in (known ^ self._owners.keys()) | {a for a in known if self._owners.get(a) != self._parent(a)}:
            self._work.put_nowait((ADDRESSES, name))

    def _service(self, change: Change) -> None:
        after = set() if change.type == "DELETED" else set(_addresses(change.row.body))
        before = set(_addresses(change.previous.body)) if change.previous is not None else set()
        for address in before - after:
            if self._owners.get(address) == change.row.key:
                del self._owners[address]
                self._work.put_nowait((ADDRESSES, address))
        for address in after - before:
            self._owners[address] = change.row.key
            self._work.put_nowait((ADDRESSES, address))

    def _cidr(self, change: Change) -> None:
        self._take_in(change.row.key.name, None if change.type == "DELETED" else orjson.loads(change.row.body))

    def _take_in(self, name: str, obj: Obj | None) -> None:
        networks: list[Network] = []
        if obj is not None and not is_deleting(obj):
            networks = [ip_network(c) for c in (obj.get("spec") or {}).get("cidrs") or ()]
        if name != DEFAULT_CIDR:  # the server's own flags speak for the default one
            self._ips.extend(name, networks)
        if obj is not None:
            self._work.put_nowait((CIDRS, name))

    def _parent(self, address: str) -> Key | None:
        """Return the Service that the IPAddress object names; None without the object."""
        row = self._store.peek(ADDRESSES, Key("", address))
        if row is None:
            return None
        ref = (orjson.loads(row.body).get("spec") or {}).get("parentRef") or {}
        return Key(ref.get("namespace", ""), ref.get("name", ""))

    async def run(self, writes: Writes) -> None:
        """Write until cancelled."""
        while True:
            bucket, name = await self._work.get()
            try:
                await (self._follow_address if bucket == ADDRESSES else self._follow_cidr)(name, writes)
            except ApiStatusError as error:
                if error.code not in (404, 409):
                    _log.warning("service-address-failed", object=name, error=error.message)
                    await self._clock.sleep(0.5)
                    self._work.put_nowait((bucket, name))

    async def _follow_address(self, address: str, writes: Writes) -> None:
        owner, parent = self._owners.get(address), self._parent(address)
        if owner == parent:
            return
        kind = self._kind("ipaddresses")
        if parent is not None:
            if not self._is_managed(address):
                return  # somebody else's, made by hand
            await writes.delete(self._context("delete", kind, address), {})
            self._recheck_cidrs()
        if owner is not None:
            await writes.create(self._context("create", kind, address), ip_address_object(address, owner))

    def _is_managed(self, address: str) -> bool:
        row = self._store.peek(ADDRESSES, Key("", address))
        return row is not None and row.labels.get("ipaddress.kubernetes.io/managed-by") == "ipallocator.k8s.io"

    def _recheck_cidrs(self) -> None:
        for row in self._store.rows(CIDRS):
            if b'"deletionTimestamp"' in row.body:
                self._work.put_nowait((CIDRS, row.key.name))

    async def _follow_cidr(self, name: str, writes: Writes) -> None:
        row = self._store.peek(CIDRS, Key("", name))
        if row is None:
            return
        obj: Obj = orjson.loads(row.body)
        kind, now = self._kind("servicecidrs"), timestamp(self._clock.now())
        if is_deleting(obj):
            if not self._is_needed(obj):
                ctx = self._context("update", kind, name)
                kept = [f for f in obj["metadata"].get("finalizers") or () if f != PROTECTION]
                await writes.update(ctx, {**obj, "metadata": {**obj["metadata"], "finalizers": kept}})
                return
            new = {"type": "Ready", "status": "False", "reason": "Terminating",
                   "message": "There are still IPAddresses referencing the ServiceCIDR, please remove them or create "
                   "a new ServiceCIDR"}  # fmt: skip
        else:
            if PROTECTION not in (obj["metadata"].get("finalizers") or ()):
                finalizers = [*(obj["metadata"].get("finalizers") or ()), PROTECTION]
                ctx = self._context("update", kind, name)
                await writes.update(ctx, {**obj, "metadata": {**obj["metadata"], "finalizers": finalizers}})
                return  # its own change brings it here again
            new = {"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready"}
        if (condition(obj, "Ready") or {}).get("status") != new["status"]:
            conditions = with_condition((obj.get("status") or {}).get("conditions") or (), new, now)
            ctx = self._context("update", kind, name, "status")
            await writes.update(ctx, {**obj, "status": {"conditions": conditions}})

    def _is_needed(self, cidr: Obj) -> bool:
        """Return whether some Service has an address that no other ServiceCIDR covers."""
        others = [orjson.loads(r.body) for r in self._store.rows(CIDRS) if r.key.name != cidr["metadata"]["name"]]
        mine = [ip_network(c) for c in cidr["spec"]["cidrs"]]
        rest = [ip_network(c) for o in others if not is_deleting(o) for c in o["spec"]["cidrs"]]
        return any(any(a in n for n in mine) and not any(a in n for n in rest) for a in map(ip_address, self._owners))

    def _kind(self, plural: str) -> Kind:
        kind = self._registry.find(GROUP, "v1", plural)
        assert kind is not None, plural
        return kind

    def _context(self, verb: str, kind: Kind, name: str, subresource: str = "") -> RequestContext:
        return RequestContext(
            self._user, verb, kind, name=name, subresource=subresource, field_manager="kube-apiserver"
        )


def _addresses(body: bytes) -> list[str]:
    return [str(a) for a in cluster_addresses(orjson.loads(body))]


def ip_address_object(address: str, service: Key) -> Obj:
    """Return the IPAddress of a Service's cluster IP."""
    labels = {
        "ipaddress.kubernetes.io/ip-family": f"IPv{ip_address(address).version}",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
    }
    parent = {"group": "", "resource": "services", "namespace": service.namespace, "name": service.name}
    return {
        "apiVersion": f"{GROUP}/v1", "kind": "IPAddress", "metadata": {"name": address, "labels": labels},
        "spec": {"parentRef": parent},
    }  # fmt: skip
