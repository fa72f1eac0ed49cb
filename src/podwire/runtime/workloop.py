"""The keyed work loop of every controller and agent: coalesce, reconcile one key, back off on failure.

Events only name keys. A key that changes ten times before its turn is reconciled once; a key that is
being reconciled and changes again is reconciled once more after; no key is ever reconciled twice at a
time. A failure is retried after 5 ms, 10 ms ... up to ``max_backoff_s``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import Log

K = TypeVar("K", bound=Hashable)


class WorkLoop(Generic[K]):
    """Reconcile keys, ``workers`` at a time."""

    def __init__(
        self,
        room: str,
        reconcile: Callable[[K], Awaitable[float | None]],
        *,
        workers: int = 1,
        clock: Clock | None = None,
        max_backoff_s: float = 30.0,
    ) -> None:
        """``reconcile`` may return seconds after which it wants the same key again, or None."""
        self._reconcile, self._workers, self._max_backoff_s = reconcile, workers, max_backoff_s
        self._clock: Clock = clock or SystemClock()
        self._log = Log(room)
        self._queue: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._running: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.Task[None]] = {}

    def add(self, key: K) -> None:
        """Ask for a reconcile of ``key``, now."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._queue.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for a reconcile of ``key`` after ``seconds``; a later request replaces an earlier one."""
        old = self._timers.pop(key, None)
        if old is not None:
            old.cancel()
        self._timers[key] = asyncio.get_running_loop().create_task(self._fire(key, seconds))

    async def _fire(self, key: K, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._timers.pop(key, None)
        self.add(key)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs (timers do not count)."""
        return not self._waiting and not self._running

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._waiting.discard(key)
            self._running.add(key)
            try:
                again_s = await self._reconcile(key)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._retry(key, error)
            else:
                self._failures.pop(key, None)
                if again_s is not None:
                    self.add_after(key, again_s)
            finally:
                self._running.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    def _retry(self, key: K, error: Exception) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = min(self._max_backoff_s, 0.005 * 2 ** min(failures - 1, 20))
        self._log.warning(
            "retry", key=key, after_s=delay_s, failures=failures, error=f"{type(error).__name__}: {error}"
        )
        self.add_after(key, delay_s)
