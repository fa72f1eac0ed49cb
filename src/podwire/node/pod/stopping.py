"""End one container: preStop hook, signal, grace, SIGKILL."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import Any, Final

from podwire.model.errors import MachineError
from podwire.node.pod import spec
from podwire.node.pod.context import NodeContext
from podwire.node.probes.check import Outcome, Target, check_exec, check_http
from podwire.node.runtime.values import Container
from podwire.runtime.logging import get

_log = get("node")
MIN_GRACE_S: Final = 2.0  # what a container gets after a hook that used up the grace period


async def run_hook(node: NodeContext, hook: Mapping[str, Any], target: Target, timeout_s: float | None) -> Outcome:
    """Return how a lifecycle hook went. It may be exec, httpGet or sleep; tcpSocket was never done."""
    try:
        async with asyncio.timeout(timeout_s):
            if "exec" in hook:
                return await check_exec(hook["exec"].get("command") or (), target.container, node.runtime)
            if "httpGet" in hook:
                return await check_http(hook["httpGet"], target)
            if "sleep" in hook:
                await node.clock.sleep(float(hook["sleep"].get("seconds") or 0))
            return Outcome(True)
    except TimeoutError:
        return Outcome(False, "the hook ran out of time")
    except MachineError as error:
        return Outcome(False, str(error.cause))
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        return Outcome(False, str(error) or type(error).__name__)


async def stop(
    node: NodeContext,
    pod: Mapping[str, Any],
    target: Target,
    grace_s: float,
    why: str,
    hurry: asyncio.Event | None = None,
) -> Container:
    """Stop a container and return it exited. ``hurry``, once set, cuts the grace period short."""
    container, c = target.container, target.spec
    role: spec.Role = next((r for r, x in spec.containers(pod) if x["name"] == c["name"]), "main")
    node.tell(pod, "Normal", "Killing", why, spec.field_path(role, c["name"]))
    gently = asyncio.ensure_future(_gently(node, pod, target, grace_s))
    rushed = asyncio.ensure_future(hurry.wait() if hurry else asyncio.Event().wait())
    try:
        done, _ = await asyncio.wait({gently, rushed}, return_when=asyncio.FIRST_COMPLETED)
        if gently in done:
            return gently.result()
        return await node.runtime.stop_container(container.spec.id, 0.0)
    finally:
        for task in (gently, rushed):
            task.cancel()
        await asyncio.gather(gently, rushed, return_exceptions=True)


async def _gently(node: NodeContext, pod: Mapping[str, Any], target: Target, grace_s: float) -> Container:
    lifecycle = target.spec.get("lifecycle") or {}
    hook = lifecycle.get("preStop")
    begun = node.clock.monotonic()
    if hook and grace_s > 0:
        outcome = await run_hook(node, hook, target, grace_s)
        if not outcome.ok:
            node.tell(pod, "Warning", "FailedPreStopHook", f"PreStopHook failed: {outcome.output}")
        grace_s = max(MIN_GRACE_S, grace_s - (node.clock.monotonic() - begun))
    number = _signal(lifecycle.get("stopSignal"))
    return await node.runtime.stop_container(target.container.spec.id, grace_s, number)


def _signal(name: str | None) -> int:
    """Return the number of "SIGUSR1" ...; SIGTERM for None and for names this machine lacks."""
    return int(getattr(signal, name or "", signal.SIGTERM))
