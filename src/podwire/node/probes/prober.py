"""The probes of one container attempt, from its start to its end.

    startup (if any) until it passes -> then liveness and readiness side by side

A readiness or startup probe that has never passed is tried again after 20 ms, 40 ms ... 640 ms before its
period begins to count, so that a server which needs 50 ms to listen is not unready for ten seconds. Those
extra tries neither count as failures nor make events.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from podwire.node.probes.check import Outcome, Target, check
from podwire.node.runtime.port import RuntimePort
from podwire.runtime.clock import Clock

_EAGER_S: Final = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64)

Report = Callable[[str, str], None]
"""(probe type "Liveness" ..., output): a probe failed; becomes an Unhealthy event."""


@dataclass(frozen=True, slots=True)
class Timing:
    """A probe's numbers, with the API's defaults."""

    initial_delay_s: float
    period_s: float
    timeout_s: float
    success_threshold: int
    failure_threshold: int


def timing(probe: Mapping[str, Any]) -> Timing:
    """Return the timing of a probe."""
    return Timing(
        float(probe.get("initialDelaySeconds") or 0),
        float(probe.get("periodSeconds") or 10),
        float(probe.get("timeoutSeconds") or 1),
        int(probe.get("successThreshold") or 1),
        int(probe.get("failureThreshold") or 3),
    )


class Prober:
    """Probes one container and remembers what it found. ``changed`` is called when that changes."""

    def __init__(
        self,
        target: Target,
        runtime: RuntimePort,
        clock: Clock,
        changed: Callable[[], None],
        report: Report,
        *,
        adopted: bool = False,
        was_ready: bool = False,
    ) -> None:
        """``adopted``: the container ran before this agent did, so its probes start spread out in time.

        It is then taken for as ready as the API last said, ``was_ready``, until a probe says otherwise.
        """
        self._target, self._runtime, self._clock = target, runtime, clock
        self._changed, self._report, self._adopted = changed, report, adopted
        self.started = "startupProbe" not in target.spec or adopted
        self.ready = self.started and ("readinessProbe" not in target.spec or was_ready)
        self.unhealthy = ""
        self.unhealthy_grace_s: int | None = None  # the probe's own terminationGracePeriodSeconds

    async def run(self) -> None:
        """Probe until cancelled or found dead."""
        spec = self._target.spec
        if not self.started:
            if not await self._start_up(spec["startupProbe"]):
                return
            self.started = True
            self.ready = "readinessProbe" not in spec
            self._changed()
        async with asyncio.TaskGroup() as group:
            if "readinessProbe" in spec:
                group.create_task(self._readiness(spec["readinessProbe"]))
            if "livenessProbe" in spec:
                group.create_task(self._liveness(spec["livenessProbe"]))

    async def _start_up(self, probe: Mapping[str, Any]) -> bool:
        """Return whether the startup probe passed; False: it failed for good."""
        t = timing(probe)
        await self._delay(t)
        if await self._eager(probe, t):
            return True
        failures = 0
        while True:
            outcome = await self._check(probe, t)
            if outcome.ok:
                return True
            failures += 1
            self._report("Startup", outcome.output)
            if failures >= t.failure_threshold:
                self._condemn(probe, "startup")
                return False
            await self._clock.sleep(t.period_s)

    async def _readiness(self, probe: Mapping[str, Any]) -> None:
        t = timing(probe)
        await self._delay(t)
        if t.success_threshold == 1 and not self._adopted and await self._eager(probe, t):
            self._set_ready(True)
            await self._clock.sleep(t.period_s)
        successes = failures = 0
        while True:
            outcome = await self._check(probe, t)
            if outcome.ok:
                successes, failures = successes + 1, 0
                if successes >= t.success_threshold:
                    self._set_ready(True)
            else:
                successes, failures = 0, failures + 1
                self._report("Readiness", outcome.output)
                if failures >= t.failure_threshold:
                    self._set_ready(False)
            await self._clock.sleep(t.period_s)

    async def _liveness(self, probe: Mapping[str, Any]) -> None:
        t = timing(probe)
        await self._delay(t)
        failures = 0
        while True:
            outcome = await self._check(probe, t)
            failures = 0 if outcome.ok else failures + 1
            if not outcome.ok:
                self._report("Liveness", outcome.output)
            if failures >= t.failure_threshold:
                self._condemn(probe, "liveness")
                return
            await self._clock.sleep(t.period_s)

    async def _delay(self, t: Timing) -> None:
        if self._adopted:  # kubelet's only jitter: after its restart
            await self._clock.sleep(random.uniform(0, t.period_s))
            return
        age_s = self._clock.now().timestamp() - self._target.container.started_at
        if age_s < t.initial_delay_s:
            await self._clock.sleep(t.initial_delay_s - age_s)

    async def _eager(self, probe: Mapping[str, Any], t: Timing) -> bool:
        if t.initial_delay_s:
            return False
        for pause_s in _EAGER_S:
            if (await self._check(probe, t)).ok:
                return True
            if pause_s >= t.period_s:
                return False
            await self._clock.sleep(pause_s)
        return False

    async def _check(self, probe: Mapping[str, Any], t: Timing) -> Outcome:
        return await check(probe, self._target, self._runtime, t.timeout_s)

    def _set_ready(self, ready: bool) -> None:
        if ready != self.ready:
            self.ready = ready
            self._changed()

    def _condemn(self, probe: Mapping[str, Any], kind: str) -> None:
        name = self._target.spec["name"]
        self.unhealthy = f"Container {name} failed {kind} probe, will be restarted"
        self.unhealthy_grace_s = probe.get("terminationGracePeriodSeconds")
        self._changed()
