"""Time, as a value that can be handed in. Production uses ``SystemClock``; tests use ``FakeClock``."""

from __future__ import annotations

import asyncio
import heapq
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """The three things that code may ask of time."""

    def now(self) -> datetime:
        """Return the wall-clock moment, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never runs backwards."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the wall-clock moment, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep in the running event loop."""
        await asyncio.sleep(seconds)


class FakeClock:
    """A clock that moves only when told to: ``await clock.advance(10)``."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._elapsed_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._serial = 0

    def now(self) -> datetime:
        """Return the moment that the clock stands at."""
        return self._now + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        """Return the seconds that the clock was advanced by."""
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock is advanced past this moment."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serial += 1
        heapq.heappush(self._sleepers, (self._elapsed_s + seconds, self._serial, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move time on, waking the sleepers in order and letting each run."""
        end = self._elapsed_s + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._elapsed_s, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await _settle()
        self._elapsed_s = end
        await _settle()


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
