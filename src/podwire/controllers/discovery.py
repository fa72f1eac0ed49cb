"""Every kind that the API serves, custom ones included: what garbage collection and namespaces must know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from podwire.client.errors import ApiError, NotFound
from podwire.client.port import Client
from podwire.controllers.shared import log
from podwire.model import resources
from podwire.model.objects import Obj
from podwire.model.resources import Resource


@runtime_checkable
class Requester(Protocol):
    """A client that can also ask for paths that are no resource."""

    async def request(self, method: str, path: str, body: Any = None, **params: str) -> Obj:
        """Return the decoded JSON of any request."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """The kinds found. ``complete`` is False when some group did not answer: absence proves nothing then."""

    resources: tuple[Resource, ...]
    complete: bool = True


KNOWN = tuple(v for v in vars(resources).values() if isinstance(v, Resource))


async def discover(client: Client) -> Served:
    """Return the kinds that can be listed, watched and deleted, each in its preferred version.

    A client that can only speak of resources (a fake) gives podwire's own list and the kinds of CRDs.
    """
    if isinstance(client, Requester):
        return await _ask(client)
    found = list(KNOWN)
    try:
        for crd in (await client.list(resources.CRDS)).items:
            found.extend(resources_of_crd(crd))
    except NotFound:
        pass
    return Served(tuple(dict.fromkeys(found)))


async def _ask(client: Requester) -> Served:
    found: list[Resource] = []
    complete = True
    lists = [("", "v1", "/api/v1")]
    for group in (await client.request("GET", "/apis")).get("groups") or ():
        version = (group.get("preferredVersion") or group["versions"][0])["version"]
        lists.append((group["name"], version, f"/apis/{group['name']}/{version}"))
    for name, version, path in lists:
        try:
            answer = await client.request("GET", path)
        except ApiError as error:
            log.warning("discovery-incomplete", path=path, error=str(error))
            complete = False
            continue
        found.extend(parse_resource_list(name, version, answer.get("resources") or ()))
    return Served(tuple(found), complete)


def parse_resource_list(group: str, version: str, entries: Sequence[Obj]) -> list[Resource]:
    """Return the resources of an APIResourceList that can be listed, watched and deleted."""
    return [
        Resource(e.get("group") or group, e.get("version") or version, e["name"], e["kind"], bool(e["namespaced"]))
        for e in entries
        if "/" not in e["name"] and {"list", "watch", "delete"} <= set(e.get("verbs") or ())
    ]


def resources_of_crd(crd: Obj) -> list[Resource]:
    """Return the resource that a CRD serves, in its storage version; empty when it serves none."""
    spec = crd["spec"]
    served = [v for v in spec.get("versions") or () if v.get("served")]
    chosen = next((v for v in served if v.get("storage")), served[0] if served else None)
    if chosen is None:
        return []
    names = spec["names"]
    return [Resource(spec["group"], chosen["name"], names["plural"], names["kind"], spec.get("scope") != "Cluster")]
