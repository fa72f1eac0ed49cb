"""The crash-loop back-off of one pod's containers, and the words for it."""

from __future__ import annotations

from podwire.node.pod.backoff import CrashBackoff
from podwire.node.runtime.values import Container
from podwire.runtime.clock import Clock


class Crashes:
    """How long each container has to wait before it is started again."""

    def __init__(self, initial_s: float, max_s: float, clock: Clock) -> None:
        self._initial_s, self._max_s, self._clock = initial_s, max_s, clock
        self._backoffs: dict[str, CrashBackoff] = {}

    def wait_s(self, name: str, last: Container | None) -> float:
        """Return the seconds that a restart after ``last`` has to wait; 0.0: none."""
        backoff = self._backoffs.get(name)
        if last is None or last.state != "exited" or backoff is None:
            return 0.0
        return backoff.wait_s(last.finished_at, self._clock.now().timestamp())

    def restarted(self, name: str, last: Container | None) -> None:
        """Note that the container is started again after ``last``; a first start is no restart."""
        if last is None or last.state != "exited":
            return
        backoff = self._backoffs.setdefault(name, CrashBackoff(self._initial_s, self._max_s))
        backoff.restarted(last.finished_at, self._clock.now().timestamp())

    def message(self, name: str, pod_name: str) -> str:
        """Return the waiting state's message: "back-off 10s restarting failed container=..."."""
        delay = _duration(self._backoffs[name].delay_s)
        return f"back-off {delay} restarting failed container={name} pod={pod_name}"


def _duration(seconds: float) -> str:
    """Return 10s, 1m20s, 5m0s."""
    whole = round(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{seconds:g}s"
