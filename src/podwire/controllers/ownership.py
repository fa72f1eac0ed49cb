"""Who controls whom: which children a controller keeps, adopts or lets go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from podwire.model.objects import Obj, controller_of, is_deleting, labels_of, owner_reference
from podwire.model.selectors import Selector


@dataclass(frozen=True, slots=True)
class Claim:
    """What a controller does about the children in reach."""

    keep: tuple[Obj, ...]
    adopt: tuple[Obj, ...]
    release: tuple[Obj, ...]


def plan_claim(owner: Mapping[str, Any], selector: Selector, children: Iterable[Obj]) -> Claim:
    """Return which of ``children`` the owner keeps, adopts and releases.

    Its own that match are kept, its own that no longer match are released, and orphans that match and
    are not being deleted are adopted. An owner that is being deleted neither adopts nor releases.
    """
    keep, adopt, release = [], [], []
    uid, leaving = owner["metadata"]["uid"], is_deleting(owner)
    for child in children:
        ref = controller_of(child)
        matches = selector.matches(labels_of(child))
        if ref is None:
            if matches and not leaving and not is_deleting(child) and _unfinished(child):
                adopt.append(child)
        elif ref["uid"] == uid:
            if matches or leaving:
                keep.append(child)
            elif not is_deleting(child):
                release.append(child)
    return Claim(tuple(keep), tuple(adopt), tuple(release))


def _unfinished(child: Obj) -> bool:
    return (child.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def adoption(owner: Mapping[str, Any], child: Obj) -> Obj:
    """Return the merge patch that makes ``owner`` the controller of ``child``; stale children conflict."""
    refs = [r for r in child["metadata"].get("ownerReferences") or () if r["uid"] != owner["metadata"]["uid"]]
    return _references(child, [*refs, owner_reference(owner)])


def release(owner: Mapping[str, Any], child: Obj) -> Obj:
    """Return the merge patch that removes ``owner`` from the owners of ``child``."""
    refs = [r for r in child["metadata"].get("ownerReferences") or () if r["uid"] != owner["metadata"]["uid"]]
    return _references(child, refs)


def _references(child: Obj, refs: list[Obj]) -> Obj:
    meta = child["metadata"]
    return {
        "metadata": {
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "ownerReferences": refs or None,
        }
    }
