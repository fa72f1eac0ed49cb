"""What a worker remembers of its pod's containers: the runtime's records, restarts, last words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from podwire.node.pod import spec
from podwire.node.pod.launch import termination_message
from podwire.node.pod.plan import NOTHING, Observation
from podwire.node.runtime.values import Container, ContainerSpec


class Health(Protocol):
    """What probes found out about one attempt."""

    started: bool
    ready: bool
    unhealthy: str
    unhealthy_grace_s: int | None


class Records:
    """The containers of one pod, by attempt."""

    def __init__(self, known: Iterable[Container] = ()) -> None:
        self._by_id: dict[str, Container] = {c.spec.id: c for c in known}
        self.messages: dict[str, str] = {}  # container id -> termination message
        self.health: dict[str, Health] = {}  # container id -> what its probes found

    def put(self, container: Container) -> bool:
        """Note a container's state; return whether that is news. An exit is never taken back."""
        old = self._by_id.get(container.spec.id)
        if old == container or (old is not None and old.state == "exited" and container.state != "exited"):
            return False
        self._by_id[container.spec.id] = container
        return True

    def ids(self) -> tuple[str, ...]:
        """Return the ids of all attempts known."""
        return tuple(self._by_id)

    def all(self) -> tuple[Container, ...]:
        """Return every attempt known."""
        return tuple(self._by_id.values())

    def newest(self, name: str) -> Container | None:
        """Return a container's newest attempt; None before the first."""
        attempts = self.attempts(name)
        return attempts[-1] if attempts else None

    def end_running(self, now: float) -> None:
        """Note that whatever still counts as running is gone with its sandbox."""
        for id, c in self._by_id.items():
            if c.state == "running":
                self._by_id[id] = replace(c, state="exited", exit_code=137, signal=9, reason="Error", finished_at=now)

    def attempts(self, name: str) -> list[Container]:
        """Return the attempts of a container, oldest first."""
        return sorted((c for c in self._by_id.values() if c.spec.name == name), key=lambda c: c.spec.attempt)

    def running(self) -> list[Container]:
        """Return the attempts that run."""
        return [c for c in self._by_id.values() if c.state == "running"]

    def forget(self, id: str) -> None:
        """Drop a record whose container was removed."""
        self._by_id.pop(id, None)
        self.messages.pop(id, None)
        self.health.pop(id, None)

    def outdated(self) -> list[Container]:
        """Return exited attempts that no status shows any more: all but the newest and the one before."""
        names = {c.spec.name for c in self._by_id.values()}
        return [c for n in names for c in self.attempts(n)[:-2] if c.state == "exited"]

    def next_attempt(self, pod: Mapping[str, Any], name: str) -> int:
        """Return the number of the next attempt; the API's restart count helps when records are lost."""
        attempts = self.attempts(name)
        if attempts:
            return attempts[-1].spec.attempt + 1
        told = told_status(pod, name)
        return int(told.get("restartCount", 0)) + 1 if told and told.get("containerID") else 0

    def restarts(self, pod: Mapping[str, Any]) -> dict[str, int]:
        """Return each container's restart count."""
        counts = {}
        for _, c in spec.containers(pod):
            attempts = self.attempts(c["name"])
            told = told_status(pod, c["name"])
            counts[c["name"]] = attempts[-1].spec.attempt if attempts else int((told or {}).get("restartCount", 0))
        return counts

    def observe(self, pod: Mapping[str, Any], sandbox_id: str) -> dict[str, Observation]:
        """Return what each container of the pod is like now. Attempts of older sandboxes are only "previous"."""
        seen: dict[str, Observation] = {}
        for _, c in spec.containers(pod):
            attempts = self.attempts(c["name"])
            if attempts:
                seen[c["name"]] = self._observation(c, attempts, sandbox_id)
        return seen

    def _observation(self, c: Mapping[str, Any], attempts: list[Container], sandbox_id: str) -> Observation:
        newest = attempts[-1]
        if newest.spec.sandbox_id != sandbox_id:
            return Observation(previous=newest) if newest.state == "exited" else NOTHING
        previous = attempts[-2] if len(attempts) > 1 else None
        health = self.health.get(newest.spec.id)
        if health is None:
            return Observation(newest, previous)
        return Observation(newest, previous, health.started, health.ready, health.unhealthy)

    def read_last_words(self, pod: Mapping[str, Any]) -> None:
        """Read the termination messages of containers that have exited since."""
        specs = {c["name"]: c for _, c in spec.containers(pod)}
        for c in self._by_id.values():
            if c.state == "exited" and c.spec.id not in self.messages:
                self.messages[c.spec.id] = termination_message(
                    specs.get(c.spec.name, {}), c.spec.termination_log, c.spec.log_path, c.exit_code
                )

    def lose(self, pod: Mapping[str, Any]) -> None:
        """Note that what the API says ran here is gone without a trace (the machine was restarted).

        Only pods that are never restarted need it: exit code 137, reason ContainerStatusUnknown.
        """
        for _, c in spec.containers(pod):
            told = told_status(pod, c["name"])
            if not told or not told.get("containerID") or self.attempts(c["name"]):
                continue
            ended = (told.get("state") or {}).get("terminated")
            lost = ContainerSpec(
                told["containerID"].rpartition("/")[2], "", c["name"], int(told.get("restartCount", 0)), c["image"]
            )
            self.put(
                Container(
                    lost,
                    "exited",
                    exit_code=int(ended["exitCode"]) if ended else 137,
                    reason=ended.get("reason", "") if ended else "ContainerStatusUnknown",
                    message="" if ended else "The container could not be located when the pod was terminated",
                )
            )


def _told(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    status = pod.get("status") or {}
    for field in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        yield from status.get(field) or ()


def told_status(pod: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return what the API last heard of a container; None: nothing."""
    return next((told for told in _told(pod) if told.get("name") == name), None)


def told_images(pod: Mapping[str, Any]) -> dict[str, str]:
    """Return image name -> imageID as the API last heard them."""
    return {t["image"]: t["imageID"] for t in _told(pod) if t.get("image") and t.get("imageID")}
