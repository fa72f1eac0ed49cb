"""HorizontalPodAutoscaler in its two forms: autoscaling/v2, which is stored, and v1 with a CPU target only."""

from __future__ import annotations

from podwire.model.objects import Obj


def to_v2(autoscaler: Obj) -> Obj:
    """Return the autoscaling/v2 form of a v1 HorizontalPodAutoscaler."""
    spec = dict(autoscaler.get("spec") or {})
    percent = spec.pop("targetCPUUtilizationPercentage", None)
    if percent is not None:
        target = {"type": "Utilization", "averageUtilization": percent}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    status = dict(autoscaler.get("status") or {})
    status.pop("currentCPUUtilizationPercentage", None)
    return {**autoscaler, "apiVersion": "autoscaling/v2", "spec": spec, "status": status}


def to_v1(autoscaler: Obj) -> Obj:
    """Return the autoscaling/v1 form of a v2 HorizontalPodAutoscaler; other metrics are not shown."""
    spec = dict(autoscaler.get("spec") or {})
    for metric in spec.pop("metrics", None) or ():
        resource = metric.get("resource") or {}
        percent = (resource.get("target") or {}).get("averageUtilization")
        if resource.get("name") == "cpu" and percent is not None:
            spec["targetCPUUtilizationPercentage"] = percent
    spec.pop("behavior", None)
    given = autoscaler.get("status") or {}
    status = {k: given[k] for k in ("observedGeneration", "lastScaleTime") if k in given}
    status |= {k: given.get(k, 0) for k in ("currentReplicas", "desiredReplicas")}
    return {**autoscaler, "apiVersion": "autoscaling/v1", "spec": spec, "status": status}
