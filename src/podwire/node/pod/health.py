"""The probers of one pod's running containers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from podwire.model.objects import Obj
from podwire.node.pod import spec
from podwire.node.pod.context import NodeContext
from podwire.node.pod.records import Records, told_status
from podwire.node.pod.status import container_id
from podwire.node.probes.check import Target
from podwire.node.probes.prober import Prober
from podwire.node.runtime.values import Container

_KINDS = ("startupProbe", "readinessProbe", "livenessProbe")


class Probing:
    """Starts a prober with each container and ends it with it."""

    def __init__(self, node: NodeContext, records: Records, changed: Callable[[], None]) -> None:
        self._node, self._records, self._changed = node, records, changed
        self._adopted = frozenset(records.ids())
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def watch(self, pod: Obj, host: str, hold: Collection[str]) -> None:
        """Probe what runs; not yet the containers in ``hold``, whose postStart hook runs."""
        roles = {c["name"]: (role, c) for role, c in spec.containers(pod)}
        for container in self._records.running():
            id = container.spec.id
            role, c = roles.get(container.spec.name, ("init", {}))
            if id not in self._records.health and id not in hold and role in ("main", "sidecar"):
                self._begin(pod, role, Target(container, c, host))

    def end(self, id: str) -> None:
        """The container has exited, or is being stopped."""
        task = self._tasks.pop(id, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """End all probing."""
        for id in tuple(self._tasks):
            self.end(id)

    def _begin(self, pod: Obj, role: spec.Role, target: Target) -> None:
        container, where = target.container, spec.field_path(role, target.spec["name"])

        def report(kind: str, output: str) -> None:
            self._node.tell(pod, "Warning", "Unhealthy", f"{kind} probe failed: {output}", where)

        adopted = container.spec.id in self._adopted
        prober = Prober(
            target,
            self._node.runtime,
            self._node.clock,
            self._changed,
            report,
            adopted=adopted,
            was_ready=adopted and _was_ready(pod, container),
        )
        self._records.health[container.spec.id] = prober
        if any(kind in target.spec for kind in _KINDS):
            self._tasks[container.spec.id] = self._node.spawn(prober.run())


def _was_ready(pod: Obj, container: Container) -> bool:
    told = told_status(pod, container.spec.name)
    return bool(told and told.get("ready") and told.get("containerID") == container_id(container))
