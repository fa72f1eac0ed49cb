"""The objects that controllers own, without staleness.

An informer lags behind the writes of its own process. A controller that counts pods in such a mirror
makes too many. ``Children`` lays what was just written over the mirror until the mirror has caught up:
an object that was created or changed counts from the moment the API answered, an object whose deletion
was asked for counts as being deleted. resourceVersions are compared as integers (KEP-5504).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from podwire.client.errors import AlreadyExists, NotFound, Unavailable
from podwire.controllers.ownership import adoption, plan_claim, release
from podwire.controllers.shared import Shared, all_of
from podwire.model.objects import Key, Obj, controller_of, is_deleting, key_of, timestamp
from podwire.model.resources import Resource
from podwire.model.selectors import Selector

SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, nothing that looks like another: as Kubernetes
CREATE_ATTEMPTS = 4


def suffix(length: int = 5) -> str:
    """Return a random name suffix from Kubernetes' alphabet."""
    return "".join(random.choices(SUFFIX_LETTERS, k=length))


def generated_name(base: str) -> str:
    """Return ``base`` and a random suffix, at most 63 characters (base is cut at 58)."""
    return base[:58] + suffix()


def _groups_of(obj: Obj) -> Iterable[tuple[str, str]]:
    ref = controller_of(obj)
    return (("owner", ref["uid"]) if ref else ("orphan", obj["metadata"].get("namespace", "")),)


