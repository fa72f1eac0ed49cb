"""A Kubernetes API in memory, for tests and dry runs: ``FakeClient`` is a ``client.port.Client``.

It keeps what agents rely on: one revision for all, watch events in order with selector transitions, status
as a subresource, graceful deletion of pods, finalizers, preconditions, bindings. It validates nothing,
defaults next to nothing, and knows any resource it is asked for.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any, NamedTuple

import orjson

from podwire.client.errors import AlreadyExists, ApiError, Conflict, Gone, NotFound
from podwire.client.fake_patch import patched
from podwire.client.port import Listing, PatchKind, WatchEvent
from podwire.model import selectors
from podwire.model.objects import Key, Obj, key_of, labels_of, parse_timestamp, timestamp, with_condition
from podwire.model.resources import PODS, Resource
from podwire.runtime.clock import Clock, SystemClock

_NO_STATUS = {"configmaps", "secrets", "serviceaccounts", "endpoints", "endpointslices", "leases", "events"}


def _copy(obj: Obj) -> Obj:
    copied: Obj = orjson.loads(orjson.dumps(obj))
    return copied


class _Change(NamedTuple):
    revision: int
    old: Obj | None
    new: Obj | None
    final: Obj  # what a DELETED event shows


class FakeClient:
    """All resources of a cluster that runs nothing. Several agents may share one."""

    def __init__(self, objects: Iterable[tuple[Resource, Obj]] = (), *, clock: Clock | None = None) -> None:
        self.requests: list[tuple[str, str]] = []  # ("patch", "pods/default/web/status"), in order
        self._clock: Clock = clock or SystemClock()
        self._revision = 1
        self._oldest = 1
        self._stores: dict[str, dict[Key, Obj]] = {}
        self._history: dict[str, list[_Change]] = {}
        self._changed = asyncio.Condition()
        self._epoch = 0
        for resource, obj in objects:
            self.seed(resource, obj)

    # -- what tests use beside the port

    def seed(self, resource: Resource, obj: Obj) -> Obj:
        """Put an object there as it is, status included; uid and revision are filled in."""
        return self._commit(resource, None, self._complete(resource, _copy(obj)))

    def objects(self, resource: Resource) -> dict[Key, Obj]:
        """Return copies of all objects of a resource."""
        return {k: _copy(o) for k, o in self._store(resource).items()}

    async def break_watches(self, *, compact: bool = False) -> None:
        """End every open watch, as a restarting server does; ``compact`` also forgets the history."""
        self._epoch += 1
        if compact:
            self._history.clear()
            self._oldest = self._revision
        await self._announce()

    # -- the port

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Obj:
        """Return the object. Raises NotFound."""
        self._note("get", resource, namespace, name)
        return _copy(self._find(resource, namespace, name))

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        """Return all matching objects."""
        self._note("list", resource, namespace, "")
        matches = _matcher(namespace, labels, fields)
        items = [_copy(o) for _, o in sorted(self._store(resource).items()) if matches(o)]
        return Listing(items, str(self._revision))

    async def pages(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listing]:
        """Yield everything, in pages of two objects: few, so that tests see seams."""
        whole = await self.list(resource, namespace, labels=labels, fields=fields)
        for at in range(0, max(1, len(whole.items)), 2):
            yield Listing(whole.items[at : at + 2], whole.resource_version)

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str = "",
        labels: str = "",
        fields: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """Yield changes after ``resource_version``; without one, everything that is there first."""
        matches = _matcher(namespace, labels, fields)
        if resource_version in ("", "0"):
            seen = self._revision
            for obj in list(self._store(resource).values()):
                if matches(obj):
                    yield WatchEvent("ADDED", _copy(obj))
        else:
            seen = int(resource_version)
            if seen < self._oldest:
                raise Gone(410, "Expired", f"too old resource version: {seen} ({self._oldest})")
        epoch = self._epoch
        while self._epoch == epoch:  # else what was compacted meanwhile would be skipped unnoticed
            for change in [c for c in self._history.get(_id(resource), ()) if c.revision > seen]:
                seen = change.revision
                event = _event(change, matches)
                if event is not None:
                    yield event
            async with self._changed:
                if self._epoch != epoch:
                    return
                if not any(c.revision > seen for c in self._history.get(_id(resource), ())[-1:]):
                    await self._changed.wait()

    async def create(self, resource: Resource, obj: Obj) -> Obj:
        """Create ``obj``. Raises AlreadyExists."""
        obj = _copy(obj)
        meta = obj["metadata"]
        if "name" not in meta:
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        self._note("create", resource, meta.get("namespace", ""), meta["name"])
        if key_of(obj) in self._store(resource):
            raise AlreadyExists(409, "AlreadyExists", f'{resource.plural} "{meta["name"]}" already exists')
        stored = self._commit(resource, None, self._complete(resource, obj))
        await self._announce()
        return _copy(stored)

    async def create_subresource(
        self, resource: Resource, name: str, namespace: str, subresource: str, body: Obj
    ) -> Obj:
        """POST to pods/binding, pods/eviction, serviceaccounts/token."""
        self._note("create", resource, namespace, f"{name}/{subresource}")
        if subresource == "token":
            return self._issue_token(name, namespace, body)
        current = self._find(resource, namespace, name)
        if subresource == "binding":
            await self._bind(resource, current, body["target"]["name"])
        elif subresource == "eviction":
            await self.delete(resource, name, namespace)
        else:
            raise NotFound(404, "NotFound", f"the fake has no {resource.plural}/{subresource}")
        return {"apiVersion": "v1", "kind": "Status", "status": "Success"}

    async def update(self, resource: Resource, obj: Obj, subresource: str = "") -> Obj:
        """PUT; raises Conflict when metadata.resourceVersion is stale."""
        name, namespace = obj["metadata"]["name"], obj["metadata"].get("namespace", "")
        self._note("update", resource, namespace, f"{name}/{subresource}".rstrip("/"))
        current = self._find(resource, namespace, name)
        wanted = obj["metadata"].get("resourceVersion")
        if wanted and wanted != current["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", f'{resource.plural} "{name}": the object has been modified')
        return await self._write(resource, current, _copy(obj), subresource)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        kind: PatchKind = "merge",
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> Obj:
        """PATCH; "apply" merges, and creates what is not there."""
        self._note("patch", resource, namespace, f"{name}/{subresource}".rstrip("/"))
        current = self._store(resource).get(Key(namespace if resource.namespaced else "", name))
        if current is None and kind == "apply" and not subresource:
            return await self.create(resource, patch)
        current = self._find(resource, namespace, name)
        wanted = patched(current, patch, kind)
        for field in ("uid", "resourceVersion"):
            if wanted["metadata"].get(field) != current["metadata"][field]:
                raise Conflict(409, "Conflict", f"{resource.plural} {name!r}: metadata.{field} does not match")
        return await self._write(resource, current, wanted, subresource)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        grace_period_s: int | None = None,
        propagation: str = "",
        uid: str = "",
    ) -> None:
        """Delete; bound pods that run are only marked until grace 0 is asked for."""
        self._note("delete", resource, namespace, name)
        current = self._find(resource, namespace, name)
        if uid and uid != current["metadata"]["uid"]:
            raise Conflict(409, "Conflict", f'the UID in the precondition ({uid}) does not match "{name}"')
        grace_s = self._grace(resource, current, grace_period_s)
        meta = current["metadata"]
        if grace_s or meta.get("finalizers"):
            marked = _copy(current)
            marked["metadata"]["deletionTimestamp"] = _after(self._clock, grace_s)
            marked["metadata"]["deletionGracePeriodSeconds"] = grace_s
            already = "deletionTimestamp" in meta and grace_s >= meta.get("deletionGracePeriodSeconds", 0)
            if not already:
                self._commit(resource, current, marked)
        else:
            self._commit(resource, current, None)
        await self._announce()

    async def close(self) -> None:
        """Nothing to give up."""

    # -- inside

    def _store(self, resource: Resource) -> dict[Key, Obj]:
        return self._stores.setdefault(_id(resource), {})

    def _find(self, resource: Resource, namespace: str, name: str) -> Obj:
        obj = self._store(resource).get(Key(namespace if resource.namespaced else "", name))
        if obj is None:
            raise NotFound(404, "NotFound", f'{resource.plural} "{name}" not found')
        return obj

    def _note(self, verb: str, resource: Resource, namespace: str, name: str) -> None:
        self.requests.append((verb, "/".join(p for p in (resource.plural, namespace, name) if p)))

    def _complete(self, resource: Resource, obj: Obj) -> Obj:
        meta = obj["metadata"]
        meta.setdefault("uid", str(uuid.uuid4()))
        meta.setdefault("creationTimestamp", timestamp(self._clock.now()))
        meta.setdefault("generation", 1)
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        if resource == PODS:
            obj.setdefault("status", {}).setdefault("phase", "Pending")
        return obj

    def _commit(self, resource: Resource, old: Obj | None, new: Obj | None) -> Obj:
        self._revision += 1
        final = _copy(new if new is not None else old or {})
        final["metadata"]["resourceVersion"] = str(self._revision)
        key = key_of(final)
        if new is None:
            self._store(resource).pop(key, None)
        else:
            self._store(resource)[key] = final
        change = _Change(self._revision, old, final if new is not None else None, final)
        self._history.setdefault(_id(resource), []).append(change)
        return final

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _write(self, resource: Resource, current: Obj, wanted: Obj, subresource: str) -> Obj:
        new = _with_subresource(resource, current, wanted, subresource)
        if new == current:
            return _copy(current)
        if new.get("spec") != current.get("spec"):
            new["metadata"]["generation"] = current["metadata"].get("generation", 1) + 1
        meta = new["metadata"]
        gone = "deletionTimestamp" in meta and not meta.get("finalizers")
        gone = gone and not meta.get("deletionGracePeriodSeconds")
        stored = self._commit(resource, current, None if gone else new)
        await self._announce()
        return _copy(stored)

    async def _bind(self, resource: Resource, pod: Obj, node: str) -> None:
        if pod["spec"].get("nodeName"):
            raise Conflict(409, "Conflict", f"pod {pod['metadata']['name']} is already assigned")
        bound = _copy(pod)
        bound["spec"]["nodeName"] = node
        status = bound.setdefault("status", {})
        status["conditions"] = with_condition(
            status.get("conditions") or [],
            {"type": "PodScheduled", "status": "True"},
            timestamp(self._clock.now()),
        )
        self._commit(resource, pod, bound)
        await self._announce()

    def _grace(self, resource: Resource, obj: Obj, asked: int | None) -> int:
        if resource != PODS:
            return 0
        if not obj["spec"].get("nodeName") or obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return 0
        return int(obj["spec"].get("terminationGracePeriodSeconds", 30) if asked is None else asked)

    def _issue_token(self, name: str, namespace: str, body: Obj) -> Obj:
        lasts_s = int(body["spec"].get("expirationSeconds", 3600))
        status = {
            "token": f"fake.{namespace}.{name}.{uuid.uuid4().hex}",
            "expirationTimestamp": _after(self._clock, lasts_s),
        }
        return {**body, "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "status": status}


def _id(resource: Resource) -> str:
    return f"{resource.group}/{resource.plural}"


def _after(clock: Clock, seconds: int) -> str:
    return timestamp(clock.now() + timedelta(seconds=seconds))


def expired(token_request: Obj, clock: Clock) -> bool:
    """Return whether a token that the fake issued is past its time."""
    return parse_timestamp(token_request["status"]["expirationTimestamp"]) <= clock.now()


def _with_subresource(resource: Resource, current: Obj, wanted: Obj, subresource: str) -> Obj:
    """Return ``current`` with only those parts of ``wanted`` that the subresource may change."""
    kept = ("uid", "creationTimestamp", "resourceVersion", "generation", "deletionTimestamp",
            "deletionGracePeriodSeconds", "namespace", "name")  # fmt: skip
    if subresource == "status":
        return {**current, "status": wanted.get("status") or {}}
    if subresource == "scale":
        return {**current, "spec": {**current["spec"], "replicas": wanted["spec"]["replicas"]}}
    if subresource == "ephemeralcontainers":
        added = wanted["spec"].get("ephemeralContainers") or []
        return {**current, "spec": {**current["spec"], "ephemeralContainers": added}}
    if subresource not in ("", "finalize"):
        raise ApiError(404, "NotFound", f"the fake has no {resource.plural}/{subresource}")
    own = {f: current["metadata"][f] for f in kept if f in current["metadata"]}
    new = {**wanted, "metadata": {**{k: v for k, v in wanted["metadata"].items() if k not in kept}, **own}}
    if resource.plural not in _NO_STATUS and not subresource:
        new.pop("status", None)
        if "status" in current:
            new["status"] = current["status"]
    return new


def _event(change: _Change, matches: _Matcher) -> WatchEvent | None:
    """Return what a watcher with this selector sees of a change; None: nothing."""
    before = change.old is not None and matches(change.old)
    after = change.new is not None and matches(change.new)
    if not before and not after:
        return None
    kind = "MODIFIED" if before and after else "ADDED" if after else "DELETED"
    return WatchEvent(kind, _copy(change.final))  # type: ignore[arg-type]


class _Matcher:
    def __init__(self, namespace: str, labels: str, fields: str) -> None:
        self._namespace, self._labels = namespace, selectors.parse(labels)
        self._fields = [_term(t) for t in fields.split(",") if t]

    def __call__(self, obj: Obj) -> bool:
        if self._namespace and obj["metadata"].get("namespace", "") != self._namespace:
            return False
        if not self._labels.matches(labels_of(obj)):
            return False
        return all((_field(obj, path) == value) is equal for path, value, equal in self._fields)


def _matcher(namespace: str, labels: str, fields: str) -> _Matcher:
    return _Matcher(namespace, labels, fields)


def _term(text: str) -> tuple[str, str, bool]:
    if "!=" in text:
        path, _, value = text.partition("!=")
        return path, value, False
    path, _, value = text.partition("=")
    return path, value.removeprefix("="), True


def _field(obj: Obj, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)
