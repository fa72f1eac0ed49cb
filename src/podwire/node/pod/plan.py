"""What to do next for a pod, from what is there now. Pure; the node's ``computePodActions``.

init containers one after the other, sidecars kept running from their turn on
-> regular containers all at once -> when none will run again, sidecars end, last one first
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from podwire.model.objects import Obj
from podwire.node.pod import spec
from podwire.node.pod.spec import Role
from podwire.node.runtime.values import Container


@dataclass(frozen=True, slots=True)
class Observation:
    """One container of a pod as it is: its newest attempt in this sandbox, and the one before."""

    current: Container | None = None
    previous: Container | None = None
    started: bool = False  # its startup probe (if any) has passed
    ready: bool = False  # its readiness probe (if any) says so
    unhealthy: str = ""  # why a liveness or startup probe wants it dead

    @property
    def running(self) -> bool:
        """Whether the newest attempt runs."""
        return self.current is not None and self.current.state == "running"

    @property
    def exited(self) -> bool:
        """Whether the newest attempt has ended."""
        return self.current is not None and self.current.state == "exited"

    @property
    def succeeded(self) -> bool:
        """Whether the newest attempt has ended with exit code 0."""
        return self.current is not None and self.current.state == "exited" and not self.current.exit_code


NOTHING = Observation()


@dataclass(frozen=True, slots=True)
class Actions:
    """What to do. ``start`` may have to wait for a back-off; ``kill`` says why."""

    start: tuple[tuple[Role, str], ...] = ()
    kill: tuple[tuple[str, str], ...] = ()  # container name, message
    initialized: bool = False
    finished: bool = False  # no regular container runs or will run again
    failed_init: str = ""  # the init container whose failure is final


@dataclass(slots=True)
class _Draft:
    start: list[tuple[Role, str]] = field(default_factory=list)
    kill: list[tuple[str, str]] = field(default_factory=list)
    failed_init: str = ""


def decide(pod: Mapping[str, Any], seen: Mapping[str, Observation]) -> Actions:
    """Return what to do for a pod that is to run and whose sandbox is ready."""
    draft = _Draft()
    begun = any(seen.get(c["name"], NOTHING).current for c in spec.main_containers(pod))
    initialized = _init(pod, seen, begun, draft) and not draft.failed_init
    if initialized:
        for c in spec.main_containers(pod):
            _main(pod, c, seen.get(c["name"], NOTHING), draft)
    finished = bool(draft.failed_init) or (initialized and _finished(pod, seen))
    if finished:
        draft.start = []
        draft.kill = [(n, "Pod is done") for n in _sidecars_left(pod, seen)[:1]]
    else:
        for c in spec.ephemeral_containers(pod):
            if seen.get(c["name"], NOTHING).current is None:
                draft.start.append(("ephemeral", c["name"]))
    return Actions(tuple(draft.start), tuple(draft.kill), initialized, finished, draft.failed_init)


def _init(pod: Mapping[str, Any], seen: Mapping[str, Observation], begun: bool, draft: _Draft) -> bool:
    """Plan the init containers; return whether all have done their part. Stops at the first that has not."""
    for c in spec.init_containers(pod):
        name, o = c["name"], seen.get(c["name"], NOTHING)
        if spec.is_sidecar(c):
            if not o.running:
                draft.start.append(("sidecar", name))
            elif o.unhealthy:
                draft.kill.append((name, o.unhealthy))
            if not begun and not (o.running and o.started):
                return False
        elif not begun and not o.succeeded:
            if o.current is None:
                draft.start.append(("init", name))
            elif o.exited and spec.restart_policy(pod) == "Never":
                draft.failed_init = name
            elif o.exited:
                draft.start.append(("init", name))
            return False
    return True


def _main(pod: Mapping[str, Any], c: Obj, o: Observation, draft: _Draft) -> None:
    name = c["name"]
    if o.current is None or (o.exited and restarts(pod, o)):
        draft.start.append(("main", name))
    elif o.running and o.unhealthy:
        draft.kill.append((name, o.unhealthy))
    elif o.running and o.current.spec.image != c.get("image", ""):
        draft.kill.append((name, f"Container {name} definition changed, will be restarted"))


def restarts(pod: Mapping[str, Any], o: Observation) -> bool:
    """Return whether a regular container that has exited is to be started again."""
    policy = spec.restart_policy(pod)
    return policy == "Always" or (policy == "OnFailure" and not o.succeeded)


def _finished(pod: Mapping[str, Any], seen: Mapping[str, Observation]) -> bool:
    mains = [seen.get(c["name"], NOTHING) for c in spec.main_containers(pod)]
    return all(o.exited and not restarts(pod, o) for o in mains)


def _sidecars_left(pod: Mapping[str, Any], seen: Mapping[str, Observation]) -> list[str]:
    """Return what still runs in a finished pod: ephemeral containers, then sidecars, last one first."""
    ephemeral = [c["name"] for c in spec.ephemeral_containers(pod)]
    inits = [c["name"] for c in spec.init_containers(pod)]
    return [n for n in ephemeral + inits[::-1] if seen.get(n, NOTHING).running]


def stop_order(pod: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Return the names in the waves in which a deleted pod's containers are stopped.

    Everything but sidecars at once; then the sidecars one by one, last one first (KEP-753).
    """
    sidecars = [c["name"] for c in spec.init_containers(pod) if spec.is_sidecar(c)]
    others = tuple(c["name"] for _, c in spec.containers(pod) if c["name"] not in sidecars)
    return (others, *((n,) for n in reversed(sidecars)))
