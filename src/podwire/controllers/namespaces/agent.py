"""The loops of namespaces: birth (ServiceAccount, root CA) and death (contents, then the finalizer)."""

from __future__ import annotations

from collections import Counter

from podwire.client.errors import AlreadyExists, ApiError, NotFound
from podwire.controllers.discovery import discover
from podwire.controllers.namespaces.plan import ROOT_CA, default_account, deletion_conditions, root_ca, without_contents
from podwire.controllers.shared import Shared, all_of
from podwire.controllers.workload import keyed_loop
from podwire.model.objects import Key, Obj, is_deleting, timestamp, with_condition
from podwire.model.resources import CONFIGMAPS, EVENTS, NAMESPACES, PODS, SERVICEACCOUNTS, Resource

FINALIZER = "kubernetes"
FIRST_LOOK_S, LAST_LOOK_S = 0.05, 2.0


class NamespaceBirth:
    """Keeps ServiceAccount default and ConfigMap kube-root-ca.crt in every namespace."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._namespaces = shared.informer(NAMESPACES)
        self._accounts = shared.informer(SERVICEACCOUNTS)
        self._maps = shared.informer(CONFIGMAPS, without_contents)
        self._loop = keyed_loop(shared, self._reconcile)
        self._namespaces.listen(lambda key, old, new: self._loop.add(key))
        self._accounts.listen(lambda key, old, new: self._lost(key, new, "default"))
        self._maps.listen(lambda key, old, new: self._changed(key))

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(NAMESPACES, SERVICEACCOUNTS, CONFIGMAPS)
        await self._loop.run()

    def _lost(self, key: Key, new: Obj | None, name: str) -> None:
        if new is None and key.name == name:
            self._loop.add(Key("", key.namespace))

    def _changed(self, key: Key) -> None:
        if key.name == ROOT_CA:
            self._loop.add(Key("", key.namespace))

    async def _reconcile(self, key: Key) -> float | None:
        namespace = self._namespaces.objects.get(key)
        if namespace is None or is_deleting(namespace):
            return None
        name = key.name
        if Key(name, "default") not in self._accounts.objects:
            await self._create(SERVICEACCOUNTS, default_account(name))
        pem = self._shared.config.root_ca_pem
        if not pem:
            return None
        found = self._maps.objects.get(Key(name, ROOT_CA))
        if found is None:
            await self._create(CONFIGMAPS, root_ca(name, pem))
        elif found.get("data") != {"ca.crt": pem}:
            await self._shared.client.update(CONFIGMAPS, {**found, "data": {"ca.crt": pem}})
        return None

    async def _create(self, resource: Resource, obj: Obj) -> None:
        try:
            await self._shared.client.create(resource, obj)
        except AlreadyExists:
            pass  # not seen here yet


class NamespaceDeath:
    """Empties terminating namespaces, then lets them go."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._namespaces = shared.informer(NAMESPACES)
        self._looks: Counter[Key] = Counter()
        self._loop = keyed_loop(shared, self._reconcile, workers=4)
        self._namespaces.listen(self._changed)
        self._pods_in = shared.index("namespace/pods", PODS, lambda pod: (pod["metadata"]["namespace"],))
        shared.informer(PODS).listen(self._pod)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(NAMESPACES)
        await self._loop.run()

    def _changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            self._looks.pop(key, None)
        elif is_deleting(new) and (old is None or not is_deleting(old)):
            self._loop.add(key)

    def _pod(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        """Look at once when the last pod, usually the last of all to go, is gone."""
        home = Key("", key.namespace)
        if new is None and home in self._looks and key.namespace not in self._pods_in:
            self._loop.add(home)

    async def _reconcile(self, key: Key) -> float | None:
        namespace = self._namespaces.objects.get(key)
        if namespace is None or not is_deleting(namespace):
            return None
        if FINALIZER not in (namespace["spec"].get("finalizers") or ()):
            return None
        served = await discover(self._shared.client)
        remaining: Counter[str] = Counter()
        held: Counter[str] = Counter()
        failures: list[str] = []
        targets = [r for r in served.resources if r.namespaced]
        # Events last: emptying the rest writes new ones.
        for resource in sorted(targets, key=lambda r: r == EVENTS):
            await self._empty(resource, key.name, remaining, held, failures)
        if not remaining and not failures and served.complete:
            rest = [f for f in namespace["spec"].get("finalizers") or () if f != FINALIZER]
            body = {**namespace, "spec": {**namespace["spec"], "finalizers": rest}}
            fresh = await self._shared.client.get(NAMESPACES, key.name)
            if fresh["metadata"]["uid"] == namespace["metadata"]["uid"]:
                body["metadata"] = fresh["metadata"]
                await self._shared.client.update(NAMESPACES, body, "finalize")
            return None
        self._looks[key] += 1
        if self._looks[key] > 3:  # only a deletion that lingers is worth telling
            await self._tell(key, deletion_conditions(remaining, held, failures, served.complete))
        return float(min(LAST_LOOK_S, FIRST_LOOK_S * 2 ** min(self._looks[key], 10)))

    async def _empty(
        self, resource: Resource, namespace: str, remaining: Counter[str], held: Counter[str], failures: list[str]
    ) -> None:
        """Delete everything of one kind; count what is still there afterwards."""
        name = f"{resource.plural}.{resource.group}".rstrip(".") + ("." if not resource.group else "")
        try:
            items = (await self._shared.client.list(resource, namespace)).items
            if not items:
                return
            await all_of([self._delete(resource, o) for o in items if not is_deleting(o)])
            items = (await self._shared.client.list(resource, namespace)).items
        except NotFound:
            return  # the kind itself went away
        except ApiError as error:
            failures.append(f"{name}: {error.message}")
            return
        if items:
            remaining[name] += len(items)
        for obj in items:
            held.update(obj["metadata"].get("finalizers") or ())

    async def _delete(self, resource: Resource, obj: Obj) -> None:
        meta = obj["metadata"]
        async with self._shared.in_flight:
            try:
                await self._shared.client.delete(
                    resource, meta["name"], meta["namespace"], propagation="Background", uid=meta["uid"]
                )
            except NotFound:
                pass

    async def _tell(self, key: Key, conditions: list[Obj]) -> None:
        namespace = await self._shared.client.get(NAMESPACES, key.name)
        now = timestamp(self._shared.clock.now())
        merged = (namespace.get("status") or {}).get("conditions") or []
        for new in conditions:
            merged = with_condition(merged, new, now)
        if merged != (namespace.get("status") or {}).get("conditions"):
            body = {**namespace, "status": {**(namespace.get("status") or {}), "conditions": merged}}
            await self._shared.client.update(NAMESPACES, body, "status")
