"""The crash-loop back-off: the first restart is at once, then 10 s, 20 s ... 5 min after the exit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Entry:
    delay_s: float
    since: float  # when the delay was last used, seconds since the epoch


class CrashBackoff:
    """One container's memory of its crashes. It forgets after running for twice the longest delay."""

    def __init__(self, initial_s: float, max_s: float) -> None:
        self._initial_s, self._max_s = initial_s, max_s
        self._entry: _Entry | None = None

    def wait_s(self, finished_at: float, now: float) -> float:
        """Return how long a restart still has to wait; 0.0: not at all."""
        if self._entry is None or self._forgotten(finished_at):
            return 0.0
        return max(0.0, finished_at + self._entry.delay_s - now)

    @property
    def delay_s(self) -> float:
        """The delay in force, as messages tell it."""
        return self._entry.delay_s if self._entry else 0.0

    def restarted(self, finished_at: float, now: float) -> None:
        """Note a restart after an exit: the next delay is twice as long."""
        if self._entry is None or self._forgotten(finished_at):
            self._entry = _Entry(self._initial_s, now)
        else:
            self._entry = _Entry(min(self._max_s, self._entry.delay_s * 2), now)

    def _forgotten(self, finished_at: float) -> bool:
        assert self._entry is not None
        return finished_at - self._entry.since > 2 * self._max_s
