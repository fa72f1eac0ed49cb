"""Deployments, sets and jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from podwire.apiserver.printers.column import (
    NONE,
    Printer,
    age,
    columns,
    containers_and_images,
    duration,
    labels_text,
    selector_text,
    since,
    spec_of,
    status_of,
)
from podwire.model.objects import Obj, condition, controller_of, parse_timestamp


def _name(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def _pod_spec(obj: Obj) -> Obj:
    return ((spec_of(obj).get("template") or {}).get("spec")) or {}


def _count(obj: Obj, name: str) -> int:
    return int(status_of(obj).get(name) or 0)


def _desired(obj: Obj) -> int:
    replicas = spec_of(obj).get("replicas")
    return 1 if replicas is None else int(replicas)


def _deployment(obj: Obj, now: datetime) -> list[Any]:
    return [
        _name(obj),
        f"{_count(obj, 'readyReplicas')}/{_desired(obj)}",
        _count(obj, "updatedReplicas"),
        _count(obj, "availableReplicas"),
        age(obj, now),
        *containers_and_images(_pod_spec(obj)),
        selector_text(spec_of(obj).get("selector")),
    ]


def _replica_set(obj: Obj, now: datetime) -> list[Any]:
    selector = spec_of(obj).get("selector")
    labelled = obj["kind"] == "ReplicaSet" if "kind" in obj else "matchLabels" in (selector or {})
    return [
        _name(obj),
        _desired(obj),
        _count(obj, "replicas"),
        _count(obj, "readyReplicas"),
        age(obj, now),
        *containers_and_images(_pod_spec(obj)),
        selector_text(selector) if labelled else labels_text(selector),
    ]


def _stateful_set(obj: Obj, now: datetime) -> list[Any]:
    ready = f"{_count(obj, 'readyReplicas')}/{_desired(obj)}"
    return [_name(obj), ready, age(obj, now), *containers_and_images(_pod_spec(obj))]


def _daemon_set(obj: Obj, now: datetime) -> list[Any]:
    return [
        _name(obj),
        _count(obj, "desiredNumberScheduled"),
        _count(obj, "currentNumberScheduled"),
        _count(obj, "numberReady"),
        _count(obj, "updatedNumberScheduled"),
        _count(obj, "numberAvailable"),
        labels_text(_pod_spec(obj).get("nodeSelector")),
        age(obj, now),
        *containers_and_images(_pod_spec(obj)),
        selector_text(spec_of(obj).get("selector")),
    ]


_JOB_STATES = (
    ("Complete", "Complete"),
    ("Failed", "Failed"),
    ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ("FailureTarget", "FailureTarget"),
    ("Suspended", "Suspended"),
)


def _job_state(job: Obj) -> str:
    for type, shown in _JOB_STATES:
        if (condition(job, type) or {}).get("status") == "True":
            return shown
    return "Terminating" if job["metadata"].get("deletionTimestamp") else "Running"


def _job_completions(job: Obj) -> str:
    spec, succeeded = spec_of(job), _count(job, "succeeded")
    if spec.get("completions") is not None:
        return f"{succeeded}/{spec['completions']}"
    parallelism = spec.get("parallelism") or 1
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _job_duration(job: Obj, now: datetime) -> str:
    status = status_of(job)
    started, ended = status.get("startTime"), status.get("completionTime")
    if not started:
        return ""
    if not ended:  # a failed job has no completionTime: its condition says when
        failed = condition(job, "Failed") or {}
        ended = failed.get("lastTransitionTime") if failed.get("status") == "True" else None
    end = parse_timestamp(ended) if ended else now
    return duration((end - parse_timestamp(started)).total_seconds())


def _job(job: Obj, now: datetime) -> list[Any]:
    return [
        _name(job),
        _job_state(job),
        _job_completions(job),
        _job_duration(job, now),
        age(job, now),
        *containers_and_images(_pod_spec(job)),
        selector_text(spec_of(job).get("selector")),
    ]


def _cron_job(obj: Obj, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    pod = (job.get("template") or {}).get("spec") or {}
    last = status.get("lastScheduleTime")
    return [
        _name(obj),
        spec.get("schedule"),
        spec.get("timeZone") or NONE,
        str(bool(spec.get("suspend"))),
        len(status.get("active") or ()),
        since(last, now) if last else NONE,
        age(obj, now),
        *containers_and_images(pod),
        selector_text(job.get("selector")),
    ]


def _revision(obj: Obj, now: datetime) -> list[Any]:
    owner = controller_of(obj)
    shown = NONE
    if owner is not None:
        group = owner["apiVersion"].rpartition("/")[0]
        shown = f"{owner['kind'].lower()}{'.' + group if group else ''}/{owner['name']}"
    return [_name(obj), shown, obj.get("revision"), age(obj, now)]


def _scaler_targets(obj: Obj) -> str:
    current = {m.get("resource", {}).get("name"): m for m in status_of(obj).get("currentMetrics") or ()}
    shown: list[str] = []
    for metric in spec_of(obj).get("metrics") or ():
        resource = metric.get("resource") or {}
        target = resource.get("target") or {}
        now = (current.get(resource.get("name")) or {}).get("resource", {}).get("current", {})
        if target.get("averageUtilization") is not None:
            used = now.get("averageUtilization")
            used_text = UNKNOWN_TARGET if used is None else f"{used}%"
            shown.append(f"{resource.get('name')}: {used_text}/{target['averageUtilization']}%")
        else:
            used_text = now.get("averageValue") or UNKNOWN_TARGET
            shown.append(f"{used_text}/{target.get('averageValue') or target.get('value') or '<auto>'}")
    more = f" + {len(shown) - 2} more..." if len(shown) > 2 else ""
    return ", ".join(shown[:2]) + more if shown else NONE


UNKNOWN_TARGET = "<unknown>"


def _scaler(obj: Obj, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    reference = spec.get("scaleTargetRef") or {}
    return [
        _name(obj),
        f"{reference.get('kind')}/{reference.get('name')}",
        _scaler_targets(obj),
        "<unset>" if spec.get("minReplicas") is None else str(spec["minReplicas"]),
        spec.get("maxReplicas"),
        _count(obj, "currentReplicas"),
        age(obj, now),
    ]


def _budget(obj: Obj, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    return [
        _name(obj),
        "N/A" if least is None else str(least),
        "N/A" if most is None else str(most),
        _count(obj, "disruptionsAllowed"),
        age(obj, now),
    ]


def _pod_template(obj: Obj, now: datetime) -> list[Any]:
    template = obj.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels")
    return [_name(obj), *containers_and_images(template.get("spec") or {}), labels_text(labels)]


_WIDE = ("Containers+", "Images+", "Selector+")
_REPLICAS = Printer(columns("Name", "Desired:integer", "Current:integer", "Ready:integer", "Age", *_WIDE), _replica_set)
PRINTERS = {
    ("apps", "Deployment"): Printer(
        columns("Name", "Ready", "Up-to-date:integer", "Available:integer", "Age", *_WIDE), _deployment
    ),
    ("apps", "ReplicaSet"): _REPLICAS,
    ("", "ReplicationController"): _REPLICAS,
    ("apps", "StatefulSet"): Printer(columns("Name", "Ready", "Age", "Containers+", "Images+"), _stateful_set),
    ("apps", "DaemonSet"): Printer(
        columns(
            "Name",
            "Desired:integer",
            "Current:integer",
            "Ready:integer",
            "Up-to-date:integer",
            "Available:integer",
            "Node Selector",
            "Age",
            *_WIDE,
        ),
        _daemon_set,
    ),
    ("apps", "ControllerRevision"): Printer(columns("Name", "Controller", "Revision:integer", "Age"), _revision),
    ("batch", "Job"): Printer(columns("Name", "Status", "Completions", "Duration", "Age", *_WIDE), _job),
    ("batch", "CronJob"): Printer(
        columns("Name", "Schedule", "Timezone", "Suspend", "Active:integer", "Last Schedule", "Age", *_WIDE),
        _cron_job,
    ),
    ("autoscaling", "HorizontalPodAutoscaler"): Printer(
        columns("Name", "Reference", "Targets", "MinPods", "MaxPods:integer", "Replicas:integer", "Age"),
        _scaler,
    ),
    ("policy", "PodDisruptionBudget"): Printer(
        columns("Name", "Min Available", "Max Unavailable", "Allowed Disruptions:integer", "Age"), _budget
    ),
    ("", "PodTemplate"): Printer(columns("Name", "Containers", "Images", "Pod Labels"), _pod_template),
}
