"""What a node's conditions mean: its taints, and what is written when it falls silent. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from podwire.model.objects import Obj, condition, is_ready, timestamp, with_condition
from podwire.runtime.clock import Clock

NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
_PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
MANAGED = frozenset(
    {(k, "NoSchedule") for k in (NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_PRESSURES.values())}
    | {(NOT_READY, "NoExecute"), (UNREACHABLE, "NoExecute")}
)


def heartbeat_of(node: Obj, lease: Obj | None) -> tuple[str, str]:
    """Return what changes whenever the node's agent shows that it lives."""
    ready = condition(node, "Ready") or {}
    renewed = ((lease or {}).get("spec") or {}).get("renewTime") or ""
    return (ready.get("lastHeartbeatTime") or "", renewed)


def wanted_taints(node: Obj, evict: bool, clock: Clock) -> list[Obj] | None:
    """Return spec.taints as the conditions ask for; None when they are so already.

    ``evict`` False (every node is silent: it is rather us who are cut off) leaves out NoExecute.
    """
    keys: list[tuple[str, str]] = []
    ready = (condition(node, "Ready") or {}).get("status")
    if ready in ("False", "Unknown"):
        key = NOT_READY if ready == "False" else UNREACHABLE
        keys.append((key, "NoSchedule"))
        if evict:
            keys.append((key, "NoExecute"))
    for type, key in _PRESSURES.items():
        if (condition(node, type) or {}).get("status") == "True":
            keys.append((key, "NoSchedule"))
    if (node.get("spec") or {}).get("unschedulable"):
        keys.append((UNSCHEDULABLE, "NoSchedule"))
    present = (node.get("spec") or {}).get("taints") or []
    if ready is None:  # its agent did not report yet; the taint that it registered with stays
        keys += [(t["key"], t["effect"]) for t in present if t["key"] == NOT_READY]
    kept = [t for t in present if (t["key"], t["effect"]) not in MANAGED or (t["key"], t["effect"]) in keys]
    known = {(t["key"], t["effect"]) for t in kept}
    moment = timestamp(clock.now())
    new = [{"key": k, "effect": e, "timeAdded": moment} for k, e in keys if (k, e) not in known]
    return [*kept, *new] if new or len(kept) != len(present) else None


def silent_conditions(node: Obj, moment: str) -> list[Obj]:
    """Return the conditions of a node that stopped reporting: everything Unknown."""
    conditions: Sequence[Obj] = (node.get("status") or {}).get("conditions") or ()
    for type in ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure"):
        known = condition(node, type)
        new = {
            "type": type,
            "status": "Unknown",
            "reason": "NodeStatusUnknown" if known else "NodeStatusNeverUpdated",
            "message": "Kubelet stopped posting node status." if known else "Kubelet never posted node status.",
            "lastHeartbeatTime": (known or {}).get("lastHeartbeatTime") or node["metadata"].get("creationTimestamp"),
        }
        conditions = with_condition(conditions, new, moment)
    return list(conditions)


def unready_conditions(pod: Obj, moment: str) -> list[Obj] | None:
    """Return a pod's conditions with Ready False, for a pod of a silent node; None when it is not ready."""
    if not is_ready(pod):
        return None
    new = {"type": "Ready", "status": "False", "reason": "NodeNotReady", "message": "Node is not ready"}
    return with_condition(pod["status"]["conditions"], new, moment)
