"""The loop of ReplicaSets, and of ReplicationControllers, which differ in their selector only."""

from __future__ import annotations

from podwire.client.errors import ApiError, Conflict, NotFound
from podwire.controllers.children import Children, generated_name
from podwire.controllers.pods.state import is_active, is_finished, soonest_available_s
from podwire.controllers.pods.template import pod_of
from podwire.controllers.replicasets.plan import Scaling, plan_scaling, plan_status
from podwire.controllers.shared import Shared, all_of
from podwire.controllers.workload import keyed_loop, status_differs, wake_on_change, wake_on_children
from podwire.model.objects import Key, Obj, controller_of, is_deleting, timestamp
from podwire.model.resources import PODS, REPLICASETS, Resource
from podwire.model.selectors import Requirement, Selector, from_label_selector, from_map

NOTHING = Selector((Requirement("", "In", ("",)),))


def selector_of(owner: Obj) -> Selector:
    """Return spec.selector of either kind; a selector that matches nothing when it is absent or malformed."""
    selector = owner["spec"].get("selector")
    if owner["kind"] == "ReplicationController":
        labels = selector or (owner["spec"].get("template") or {}).get("metadata", {}).get("labels")
        return from_map(labels) if labels else NOTHING
    try:
        return from_label_selector(selector) if selector else NOTHING
    except ValueError:
        return NOTHING


class ReplicaSets:
    """Keeps the number of pods of each set."""

    def __init__(self, shared: Shared, resource: Resource = REPLICASETS) -> None:
        self._shared, self._resource = shared, resource
        self._component = "replicaset-controller" if resource is REPLICASETS else "replication-controller"
        self._sets = shared.informer(resource)
        self._pods = Children(shared, PODS)
        self._siblings = shared.index(f"siblings/{resource.plural}", resource, _sibling_of)
        self._loop = keyed_loop(shared, self._reconcile, workers=8)
        wake_on_change(shared, resource, self._loop)
        wake_on_children(shared, resource, self._pods, self._loop, selector_of)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._shared.synced(self._resource, PODS)
        await self._loop.run()

    async def _reconcile(self, key: Key) -> float | None:
        owner = self._sets.objects.get(key)
        if owner is None:
            return None
        pods = [p for p in await self._pods.claim(owner, self._resource, selector_of(owner)) if not is_finished(p)]
        scaling = plan_scaling(owner, pods, self._related(owner))
        failure: ApiError | None = None
        try:
            await self._scale(owner, scaling)
        except (Conflict, NotFound):
            raise
        except ApiError as error:
            failure = error
        pods = [p for p in self._pods.of(owner) if not is_finished(p)]
        await self._write_status(owner, pods, failure.message if failure else "")
        if failure is not None:
            raise failure
        return soonest_available_s(
            [p for p in pods if is_active(p)], owner["spec"].get("minReadySeconds") or 0, self._shared.clock.now()
        )

    def _related(self, owner: Obj) -> list[Obj]:
        """Return the pods of every set of the same controller, this one's included."""
        ref = controller_of(owner)
        sets = self._siblings.of(ref["uid"]) if ref else (owner,)
        return [p for s in sets for p in self._pods.of(s)]

    async def _scale(self, owner: Obj, scaling: Scaling) -> None:
        if scaling.create:
            await self._pods.in_batches([lambda: self._create(owner)] * scaling.create)
        if scaling.delete:
            await all_of([self._delete(owner, pod) for pod in scaling.delete])

    async def _create(self, owner: Obj) -> None:
        base = owner["metadata"]["name"] + "-"
        pod = pod_of(owner, owner["spec"].get("template") or {}, generated_name(base), base)
        try:
            made = await self._pods.create(owner, pod)
        except ApiError as error:
            self._shared.recorder.warning(owner, "FailedCreate", f"Error creating: {error.message}", self._component)
            raise
        self._shared.recorder.normal(
            owner, "SuccessfulCreate", f"Created pod: {made['metadata']['name']}", self._component
        )

    async def _delete(self, owner: Obj, pod: Obj) -> None:
        if await self._pods.delete(owner, pod):
            self._shared.recorder.normal(
                owner, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}", self._component
            )

    async def _write_status(self, owner: Obj, pods: list[Obj], failure: str) -> None:
        now = self._shared.clock.now()
        status = plan_status(owner, pods, failure, now, timestamp(now))
        if status_differs(status, owner.get("status")) and not (is_deleting(owner) and not pods):
            await self._shared.client.update(self._resource, {**owner, "status": status}, "status")


def _sibling_of(owner: Obj) -> tuple[str, ...]:
    ref = controller_of(owner)
    return (ref["uid"],) if ref else ()
