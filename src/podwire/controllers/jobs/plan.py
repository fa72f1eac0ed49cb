"""What a Job does next: pods to make, pods to stop, whether it is over. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from podwire.controllers.jobs.tracking import FINALIZER, Tally, outcome_of
from podwire.controllers.pods.state import is_active, phase, restarts
from podwire.controllers.pods.template import pod_of
from podwire.model.objects import Obj, annotations_of, condition, is_deleting, parse_timestamp

INDEX = "batch.kubernetes.io/job-completion-index"
FIRST_BACKOFF_S, LAST_BACKOFF_S = 10.0, 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a Job asks for."""

    parallelism: int
    completions: int | None  # None: one success is enough, and then none is started any more
    backoff_limit: int
    indexed: bool
    suspended: bool
    deadline_s: int | None
    ttl_s: int | None
    only_failed: bool  # podReplacementPolicy Failed: what is terminating is not replaced yet


@dataclass(frozen=True, slots=True)
class Verdict:
    """A Job that is decided: "Complete" or "Failed", and why."""

    type: str
    reason: str
    message: str


def parse_settings(job: Obj) -> Settings:
    """Return the settings, defaults filled in."""
    spec = job["spec"]
    parallelism, completions = spec.get("parallelism"), spec.get("completions")
    if parallelism is None and completions is None:
        parallelism = completions = 1
    limit = spec.get("backoffLimit")
    return Settings(
        parallelism=1 if parallelism is None else int(parallelism),
        completions=completions,
        backoff_limit=6 if limit is None else int(limit),
        indexed=spec.get("completionMode") == "Indexed",
        suspended=bool(spec.get("suspend")),
        deadline_s=spec.get("activeDeadlineSeconds"),
        ttl_s=spec.get("ttlSecondsAfterFinished"),
        only_failed=spec.get("podReplacementPolicy") == "Failed",
    )


def finished_at(job: Obj) -> str:
    """Return when the Job became Complete or Failed; "" while it is neither."""
    for type in ("Complete", "Failed"):
        c = condition(job, type)
        if c is not None and c.get("status") == "True":
            return c.get("lastTransitionTime") or job["metadata"].get("creationTimestamp") or ""
    return ""


def index_of(pod: Obj) -> int:
    """Return the completion index; -1 when there is none."""
    text = annotations_of(pod).get(INDEX, "")
    return int(text) if text.isdigit() else -1


