"""A pod's status as kubectl shows it, from what the node sees. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from podwire.model.objects import Obj, condition, timestamp, with_condition
from podwire.node.config import Address
from podwire.node.pod import spec
from podwire.node.pod.plan import NOTHING, Observation
from podwire.node.pod.spec import Role
from podwire.node.runtime.values import Container

OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


@dataclass(frozen=True, slots=True)
class View:
    """Everything a status is made from."""

    seen: Mapping[str, Observation]
    waiting: Mapping[str, tuple[str, str]]  # container -> reason and message, why it is not started
    messages: Mapping[str, str]  # container id -> termination message
    images: Mapping[str, str]  # image name -> imageID
    restarts: Mapping[str, int]
    initialized: bool
    finished: bool
    failed_init: bool
    sandbox_ready: bool
    pod_ips: tuple[Address, ...]
    host_ips: tuple[Address, ...]
    start_time: str
    failure: tuple[str, str] | None = None  # reason and message of a pod that the node itself failed
    terminating: bool = False


def pod_status(pod: Mapping[str, Any], view: View, now: str) -> Obj:
    """Return the whole status. Conditions that others wrote are kept."""
    groups: dict[str, list[Obj]] = {"init": [], "main": [], "ephemeral": []}
    for role, c in spec.containers(pod):
        groups["init" if role == "sidecar" else role].append(_container(pod, role, c, view))
    phase = "Failed" if view.failure else _phase(pod, groups, view)
    status: Obj = {"phase": phase, "qosClass": spec.qos_class(pod), "startTime": view.start_time}
    if view.failure:
        status["reason"], status["message"] = view.failure
    if view.host_ips:
        status["hostIP"] = str(view.host_ips[0])
        status["hostIPs"] = [{"ip": str(a)} for a in view.host_ips]
    if view.pod_ips:
        status["podIP"] = str(view.pod_ips[0])
        status["podIPs"] = [{"ip": str(a)} for a in view.pod_ips]
    if pod["metadata"].get("generation"):
        status["observedGeneration"] = pod["metadata"]["generation"]
    status["conditions"] = _conditions(pod, groups, phase, view, now)
    for name, field_name in (
        ("main", "containerStatuses"),
        ("init", "initContainerStatuses"),
        ("ephemeral", "ephemeralContainerStatuses"),
    ):
        if groups[name]:
            status[field_name] = groups[name]
    return status


def _container(pod: Mapping[str, Any], role: Role, c: Mapping[str, Any], view: View) -> Obj:
    name = c["name"]
    o = view.seen.get(name, NOTHING)
    waiting = view.waiting.get(name)
    current, previous = o.current, o.previous
    if waiting is not None and current is not None and current.state == "exited":
        previous, current = current, None  # waits for its next attempt; the exit becomes lastState
    shown = current or previous
    status: Obj = {
        "name": name,
        "state": _state(current, waiting, view, bool(spec.init_containers(pod)) and role == "main"),
        "lastState": {"terminated": _terminated(previous, view)} if previous else {},
        "ready": _is_ready(role, o),
        "restartCount": view.restarts.get(name, 0),
        "image": c.get("image", ""),
        "imageID": view.images.get(c.get("image", ""), ""),
        "started": o.running and (o.started or role == "init"),
    }
    if shown is not None:
        status["containerID"] = container_id(shown)
    if role == "init" and o.exited:
        status["started"] = False
    return status


def _is_ready(role: Role, o: Observation) -> bool:
    if role == "init":
        return o.succeeded
    if role == "ephemeral":
        return False
    return o.running and o.ready


def container_id(container: Container) -> str:
    """Return the containerID as statuses and events carry it."""
    return f"podwire://{container.spec.id}"


def _state(current: Container | None, waiting: tuple[str, str] | None, view: View, after_init: bool) -> Obj:
    if current is not None and current.state == "running":
        return {"running": {"startedAt": moment(current.started_at)}}
    if current is not None and current.state == "exited":
        return {"terminated": _terminated(current, view)}
    if waiting is not None:
        reason, message = waiting
        return {"waiting": {"reason": reason, "message": message} if message else {"reason": reason}}
    return {"waiting": {"reason": "PodInitializing" if after_init else "ContainerCreating"}}


def _terminated(container: Container, view: View) -> Obj:
    state: Obj = {
        "exitCode": container.exit_code,
        "reason": container.reason or ("Error" if container.exit_code else "Completed"),
        "startedAt": moment(container.started_at or container.created_at),
        "finishedAt": moment(container.finished_at),
        "containerID": container_id(container),
    }
    message = view.messages.get(container.spec.id) or container.message
    if message:
        state["message"] = message
    if container.signal:
        state["signal"] = container.signal
    return state


def moment(seconds: float) -> str | None:
    """Return metav1.Time of seconds since the epoch; None for 0.0, which means never."""
    return timestamp(datetime.fromtimestamp(seconds, UTC)) if seconds else None


def _phase(pod: Mapping[str, Any], groups: Mapping[str, Sequence[Obj]], view: View) -> str:
    if view.failed_init:
        return "Failed" if not _any_running(groups) else "Pending"
    mains = groups["main"]
    if not view.initialized and not any("containerID" in s for s in mains):
        return "Pending"
    running = sum("running" in s["state"] for s in mains)
    ended = [_exit(s) for s in mains if "running" not in s["state"]]
    if any(e is None for e in ended):
        return "Pending"
    if running or (view.finished and not view.terminating and _any_running(groups)):
        return "Running"
    policy = spec.restart_policy(pod)
    if policy == "Always" and not view.terminating:
        return "Running"
    if all(e == 0 for e in ended):
        return "Succeeded"
    return "Failed" if policy == "Never" or view.terminating else "Running"


def _exit(status: Mapping[str, Any]) -> int | None:
    """Return the exit code of a container that does not run; None when it never did."""
    for state in (status["state"], status["lastState"]):
        if "terminated" in state:
            return int(state["terminated"]["exitCode"])
    return None


def _any_running(groups: Mapping[str, Sequence[Obj]]) -> bool:
    return any("running" in s["state"] for s in [*groups["init"], *groups["main"]])


def _conditions(
    pod: Mapping[str, Any], groups: Mapping[str, Sequence[Obj]], phase: str, view: View, now: str
) -> list[Obj]:
    done = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase, "")
    watched = [*groups["main"], *_sidecar_statuses(pod, groups["init"])]
    unready = [s["name"] for s in watched if not s["ready"]]
    containers_ready = _condition("ContainersReady", not unready and not done)
    if done:
        containers_ready["reason"] = done
    elif unready:
        containers_ready["reason"] = "ContainersNotReady"
        containers_ready["message"] = f"containers with unready status: [{' '.join(unready)}]"
    ready = {**containers_ready, "type": "Ready"}
    gates = _missing_gates(pod)
    if ready["status"] == "True" and gates:
        ready |= {"status": "False", "reason": "ReadinessGatesNotReady", "message": ", ".join(gates)}
    fresh = [
        _condition("PodReadyToStartContainers", view.sandbox_ready and not done),
        _initialized(pod, groups["init"], view, done),
        ready,
        containers_ready,
    ]
    conditions: list[Obj] = list((pod.get("status") or {}).get("conditions") or [])
    if condition(pod, "PodScheduled") is None:  # static pods and pods that name their node themselves
        fresh.append(_condition("PodScheduled", True))
    for new in fresh:
        conditions = with_condition(conditions, new, now)
    return conditions


def _condition(type: str, holds: bool) -> Obj:
    return {"type": type, "status": "True" if holds else "False"}


def _initialized(pod: Mapping[str, Any], inits: Sequence[Obj], view: View, done: str) -> Obj:
    result = _condition("Initialized", view.initialized)
    if view.initialized:
        if done == "PodCompleted":
            result["reason"] = done
        return result
    sidecars = {s["name"] for s in _sidecar_statuses(pod, inits)}
    waiting = [s["name"] for s in inits if not s["started" if s["name"] in sidecars else "ready"]]
    result["reason"] = "ContainersNotInitialized"
    result["message"] = f"containers with incomplete status: [{' '.join(waiting)}]"
    return result


def _sidecar_statuses(pod: Mapping[str, Any], inits: Sequence[Obj]) -> list[Obj]:
    names = {c["name"] for c in spec.init_containers(pod) if spec.is_sidecar(c)}
    return [s for s in inits if s["name"] in names]


def _missing_gates(pod: Mapping[str, Any]) -> list[str]:
    missing = []
    for gate in pod["spec"].get("readinessGates") or ():
        name = gate["conditionType"]
        found = condition(pod, name)
        if found is None:
            missing.append(f'corresponding condition of pod readiness gate "{name}" does not exist.')
        elif found.get("status") != "True":
            missing.append(f'the status of pod readiness gate "{name}" is not "True", but {found["status"]}')
    return missing


def status_patch(uid: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Obj | None:
    """Return the strategic merge patch from ``old`` to ``new``, bound to the pod's UID; None: equal.

    Lists that a strategic merge would merge by key, and that may lose entries, are replaced whole.
    """
    change: Obj = {}
    for name in {*old, *new}:
        if old.get(name) == new.get(name):
            continue
        value = new.get(name)
        if name == "conditions":
            before = {c["type"]: c for c in old.get(name) or ()}
            own = [c for c in value or () if c["type"] in OWN_CONDITIONS and before.get(c["type"]) != c]
            if own:
                change[name] = own
        elif name in ("podIPs", "hostIPs") and value is not None and old.get(name):
            change[name] = [*value, {"$patch": "replace"}]
        else:
            change[name] = value
    return {"metadata": {"uid": uid}, "status": change} if change else None