class Children:
    """The children of one resource, for one kind of owner."""

    def __init__(self, shared: Shared, resource: Resource) -> None:
        self.resource = resource
        self._shared, self._client = shared, shared.client
        self._informer = shared.informer(resource)
        self._index = shared.index(f"children/{resource.plural}", resource, _groups_of)
        self._written: dict[str, dict[Key, Obj]] = {}  # owner uid -> what the mirror may lack
        self._doomed: dict[str, str] = {}  # uid -> moment its deletion was asked for
        self._informer.listen(self._see)

    def listen(self, listener: Callable[[Key, Obj | None, Obj | None], None]) -> None:
        """Call ``listener`` on each change in the mirror."""
        self._informer.listen(listener)

    def of(self, owner: Obj) -> list[Obj]:
        """Return the objects that ``owner`` controls, in no order."""
        uid = owner["metadata"]["uid"]
        found = {key_of(o): o for o in self._index.of(("owner", uid))}
        for key, obj in self._unseen(uid):
            found[key] = obj
        return [self._as_doomed(o) for o in found.values()]

    def _unseen(self, owner_uid: str) -> list[tuple[Key, Obj]]:
        """Return what was written for the owner and not seen yet; forget what was seen."""
        written = self._written.get(owner_uid)
        if not written:
            return []
        seen_version = version_number(self._informer.resource_version)
        for key, obj in list(written.items()):
            # The mirror's own copy counts too: while it lists anew, it does not know how far it has seen.
            held = self._informer.objects.get(key)
            seen = max(seen_version, version_number(_version(held)) if held is not None else 0)
            if version_number(_version(obj)) <= seen:
                del written[key]
        if not written:
            del self._written[owner_uid]
        return list(written.items())

    def _as_doomed(self, obj: Obj) -> Obj:
        at = self._doomed.get(obj["metadata"]["uid"])
        if at is None or is_deleting(obj):
            return obj
        return {**obj, "metadata": {**obj["metadata"], "deletionTimestamp": at}}

    def _see(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        """Forget what was remembered about an object that the mirror now shows."""
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self._doomed.pop(old["metadata"]["uid"], None)
        elif new is not None and is_deleting(new):
            self._doomed.pop(new["metadata"]["uid"], None)
        shown = new if new is not None else old
        ref = controller_of(shown) if shown is not None else None
        written = self._written.get(ref["uid"]) if ref is not None else None
        if ref is None or not written or key not in written:
            return
        seen = version_number(self._informer.resource_version)
        if new is not None:
            seen = max(seen, version_number(_version(new)))
        if version_number(_version(written[key])) <= seen:
            del written[key]
            if not written:
                del self._written[ref["uid"]]

    async def claim(self, owner: Obj, owner_resource: Resource, selector: Selector) -> list[Obj]:
        """Return what ``owner`` controls after adopting orphans that match and releasing what does not."""
        namespace = owner["metadata"].get("namespace", "")
        claim = plan_claim(owner, selector, [*self.of(owner), *self._index.of(("orphan", namespace))])
        kept = list(claim.keep)
        if claim.adopt and await self._still_lives(owner, owner_resource):
            for child in claim.adopt:
                kept.append(await self.patch(owner, child, adoption(owner, child)))
        for child in claim.release:
            await self._client.patch(self.resource, child["metadata"]["name"], release(owner, child), namespace)
        return kept

    async def _still_lives(self, owner: Obj, resource: Resource) -> bool:
        """Ask the server, not the mirror: adoption by an owner that is gone would doom the child."""
        meta = owner["metadata"]
        try:
            fresh = await self._client.get(resource, meta["name"], meta.get("namespace", ""))
        except NotFound:
            return False
        return fresh["metadata"]["uid"] == meta["uid"] and not is_deleting(fresh)

    async def create(self, owner: Obj, obj: Obj) -> Obj:
        """Create ``obj``, which names its owner. Raises AlreadyExists when a stranger has the name.

        When the server's answer is lost the same name is tried again, so nothing is made twice; with a
        ``metadata.generateName`` a name that is taken is replaced by another.
        """
        uid = owner["metadata"]["uid"]
        doubtful = False
        for attempt in range(CREATE_ATTEMPTS):
            try:
                async with self._shared.in_flight:
                    made = await self._client.create(self.resource, obj)
                break
            except AlreadyExists:
                found = await self._own(uid, obj) if doubtful else None
                if found is not None:
                    made = found
                    break
                base = obj["metadata"].get("generateName")
                if not base or attempt == CREATE_ATTEMPTS - 1:
                    raise
                obj = {**obj, "metadata": {**obj["metadata"], "name": generated_name(base)}}
            except Unavailable:
                doubtful = True
                if attempt == CREATE_ATTEMPTS - 1:
                    raise
                await self._shared.clock.sleep(0.05 * 2**attempt)
        self._note(uid, made)
        return made

    async def _own(self, owner_uid: str, obj: Obj) -> Obj | None:
        meta = obj["metadata"]
        try:
            found = await self._client.get(self.resource, meta["name"], meta.get("namespace", ""))
        except NotFound:
            return None
        ref = controller_of(found)
        return found if ref is not None and ref["uid"] == owner_uid else None

    async def update(self, owner: Obj, obj: Obj, subresource: str = "") -> Obj:
        """Update a child. Raises Conflict when it was stale."""
        async with self._shared.in_flight:
            made = await self._client.update(self.resource, obj, subresource)
        self._note(owner["metadata"]["uid"], made)
        return made

    async def patch(self, owner: Obj, obj: Obj, patch: Any) -> Obj:
        """Merge-patch a child."""
        meta = obj["metadata"]
        async with self._shared.in_flight:
            made = await self._client.patch(self.resource, meta["name"], patch, meta.get("namespace", ""))
        self._note(owner["metadata"]["uid"], made)
        return made

    async def delete(self, owner: Obj, obj: Obj) -> bool:
        """Ask for the deletion of a child; return False when it was gone already."""
        meta = obj["metadata"]
        async with self._shared.in_flight:
            try:
                await self._client.delete(self.resource, meta["name"], meta.get("namespace", ""), uid=meta["uid"])
            except NotFound:
                self._drop(owner["metadata"]["uid"], obj)
                return False
        held = self._informer.objects.get(key_of(obj))
        unseen = key_of(obj) in self._written.get(owner["metadata"]["uid"], ())
        if unseen or (held is not None and held["metadata"]["uid"] == meta["uid"] and not is_deleting(held)):
            self._doomed[meta["uid"]] = timestamp(self._shared.clock.now())
        return True

    def _drop(self, owner_uid: str, obj: Obj) -> None:
        self._written.get(owner_uid, {}).pop(key_of(obj), None)

    def _note(self, owner_uid: str, made: Obj) -> None:
        if version_number(_version(made)) > version_number(self._informer.resource_version):
            made["metadata"].pop("managedFields", None)
            self._written.setdefault(owner_uid, {})[key_of(made)] = made

    async def in_batches(self, jobs: list[Callable[[], Any]]) -> None:
        """Run jobs 1, 2, 4, 8 ... at a time; stop after the first batch with a failure and raise it.

        A cluster that refuses the first pod (quota, bad template) is thus not asked 300 times.
        """
        size, position = 1, 0
        while position < len(jobs):
            await all_of([job() for job in jobs[position : position + size]])
            position += size
            size *= 2


def _version(obj: Obj) -> str:
    return str(obj["metadata"].get("resourceVersion", ""))


def version_number(text: str) -> int:
    """Return a resourceVersion as a number; 0 for one that is absent or no number."""
    return int(text) if text.isdigit() else 0
