"""Which revision a template is, and which old ones may go. Pure."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from podwire.controllers.pods.template import canonical, hash_of
from podwire.model.objects import Obj, labels_of, owner_reference

HASH_LABEL = "controller-revision-hash"


@dataclass(frozen=True, slots=True)
class RevisionStep:
    """What to do for the present template: nothing (``found`` is newest), renumber it, or create one."""

    found: Obj | None
    renumber: int  # 0: as it is
    create: Obj | None


def patch_of(owner: Obj) -> Obj:
    """Return the revision's content: a patch that sets the template back."""
    template = canonical(copy.deepcopy(owner["spec"].get("template") or {}))
    return {"spec": {"template": {**template, "$patch": "replace"}}}


def template_in(revision: Obj) -> Obj:
    """Return the pod template that a revision holds."""
    template = dict(revision["data"]["spec"]["template"])
    template.pop("$patch", None)
    return template


def sorted_revisions(revisions: Sequence[Obj]) -> list[Obj]:
    """Return revisions, oldest first."""
    return sorted(
        revisions, key=lambda r: (r["revision"], r["metadata"].get("creationTimestamp") or "", r["metadata"]["name"])
    )


def plan_revision(owner: Obj, revisions: Sequence[Obj], collisions: int) -> RevisionStep:
    """Return the step that makes the present template the newest revision."""
    content = patch_of(owner)
    ranked = sorted_revisions(revisions)
    newest = ranked[-1]["revision"] if ranked else 0
    same = [r for r in ranked if canonical(r.get("data")) == content]
    if same:
        found = same[-1]
        return RevisionStep(found, 0 if found["revision"] == newest else newest + 1, None)
    return RevisionStep(None, 0, new_revision(owner, content, newest + 1, collisions))


def new_revision(owner: Obj, content: Obj, number: int, collisions: int) -> Obj:
    """Return the ControllerRevision to create."""
    suffix = hash_of(content, collisions)
    meta = owner["metadata"]
    labels = dict((owner["spec"].get("template") or {}).get("metadata", {}).get("labels") or {})
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{meta['name']}-{suffix}",
            "namespace": meta["namespace"],
            "labels": {**labels, HASH_LABEL: suffix},
            "ownerReferences": [owner_reference(owner)],
        },
        "data": content,
        "revision": number,
    }


def hash_label_of(revision: Obj) -> str:
    """Return the hash that pods of this revision carry."""
    return labels_of(revision).get(HASH_LABEL, "")


def superfluous(revisions: Sequence[Obj], live: Collection[str], limit: int) -> list[Obj]:
    """Return the revisions beyond the history limit, oldest first; names in ``live`` stay."""
    history = [r for r in sorted_revisions(revisions) if r["metadata"]["name"] not in live]
    return history[: max(0, len(history) - limit)]
