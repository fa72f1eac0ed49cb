"""Writes the history of templates for the loops that keep one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from podwire.client.errors import AlreadyExists
from podwire.controllers.children import Children
from podwire.controllers.pods.template import canonical
from podwire.controllers.revisions.plan import patch_of, plan_revision, superfluous
from podwire.controllers.shared import Shared, all_of
from podwire.model.objects import Obj
from podwire.model.resources import CONTROLLERREVISIONS, Resource
from podwire.model.selectors import Selector


class Revisions:
    """The revisions of one kind of owner."""

    def __init__(self, shared: Shared, owner_resource: Resource) -> None:
        self._shared, self._owner_resource = shared, owner_resource
        self._revisions = Children(shared, CONTROLLERREVISIONS)

    async def claimed(self, owner: Obj, selector: Selector) -> list[Obj]:
        """Return the owner's revisions."""
        return await self._revisions.claim(owner, self._owner_resource, selector)

    async def newest(self, owner: Obj, revisions: Sequence[Obj]) -> tuple[Obj, int]:
        """Return the revision of the present template, made when there is none, and the collision count."""
        collisions = (owner.get("status") or {}).get("collisionCount") or 0
        step = plan_revision(owner, revisions, collisions)
        if step.found is not None:
            if step.renumber:
                return await self._revisions.update(owner, {**step.found, "revision": step.renumber}), collisions
            return step.found, collisions
        while step.create is not None:
            try:
                return await self._revisions.create(owner, step.create), collisions
            except AlreadyExists:
                meta = step.create["metadata"]
                found = await self._shared.client.get(CONTROLLERREVISIONS, meta["name"], meta["namespace"])
                refs = found["metadata"].get("ownerReferences") or ()
                if canonical(found.get("data")) == patch_of(owner) and any(
                    r["uid"] == owner["metadata"]["uid"] for r in refs
                ):
                    return found, collisions
                collisions += 1
                step = plan_revision(owner, revisions, collisions)
        raise AssertionError("a step without a revision creates one")

    async def prune(self, owner: Obj, revisions: Sequence[Obj], live: Collection[str]) -> None:
        """Delete what exceeds revisionHistoryLimit."""
        limit = owner["spec"].get("revisionHistoryLimit")
        gone = superfluous(revisions, live, 10 if limit is None else int(limit))
        await all_of([self._revisions.delete(owner, r) for r in gone])
