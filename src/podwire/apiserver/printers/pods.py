"""Pods: READY, STATUS and RESTARTS as every kubectl user knows them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from podwire.apiserver.printers.column import NONE, Printer, age, columns, duration, spec_of, status_of
from podwire.model.objects import Obj, condition, parse_timestamp

_COLUMNS = columns("Name", "Ready", "Status", "Restarts", "Age", "IP+", "Node+", "Nominated Node+", "Readiness Gates+")


class _Tally:
    """Restarts counted so far, and when the last container ended."""

    def __init__(self) -> None:
        self.restarts = 0
        self.last: datetime | None = None

    def count(self, status: Mapping[str, Any]) -> None:
        self.restarts += status.get("restartCount") or 0
        ended = ((status.get("lastState") or {}).get("terminated") or {}).get("finishedAt")
        if ended:
            moment = parse_timestamp(ended)
            self.last = moment if self.last is None or moment > self.last else self.last

    def text(self, now: datetime) -> str:
        if not self.restarts or self.last is None:
            return str(self.restarts)
        return f"{self.restarts} ({duration((now - self.last).total_seconds())} ago)"


def summary(pod: Obj, now: datetime) -> tuple[str, str, str]:
    """Return the cells READY, STATUS and RESTARTS of a pod."""
    spec, status = spec_of(pod), status_of(pod)
    sidecars = {c["name"] for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    total = len(spec.get("containers") or ()) + len(sidecars)
    reason = status.get("reason") or status.get("phase") or "Unknown"
    scheduled = condition(pod, "PodScheduled")
    if scheduled is not None and scheduled.get("reason") == "SchedulingGated":
        reason = "SchedulingGated"
    restarts, sidecar_restarts = _Tally(), _Tally()
    init_reason, ready = _initializing(pod, sidecars, restarts, sidecar_restarts)
    initialized = condition(pod, "Initialized")
    if init_reason:
        reason = init_reason
    if not init_reason or (initialized is not None and initialized.get("status") == "True"):
        restarts = sidecar_restarts
        found, running = _main(status, restarts)
        reason, ready = found or reason, ready + running
        if reason == "Completed" and running:
            is_ready = (condition(pod, "Ready") or {}).get("status") == "True"
            reason = "Running" if is_ready else "NotReady"
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif status.get("phase") not in ("Succeeded", "Failed"):
            reason = "Terminating"
    return f"{ready}/{total}", reason, restarts.text(now)


def _initializing(pod: Obj, sidecars: set[str], restarts: _Tally, sidecar_restarts: _Tally) -> tuple[str, int]:
    """Return the Init:... reason ("" when initialization is over), and how many sidecars are ready."""
    ready, total = 0, len(spec_of(pod).get("initContainers") or ())
    for i, status in enumerate(status_of(pod).get("initContainerStatuses") or ()):
        restarts.count(status)
        sidecar = status.get("name") in sidecars
        if sidecar:
            sidecar_restarts.count(status)
        state = status.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting") or {}
        if ended is not None and not ended.get("exitCode"):
            continue
        if sidecar and status.get("started"):
            ready += bool(status.get("ready"))
            continue
        if ended is not None:
            return "Init:" + _ended(ended), ready
        if waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}", ready
        return f"Init:{i}/{total}", ready
    return "", ready


def _main(status: Mapping[str, Any], restarts: _Tally) -> tuple[str, int]:
    """Return the first container's reason ("" when all run) and how many containers run and are ready."""
    reason, running = "", 0
    for container in reversed(status.get("containerStatuses") or ()):
        restarts.count(container)
        state = container.get("state") or {}
        waiting, ended = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason"):
            reason = waiting["reason"]
        elif ended is not None:
            reason = _ended(ended)
        elif container.get("ready") and state.get("running") is not None:
            running += 1
    return reason, running


def _ended(terminated: Mapping[str, Any]) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _gates(pod: Obj) -> str:
    gates = spec_of(pod).get("readinessGates") or ()
    if not gates:
        return NONE
    met = sum((condition(pod, g["conditionType"]) or {}).get("status") == "True" for g in gates)
    return f"{met}/{len(gates)}"


def _cells(pod: Obj, now: datetime) -> list[Any]:
    spec, status = spec_of(pod), status_of(pod)
    addresses = status.get("podIPs") or ()
    address = addresses[0].get("ip") if addresses else status.get("podIP")
    return [
        pod["metadata"]["name"],
        *summary(pod, now),
        age(pod, now),
        address or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(pod),
    ]


def row_conditions(pod: Obj) -> list[Obj]:
    """Return the row's conditions: finished pods are marked, so that clients can hide them."""
    phase = status_of(pod).get("phase")
    if phase not in ("Succeeded", "Failed"):
        return []
    said = "The pod has completed successfully." if phase == "Succeeded" else "The pod failed."
    return [{"type": "Completed", "status": "True", "reason": phase, "message": said}]


PRINTERS = {("", "Pod"): Printer(_COLUMNS, _cells)}
