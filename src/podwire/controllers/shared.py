"""What all loops share: one client, one clock, one recorder, one informer per resource."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, TypeVar, cast

from podwire.client.errors import ApiError, Conflict, NotFound
from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.controllers.config import ControllersConfig
from podwire.controllers.events import Recorder
from podwire.controllers.indexes import Index
from podwire.model.objects import Obj
from podwire.model.resources import Resource
from podwire.runtime.clock import Clock
from podwire.runtime.logging import get

K = TypeVar("K", bound=Hashable)
log = get("controllers")


class Shared:
    """One watch per resource, however many loops read it."""

    def __init__(self, client: Client, config: ControllersConfig, clock: Clock) -> None:
        self.client, self.config, self.clock = client, config, clock
        self.recorder = Recorder(client, clock)
        self.in_flight = asyncio.Semaphore(config.writes_in_flight)
        self._informers: dict[Resource, Informer] = {}
        self._indexes: dict[str, Index[Any]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[Resource, asyncio.Task[None]] = {}

    def informer(self, resource: Resource, trim: Callable[[Obj], Obj] | None = None) -> Informer:
        """Return the one informer of a resource; it runs once ``start`` was called.

        Whoever asks first may say with ``trim`` what of its objects is worth holding.
        """
        informer = self._informers.get(resource)
        if informer is None:
            informer = Informer(self.client, resource, clock=self.clock, trim=trim or without_managed_fields)
            self._informers[resource] = informer
            if self._group is not None:
                self._tasks[resource] = self._group.create_task(informer.run())
        return informer

    def mirrored(self, resource: Resource) -> bool:
        """Return whether some loop already reads this resource."""
        return resource in self._informers

    def index(self, name: str, resource: Resource, values_of: Callable[[Obj], Iterable[Any]]) -> Index[Any]:
        """Return the index of that name, made at the first call."""
        index = self._indexes.get(name)
        if index is None:
            index = self._indexes[name] = Index(self.informer(resource), values_of)
        return index

    def start(self, group: asyncio.TaskGroup) -> None:
        """Run the recorder and every informer, those yet to be made too, in ``group``."""
        self._group = group
        group.create_task(self.recorder.run())
        for resource, informer in self._informers.items():
            self._tasks[resource] = group.create_task(informer.run())

    async def synced(self, *resources: Resource) -> None:
        """Return when the informers of these resources have listed once."""
        for resource in resources:
            await self.informer(resource).synced.wait()


def without_managed_fields(obj: Obj) -> Obj:
    """Return ``obj`` without metadata.managedFields: large, and read by no loop."""
    obj["metadata"].pop("managedFields", None)
    return obj


def tolerant(reconcile: Callable[[K], Awaitable[float | None]]) -> Callable[[K], Awaitable[float | None]]:
    """Return ``reconcile`` that takes Conflict and NotFound for what they are: news still on its way.

    The newer object arrives through a watch and names the key again; the short delay is for objects
    whose change does not map back to the key.
    """

    async def attempt(key: K) -> float | None:
        try:
            return await reconcile(key)
        except (Conflict, NotFound):
            return 0.05
        except ApiError as error:
            if is_namespace_dying(error):
                return None  # whatever the key is about goes with its namespace
            raise

    return cast("Callable[[K], Awaitable[float | None]]", attempt)


def is_namespace_dying(error: ApiError) -> bool:
    """Return whether a creation was refused because its namespace is being deleted."""
    causes = (error.status.get("details") or {}).get("causes") or ()
    return any(c.get("reason") == "NamespaceTerminating" for c in causes)


async def all_of(jobs: Iterable[Awaitable[object]]) -> None:
    """Await every job, however many fail; then raise the first failure (Conflict and NotFound last)."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    failures = [r for r in results if isinstance(r, BaseException)]
    for failure in failures:
        if not isinstance(failure, Conflict | NotFound):
            raise failure
    if failures:
        raise failures[0]
