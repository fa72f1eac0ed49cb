"""Rules of Deployment, ReplicaSet, StatefulSet, DaemonSet, Job, CronJob and PodDisruptionBudget."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from podwire.apiserver.errors import FieldError, field_forbidden, invalid_value, required, unsupported
from podwire.apiserver.validation.pods import check_template
from podwire.apiserver.validation.values import check_at_least, check_immutable, check_one_of, check_selector
from podwire.model import selectors
from podwire.model.objects import Obj

_STATEFUL_RULE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_STATEFUL_MUTABLE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)
_PERCENT = re.compile(r"\d+%")


def _check_selector_and_template(spec: Obj) -> Iterator[FieldError]:
    """A workload must select the pods that it makes, and no empty selector may select all."""
    selector = spec.get("selector")
    template = spec.get("template")
    if not isinstance(selector, dict):
        yield required("spec.selector")
    else:
        problems = list(check_selector(selector, "spec.selector"))
        yield from problems
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            yield invalid_value("spec.selector", selector, "empty selector is invalid for deployment")
        elif not problems and isinstance(template, dict):
            labels = (template.get("metadata") or {}).get("labels") or {}
            if not selectors.from_label_selector(selector).matches(labels):
                why = "`selector` does not match template `labels`"
                yield invalid_value("spec.template.metadata.labels", labels, why)
    yield from check_template(template, "spec.template")


def _check_restart(spec: Obj, allowed: tuple[str, ...]) -> Iterator[FieldError]:
    policy = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy")
    if policy not in allowed:
        yield unsupported("spec.template.spec.restartPolicy", policy, allowed)


def _check_amount(value: Any, path: str) -> Iterator[FieldError]:
    """Check an int-or-percent."""
    if isinstance(value, int):
        if value < 0:
            yield invalid_value(path, value, "must be greater than or equal to 0")
    elif isinstance(value, str) and not _PERCENT.fullmatch(value):
        why = "a valid percent string must be a numeric string followed by an ending '%'"
        yield invalid_value(path, value, why + " (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")


def _is_zero(value: Any) -> bool:
    return value in (0, "0%", None)


def check_deployment(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a Deployment."""
    spec: Obj = new.get("spec") or {}
    yield from _check_selector_and_template(spec)
    yield from _check_restart(spec, ("Always",))
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit"):
        yield from check_at_least(spec, "spec", field, 0)
    strategy: Obj = spec.get("strategy") or {}
    rolling = strategy.get("rollingUpdate")
    yield from check_one_of(strategy, "spec.strategy", "type", ("Recreate", "RollingUpdate"))
    if strategy.get("type") == "Recreate" and rolling is not None:
        yield field_forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    elif rolling is not None:
        for field in ("maxUnavailable", "maxSurge"):
            yield from _check_amount(rolling.get(field), f"spec.strategy.rollingUpdate.{field}")
        if _is_zero(rolling.get("maxUnavailable")) and _is_zero(rolling.get("maxSurge")):
            where = "spec.strategy.rollingUpdate.maxUnavailable"
            yield invalid_value(where, rolling.get("maxUnavailable"), "may not be 0 when `maxSurge` is 0")
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and deadline <= (spec.get("minReadySeconds") or 0):
        yield invalid_value("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")
    if old is not None:
        yield from check_immutable(spec.get("selector"), old["spec"].get("selector"), "spec.selector")


def check_replicaset(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a ReplicaSet."""
    spec: Obj = new.get("spec") or {}
    yield from _check_selector_and_template(spec)
    yield from _check_restart(spec, ("Always",))
    for field in ("replicas", "minReadySeconds"):
        yield from check_at_least(spec, "spec", field, 0)
    if old is not None:
        yield from check_immutable(spec.get("selector"), old["spec"].get("selector"), "spec.selector")


def check_daemonset(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a DaemonSet."""
    spec: Obj = new.get("spec") or {}
    yield from _check_selector_and_template(spec)
    yield from _check_restart(spec, ("Always",))
    strategy: Obj = spec.get("updateStrategy") or {}
    yield from check_one_of(strategy, "spec.updateStrategy", "type", ("OnDelete", "RollingUpdate"))
    if old is not None:
        yield from check_immutable(spec.get("selector"), old["spec"].get("selector"), "spec.selector")


def check_statefulset(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a StatefulSet."""
    spec: Obj = new.get("spec") or {}
    yield from _check_selector_and_template(spec)
    yield from _check_restart(spec, ("Always",))
    for field in ("replicas", "minReadySeconds"):
        yield from check_at_least(spec, "spec", field, 0)
    yield from check_one_of(spec, "spec", "podManagementPolicy", ("OrderedReady", "Parallel"))
    if old is not None:
        kept = {k: v for k, v in spec.items() if k not in _STATEFUL_MUTABLE}
        if kept != {k: v for k, v in old["spec"].items() if k not in _STATEFUL_MUTABLE}:
            yield field_forbidden("spec", _STATEFUL_RULE)


def check_job(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a Job."""
    spec: Obj = new.get("spec") or {}
    yield from _check_job_spec(spec, "spec")
    if old is None:
        return
    for field in ("completions", "selector", "template", "completionMode"):
        mutable = field == "completions" and spec.get("completionMode") == "Indexed"
        suspended = field == "template" and old["spec"].get("suspend") and not old.get("status", {}).get("startTime")
        if not mutable and not suspended:
            yield from check_immutable(spec.get(field), old["spec"].get(field), f"spec.{field}")


def _check_job_spec(spec: Obj, path: str) -> Iterator[FieldError]:
    for field in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
        yield from check_at_least(spec, path, field, 0)
    yield from check_one_of(spec, path, "completionMode", ("Indexed", "NonIndexed"))
    template = spec.get("template")
    yield from check_template(template, f"{path}.template")
    policy = ((template or {}).get("spec") or {}).get("restartPolicy")
    if policy == "Always":
        yield required(f"{path}.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"')


def check_cronjob(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a CronJob."""
    spec: Obj = new.get("spec") or {}
    schedule = spec.get("schedule", "")
    if not schedule:
        yield required("spec.schedule")
    elif not schedule.startswith("@") and len(schedule.split()) != 5:
        why = f"expected exactly 5 fields, found {len(schedule.split())}: [{' '.join(schedule.split())}]"
        yield invalid_value("spec.schedule", schedule, why)
    elif "TZ" in schedule:
        yield invalid_value(
            "spec.schedule", schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        )
    yield from check_one_of(spec, "spec", "concurrencyPolicy", ("Allow", "Forbid", "Replace"))
    for field in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        yield from check_at_least(spec, "spec", field, 0)
    if len(new["metadata"]["name"]) > 52:
        yield invalid_value("metadata.name", new["metadata"]["name"], "must be no more than 52 characters")
    yield from _check_job_spec((spec.get("jobTemplate") or {}).get("spec") or {}, "spec.jobTemplate.spec")


def check_budget(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a PodDisruptionBudget."""
    spec: Obj = new.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        yield invalid_value("spec", "", "minAvailable and maxUnavailable cannot be both set")
    for field in ("minAvailable", "maxUnavailable"):
        yield from _check_amount(spec.get(field), f"spec.{field}")
    yield from check_selector(spec.get("selector"), "spec.selector")


CHECKS = {
    ("apps", "Deployment"): check_deployment,
    ("apps", "ReplicaSet"): check_replicaset,
    ("apps", "DaemonSet"): check_daemonset,
    ("apps", "StatefulSet"): check_statefulset,
    ("batch", "Job"): check_job,
    ("batch", "CronJob"): check_cronjob,
    ("policy", "PodDisruptionBudget"): check_budget,
}
