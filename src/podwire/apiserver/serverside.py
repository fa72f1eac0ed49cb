"""Server-side apply: merge what is applied, remove what no longer is, refuse what others own. Pure.

Source: KEP-555. The result differs from a merge patch in three ways: lists merge by key, fields that
the same manager applied before and leaves out now are removed, and a field that another manager
set to another value is a conflict unless forced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from podwire.apiserver import fieldsets
from podwire.apiserver.errors import ApiStatusError, bad_request
from podwire.apiserver.fieldsets import Tree, is_keyed, step_of
from podwire.apiserver.kinds import Kind
from podwire.apiserver.managedfields import Manager, managers_of, owned, structure_of, write_managers
from podwire.apiserver.strategic import weave
from podwire.apiserver.structure import Structure
from podwire.model.objects import Obj, timestamp


def apply(
    kind: Kind, live: Obj | None, config: Any, *, manager: str, force: bool, subresource: str, now: datetime
) -> Obj:
    """Return ``live`` (None: nothing there yet) with ``config`` applied by ``manager``.

    Raises ApiStatusError: 400 for a config that cannot be applied, 409 for conflicts. An apply that
    changes nothing returns an equal object, times included.
    """
    if not isinstance(config, dict) or not isinstance(config.get("metadata", {}), dict):
        raise bad_request("an applied configuration is an object with metadata")
    if not manager:
        raise bad_request(
            "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch"
        )
    config = without_nulls(config)
    config.setdefault("metadata", {})
    if config["metadata"].get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    structure = structure_of(kind)
    managers = managers_of(live)
    mine = (manager, "Apply", subresource)
    last = next((m for m in managers if m.key == mine), None)
    others = [m for m in managers if m.key != mine]
    before: Obj = live or {}
    try:
        wanted = owned(fieldsets.fields_of(config, structure), subresource)
        merged: Obj = merge(before, config, structure)
        if last is not None:
            keep = wanted
            for other in others:
                keep = fieldsets.union(keep, other.fields)
            merged = prune(merged, last.fields, keep, structure)
        changes = fieldsets.compare(_unmanaged(before), _unmanaged(merged), structure)
    except ValueError as error:
        raise bad_request(f"failed to create typed patch object: {error}") from error
    changed = fieldsets.union(changes.modified, changes.added)
    others = _settle(others, fieldsets.intersection(changed, wanted), force)
    unchanged = last is not None and last.fields == wanted and not changed and not changes.removed
    time = last.time if last is not None and unchanged else timestamp(now)
    own = Manager(manager, "Apply", kind.api_version, subresource, time, wanted)
    merged["metadata"] = dict(merged.get("metadata") or {})
    write_managers(merged, _in_place(managers, others, own))
    return merged


def _in_place(managers: list[Manager], others: list[Manager], own: Manager) -> list[Manager]:
    """Return the managers in their old order, so that an apply of the same again changes nothing."""
    by_key = {m.key: m for m in others} | {own.key: own}
    ordered = [by_key.pop(m.key) for m in managers if m.key in by_key]
    return ordered + list(by_key.values())


def _settle(others: list[Manager], changed: Tree, force: bool) -> list[Manager]:
    """Return the other managers without what they lose; raise the conflicts unless forced."""
    conflicts = [(m, fieldsets.intersection(m.fields, changed)) for m in others]
    conflicts = [(m, found) for m, found in conflicts if found]
    if not conflicts:
        return others
    if not force:
        raise conflict_error(conflicts)
    lost = {m.key: found for m, found in conflicts}
    return [replace(m, fields=fieldsets.difference(m.fields, lost[m.key])) if m.key in lost else m for m in others]


def conflict_error(conflicts: Sequence[tuple[Manager, Tree]]) -> ApiStatusError:
    """Return the 409 that clients take apart: one cause for each field and manager."""
    causes: list[Obj] = []
    texts: list[str] = []
    for manager, tree in conflicts:
        found = sorted(fieldsets.paths(tree))
        who = manager.describe(with_time=True)
        causes += [
            {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path} for path in found
        ]
        short = manager.describe(with_time=False)
        if len(found) == 1:
            texts.append(f"conflict with {short}: {found[0]}")
        else:
            texts.append(f"conflicts with {short}:\n" + "\n".join(f"- {p}" for p in found))
    plural = "s" if len(causes) != 1 else ""
    message = f"Apply failed with {len(causes)} conflict{plural}: " + "\n".join(texts)
    return ApiStatusError(409, "Conflict", message, {"causes": causes})


def _unmanaged(obj: Obj) -> Obj:
    metadata = {k: v for k, v in (obj.get("metadata") or {}).items() if k != "managedFields"}
    return {**obj, "metadata": metadata}


def without_nulls(value: Any) -> Any:
    """Return a copy without null members: to apply null is to leave out."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def merge(live: Any, config: Any, structure: Structure) -> Any:
    """Return ``live`` overlaid with ``config``: maps by field, keyed lists by element, the rest whole."""
    if isinstance(config, dict) and not structure.atomic:
        result = dict(live) if isinstance(live, dict) else {}
        for name, value in config.items():
            result[name] = merge(result.get(name), value, structure.field(name))
        return result
    if isinstance(config, list) and is_keyed(structure):
        applied = _by_step(config, structure)
        held = _by_step(live if isinstance(live, list) else [], structure, strict=False)
        for step, item in applied.items():
            applied[step] = merge(held.get(step), item, structure.items)
        rest = [step for step in held if step not in applied]
        return [applied.get(s, held.get(s)) for s in weave(list(applied), rest, list(held))]
    return config


def _by_step(items: list[Any], structure: Structure, *, strict: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        step = step_of(item, structure)
        if step in found and strict:
            raise ValueError(f"duplicate entries for key {step[2:]}")
        found[step] = item
    return found


def prune(value: Any, last: Tree, keep: Tree, structure: Structure) -> Any:
    """Return ``value`` without what ``last`` names and ``keep`` does not: applied before, and by nobody now."""
    if isinstance(value, dict):
        result = dict(value)
        for step, below in last.items():
            name = step[2:]
            if not step.startswith("f:") or name not in result:
                continue
            if step not in keep:
                del result[name]
            elif below:
                result[name] = prune(result[name], below, keep[step], structure.field(name))
        return result
    if isinstance(value, list) and is_keyed(structure):
        kept: list[Any] = []
        for item in value:
            step = step_of(item, structure)
            if step in last and step not in keep:
                continue
            if last.get(step):
                item = prune(item, last[step], keep[step], structure.items)
            kept.append(item)
        return kept
    return value
