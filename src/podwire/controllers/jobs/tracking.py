"""Counting finished pods once each, whatever is deleted or restarted when (KEP-2307). Pure.

A pod of a Job carries a finalizer. When it has finished, its uid goes into status.uncountedTerminatedPods;
once that is stored the finalizer goes; once that is seen the uid moves into the counters. A pod that
vanishes at any point in between is neither lost nor counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from podwire.controllers.pods.state import node_of, phase
from podwire.model.objects import Obj, is_deleting

FINALIZER = "batch.kubernetes.io/job-tracking"


@dataclass(frozen=True, slots=True)
class Tally:
    """The counters, what is not in them yet, and the pods whose finalizer may go once this is stored."""

    succeeded: int
    failed: int
    uncounted_succeeded: tuple[str, ...]
    uncounted_failed: tuple[str, ...]
    release: tuple[Obj, ...]

    @property
    def total_succeeded(self) -> int:
        """All pods that succeeded so far."""
        return self.succeeded + len(self.uncounted_succeeded)

    @property
    def total_failed(self) -> int:
        """All pods that failed so far."""
        return self.failed + len(self.uncounted_failed)


def holds_finalizer(pod: Obj) -> bool:
    """Return whether the pod is not counted yet."""
    return FINALIZER in (pod["metadata"].get("finalizers") or ())


def outcome_of(pod: Obj, only_failed: bool = False) -> str:
    """Return "Succeeded", "Failed", or "" while the pod counts as running.

    A pod that is being deleted has failed, for it may never get to say so; under podReplacementPolicy Failed
    (``only_failed``) not before its node has confirmed the end, unless it never had a node (KEP-3939).
    """
    if phase(pod) in ("Succeeded", "Failed"):
        return phase(pod)
    if not is_deleting(pod):
        return ""
    confirmed = not node_of(pod) or pod["metadata"].get("deletionGracePeriodSeconds") == 0
    return "Failed" if confirmed or not only_failed else ""


def tally(job: Obj, pods: Sequence[Obj], indexed_done: frozenset[int] | None) -> Tally:
    """Return the new tally. For an indexed Job succeeded pods count once per index (``indexed_done``)."""
    status = job.get("status") or {}
    only_failed = job["spec"].get("podReplacementPolicy") == "Failed"
    uncounted = status.get("uncountedTerminatedPods") or {}
    waiting = {p["metadata"]["uid"] for p in pods if holds_finalizer(p)}
    old_succeeded = [u for u in uncounted.get("succeeded") or () if u in waiting]
    old_failed = [u for u in uncounted.get("failed") or () if u in waiting]
    succeeded = (status.get("succeeded") or 0) + len(uncounted.get("succeeded") or ()) - len(old_succeeded)
    failed = (status.get("failed") or 0) + len(uncounted.get("failed") or ()) - len(old_failed)
    known = {*old_succeeded, *old_failed}
    release = []
    for pod in pods:
        uid = pod["metadata"]["uid"]
        if uid not in waiting:
            continue
        outcome = outcome_of(pod, only_failed)
        if not outcome:
            continue
        release.append(pod)
        if uid in known:
            continue
        (old_succeeded if outcome == "Succeeded" else old_failed).append(uid)
    if indexed_done is not None:
        succeeded, old_succeeded = len(indexed_done), []
    return Tally(succeeded, failed, tuple(old_succeeded), tuple(old_failed), tuple(release))