def parse_indexes(text: str) -> frozenset[int]:
    """Return the indexes that "1,3-5,7" names."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def render_indexes(indexes: Iterable[int]) -> str:
    """Return "1,3-5,7" (two neighbours as "3,4")."""
    runs: list[list[int]] = []
    for i in sorted(indexes):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    parts = []
    for a, b in runs:
        parts.append(str(a) if a == b else f"{a},{b}" if b == a + 1 else f"{a}-{b}")
    return ",".join(parts)


def completed_indexes(job: Obj, settings: Settings, pods: Sequence[Obj]) -> frozenset[int] | None:
    """Return the indexes that succeeded so far; None for a Job that is not indexed."""
    if not settings.indexed:
        return None
    done = set(parse_indexes((job.get("status") or {}).get("completedIndexes") or ""))
    done.update(index_of(p) for p in pods if phase(p) == "Succeeded")
    return frozenset(i for i in done if 0 <= i < (settings.completions or 0))


def job_pod(job: Obj, name: str, index: int | None) -> Obj:
    """Return one pod of the Job; an indexed one knows its index by annotation, label, host name and variable."""
    base = job["metadata"]["name"] + ("" if index is None else f"-{index}") + "-"
    pod = pod_of(job, job["spec"]["template"], name, base)
    meta, uid = pod["metadata"], job["metadata"]["uid"]
    meta["labels"] |= {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": job["metadata"]["name"],
        "controller-uid": uid,
        "job-name": job["metadata"]["name"],
    }
    meta["finalizers"] = [*(meta.get("finalizers") or ()), FINALIZER]
    if index is not None:
        meta.setdefault("annotations", {})[INDEX] = str(index)
        meta["labels"][INDEX] = str(index)
        pod["spec"].setdefault("hostname", f"{job['metadata']['name']}-{index}")
        variable = {
            "name": "JOB_COMPLETION_INDEX",
            "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}},
        }
        for container in (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]):
            env = container.setdefault("env", [])
            if not any(e["name"] == variable["name"] for e in env):
                env.append(variable)
    return pod


def judge(job: Obj, settings: Settings, pods: Sequence[Obj], counts: Tally, now: datetime) -> Verdict | None:
    """Return how the Job ends; None while it goes on. A verdict that is told already stays."""
    for interim, final in (("FailureTarget", "Failed"), ("SuccessCriteriaMet", "Complete")):
        c = condition(job, interim)
        if c is not None and c.get("status") == "True":
            return Verdict(final, c.get("reason", ""), c.get("message", ""))
    active = [p for p in pods if is_active(p)]
    if settings.completions is not None and counts.total_succeeded >= settings.completions:
        return Verdict("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
    if settings.completions is None and counts.total_succeeded > 0 and not active:
        return Verdict("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
    if counts.total_failed > settings.backoff_limit or _restarted_too_often(job, settings, active):
        return Verdict("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    left_s = deadline_in_s(job, settings, now)
    if left_s is not None and left_s <= 0:
        return Verdict("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
    return None


def _restarted_too_often(job: Obj, settings: Settings, active: Sequence[Obj]) -> bool:
    """Return whether restarts in place (restartPolicy OnFailure) used the back-off limit up."""
    if (job["spec"]["template"].get("spec") or {}).get("restartPolicy") != "OnFailure":
        return False
    total = sum(restarts(p) for p in active)
    return total > 0 and total >= settings.backoff_limit


def deadline_in_s(job: Obj, settings: Settings, now: datetime) -> float | None:
    """Return the seconds until activeDeadlineSeconds is over; None without one, or before the start."""
    start = (job.get("status") or {}).get("startTime")
    if settings.deadline_s is None or not start or settings.suspended:
        return None
    return settings.deadline_s - (now - parse_timestamp(start)).total_seconds()


def missing_pods(
    settings: Settings, pods: Sequence[Obj], counts: Tally, done: frozenset[int] | None
) -> tuple[list[int | None], list[Obj]]:
    """Return the indexes of pods to make (None: without index) and the pods that are too many."""
    active = [p for p in pods if is_active(p)]
    if settings.indexed:
        return _missing_indexes(settings, pods, done or frozenset())
    if settings.completions is None:
        wanted = len(active) if counts.total_succeeded else settings.parallelism
    else:
        wanted = min(settings.parallelism, settings.completions - counts.total_succeeded)
    terminating = sum(is_deleting(p) and not outcome_of(p, settings.only_failed) for p in pods)
    missing = max(0, wanted - len(active) - terminating)
    surplus = sorted(active, key=_least_progress)[: max(0, len(active) - wanted)]
    return [None] * missing, surplus


def _missing_indexes(
    settings: Settings, pods: Sequence[Obj], done: frozenset[int]
) -> tuple[list[int | None], list[Obj]]:
    completions = settings.completions or 0
    active: dict[int, Obj] = {}
    surplus: list[Obj] = []
    for pod in sorted((p for p in pods if is_active(p)), key=lambda p: p["metadata"].get("creationTimestamp") or ""):
        index = index_of(pod)
        if index in active or not 0 <= index < completions or index in done:
            surplus.append(pod)
        else:
            active[index] = pod
    held = {index_of(p) for p in pods if is_deleting(p) and not outcome_of(p, settings.only_failed)}
    room = settings.parallelism - len(active) - len(held)
    if room < 0:
        keep = settings.parallelism
        surplus += [active[i] for i in sorted(active)[max(0, keep) :]]
        return [], surplus
    free = (i for i in range(completions) if i not in done and i not in active and i not in held)
    return [i for i, _ in zip(free, range(room), strict=False)], surplus


def _least_progress(pod: Obj) -> tuple[int, str]:
    return ({"Pending": 0, "Running": 2}.get(phase(pod), 1), pod["metadata"]["name"])


def backoff_left_s(pods: Sequence[Obj], now: datetime) -> float:
    """Return the seconds before a failed pod is replaced: 10 s, doubled for each failure since a success."""
    ends = sorted((t, phase(p) == "Failed") for p in pods if outcome_of(p) and (t := _ended_at(p)))
    failures = 0
    for _, failed in reversed(ends):
        if not failed:
            break
        failures += 1
    if not failures:
        return 0.0
    delay_s = min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 10))
    return max(0.0, delay_s - (now - parse_timestamp(ends[-1][0])).total_seconds())


def _ended_at(pod: Obj) -> str:
    """Return when the last container ended; the deletion or creation when nothing ran."""
    ends = [
        at
        for s in (pod.get("status") or {}).get("containerStatuses") or ()
        if (at := ((s.get("state") or {}).get("terminated") or {}).get("finishedAt"))
    ]
    ready = condition(pod, "Ready") or {}
    meta = pod["metadata"]
    return max(ends, default="") or ready.get("lastTransitionTime") or meta.get("creationTimestamp") or ""
