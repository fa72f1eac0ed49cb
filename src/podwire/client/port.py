"""The client that every agent and controller is handed: the Kubernetes API, no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from podwire.model.objects import Obj
from podwire.model.resources import Resource

PatchKind = Literal["json", "merge", "strategic", "apply"]
WatchType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True)
class Listing:
    """A consistent snapshot of a collection. ``items`` carry apiVersion and kind."""

    items: list[Obj]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change. DELETED carries the object's last state; BOOKMARK only a resourceVersion."""

    type: WatchType
    object: Obj


class Client(Protocol):
    """Verbs of the Kubernetes API. Every method may raise ``client.errors.ApiError``."""

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Obj:
        """Return the object. Raises NotFound."""
        ...

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        """Return all matching objects; namespace "" means every namespace."""
        ...

    def pages(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listing]:
        """Yield the same as ``list``, a few hundred objects at a time. Raises Gone when it took too long."""
        ...

    def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str = "",
        labels: str = "",
        fields: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """Yield changes after ``resource_version``. Ends when the server closes; raises Gone."""
        ...

    async def create(self, resource: Resource, obj: Obj) -> Obj:
        """Create ``obj`` in its metadata.namespace. Raises AlreadyExists, Invalid."""
        ...

    async def create_subresource(
        self, resource: Resource, name: str, namespace: str, subresource: str, body: Obj
    ) -> Obj:
        """POST to a subresource: pods/binding, pods/eviction, serviceaccounts/token."""
        ...

    async def update(self, resource: Resource, obj: Obj, subresource: str = "") -> Obj:
        """PUT; raises Conflict when metadata.resourceVersion is stale."""
        ...

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
        """PATCH with one of the four patch types; "apply" is server-side apply."""
        ...

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
        """Delete; raises NotFound, and Conflict when ``uid`` does not match."""
        ...

    async def close(self) -> None:
        """Give up the connections."""
        ...
