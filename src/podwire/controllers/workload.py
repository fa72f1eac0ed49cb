"""What the workload loops have in common: who is woken by which child, and how a loop is run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from podwire.controllers.children import Children
from podwire.controllers.shared import Shared, tolerant
from podwire.model.objects import Key, Obj, controller_of, labels_of
from podwire.model.resources import Resource
from podwire.model.selectors import Selector
from podwire.runtime.workloop import WorkLoop


class Loop(Protocol):
    """One control loop, registered with its informers when it is made."""

    async def run(self) -> None:
        """Work until cancelled."""
        ...


def keyed_loop(shared: Shared, reconcile: Callable[[Key], Awaitable[float | None]], workers: int = 4) -> WorkLoop[Key]:
    """Return a work loop whose reconcile waits out conflicts."""
    return WorkLoop("controllers", tolerant(reconcile), workers=workers, clock=shared.clock, max_backoff_s=30.0)


class Pace:
    """Names keys to a loop at once, but each key at most once in ``gap_s``: the rest come together.

    300 pods that become ready one after the other must not cost 300 counts of 300 pods.
    """

    def __init__(self, loop: WorkLoop[Key], gap_s: float = 0.05) -> None:
        self._loop, self._gap_s = loop, gap_s
        self._quiet_until: dict[Key, float] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def add(self, key: Key) -> None:
        """Ask for a reconcile of ``key``, now or when its gap is over."""
        if key in self._timers:
            return
        running = asyncio.get_running_loop()
        now_s = running.time()
        wait_s = self._quiet_until.get(key, 0.0) - now_s
        if wait_s > 0:
            self._timers[key] = running.call_later(wait_s, self._fire, key)
            return
        if len(self._quiet_until) > 4096:
            self._quiet_until = {k: t for k, t in self._quiet_until.items() if t > now_s}
        self._quiet_until[key] = now_s + self._gap_s
        self._loop.add(key)

    def _fire(self, key: Key) -> None:
        del self._timers[key]
        self._quiet_until[key] = asyncio.get_running_loop().time() + self._gap_s
        self._loop.add(key)


def status_differs(new: Mapping[str, Any], old: Mapping[str, Any] | None) -> bool:
    """Return whether two statuses say something different; zero, empty and absent mean the same."""
    return {k: v for k, v in new.items() if v} != {k: v for k, v in (old or {}).items() if v}


def wake_on_change(shared: Shared, resource: Resource, loop: WorkLoop[Key]) -> None:
    """Reconcile an object whenever it changes."""
    shared.informer(resource).listen(lambda key, old, new: loop.add(key))


def wake_on_children(
    shared: Shared,
    owner_resource: Resource,
    children: Children,
    loop: WorkLoop[Key],
    selector_of: Callable[[Obj], Selector],
) -> None:
    """Reconcile an owner whenever one of its children changes or an orphan appears that it may adopt."""
    kind, api_group = owner_resource.kind, owner_resource.group
    pace = Pace(loop)
    owners = shared.index(
        f"namespace/{owner_resource.plural}", owner_resource, lambda o: (o["metadata"].get("namespace", ""),)
    )

    def wake(key: Key, old: Obj | None, new: Obj | None) -> None:
        for obj in (old, new):
            ref = controller_of(obj) if obj is not None else None
            if ref is not None and ref["kind"] == kind and _group(ref["apiVersion"]) == api_group:
                pace.add(Key(key.namespace, ref["name"]))
        if new is None or controller_of(new) is not None:
            return
        if old is not None and controller_of(old) is None and labels_of(old) == labels_of(new):
            return
        for owner in owners.of(key.namespace):
            if selector_of(owner).matches(labels_of(new)):
                pace.add(Key(key.namespace, owner["metadata"]["name"]))

    children.listen(wake)


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]
