"""``metadata.managedFields``: who set which field, kept up to date on ordinary writes. Pure.

Server-side apply (``serverside.py``) reads it to find conflicts and to remove what is no longer applied.
Source: KEP-555.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from podwire.apiserver import fieldsets, schema
from podwire.apiserver.fieldsets import Tree
from podwire.apiserver.kinds import Kind
from podwire.apiserver.structure import Structure, Structures
from podwire.model.objects import Obj, timestamp

MAX_UPDATERS = 10
_ANCIENT = "ancient-changes"
# What identifies an object, or is the server's own, has no manager.
_NOBODYS: Tree = {
    "f:apiVersion": {},
    "f:kind": {},
    "f:metadata": {
        f"f:{name}": {}
        for name in (
            "name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion", "selfLink",
            "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds",
        )
    },
}  # fmt: skip
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

_structures = Structures(schema.resolve)


@lru_cache(maxsize=512)
def structure_of(kind: Kind) -> Structure:
    """Return the shape of a kind's objects."""
    if not kind.is_custom:
        return _structures.named(kind.definition)
    given = dict(kind.schema or {})
    reference = {"$ref": _META}
    given["properties"] = {**(given.get("properties") or {}), "metadata": reference}
    return Structure(given, schema.resolve)


@dataclass(frozen=True, slots=True)
class Manager:
    """One entry of managedFields. ``time`` is a metav1.Time, or "" when unknown."""

    name: str
    operation: str  # "Apply" or "Update"
    api_version: str
    subresource: str
    time: str
    fields: Tree

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two entries the same manager's (the version is the same for all entries here)."""
        return (self.name, self.operation, self.subresource)

    def to_object(self) -> Obj:
        """Return the ManagedFieldsEntry."""
        entry: Obj = {
            "manager": self.name,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields,
        }
        if self.time:
            entry["time"] = self.time
        if self.subresource:
            entry["subresource"] = self.subresource
        return entry

    def describe(self, *, with_time: bool) -> str:
        """Return it as conflict messages name it."""
        text = f'"{self.name}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        if self.operation == "Update":
            text += f" using {self.api_version}"
            if with_time and self.time:
                text += f" at {self.time}"
        return text


def managers_of(obj: Obj | None, *, check: bool = False) -> list[Manager]:
    """Return the entries of an object; malformed ones are left out.

    ``check`` looks into their trees, too: needed only for what a client wrote itself.
    """
    found: list[Manager] = []
    for entry in ((obj or {}).get("metadata") or {}).get("managedFields") or ():
        if isinstance(entry, dict) and isinstance(entry.get("fieldsV1"), dict) and entry.get("operation"):
            if check and not fieldsets.is_tree(entry["fieldsV1"]):
                continue
            found.append(
                Manager(
                    entry.get("manager", ""),
                    entry["operation"],
                    entry.get("apiVersion", ""),
                    entry.get("subresource", ""),
                    entry.get("time") or "",
                    entry["fieldsV1"],
                )
            )
    return found


def write_managers(obj: Obj, managers: list[Manager]) -> None:
    """Set the object's managedFields, leaving out managers of nothing; the key goes when none is left."""
    entries = [m.to_object() for m in managers if m.fields]
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


def owned(tree: Tree, subresource: str) -> Tree:
    """Return ``tree`` without what nobody manages, and without the half that is written elsewhere."""
    hidden: Tree = {"f:spec": {}} if subresource == "status" else {} if subresource else {"f:status": {}}
    left = fieldsets.difference(tree, _NOBODYS | hidden)
    for top in ("f:metadata", "f:spec", "f:status"):
        if top in left:  # the three halves of every object are there anyhow: only their fields count
            below = {k: v for k, v in left[top].items() if k != "."}
            if below:
                left = {**left, top: below}
            elif left[top] or top == "f:metadata":
                left = {k: v for k, v in left.items() if k != top}
    return left


def track_update(
    kind: Kind,
    old: Obj | None,
    new: Obj,
    manager: str,
    operation: str,
    api_version: str,
    subresource: str,
    now: datetime,
) -> None:
    """Record in ``new`` that ``manager`` wrote what differs from ``old`` (None: created).

    For create, update and the patches other than apply, which does its own. A client may leave
    managedFields out (the old ones are kept) or clear them with an empty list. An object whose lists
    break their own keys is left untracked; validation will say what is wrong.
    """
    given = new["metadata"].get("managedFields")
    if given is not None and not any(given):
        new["metadata"].pop("managedFields", None)
        if old is not None:
            return
        given = None
    held = ((old or {}).get("metadata") or {}).get("managedFields")
    managers = managers_of(old if given is None else new, check=given is not None and given != held)
    structure = structure_of(kind)
    try:
        changes = fieldsets.compare(_bare(old), _bare(new), structure)
    except ValueError:
        write_managers(new, managers)
        return
    written = owned(fieldsets.union(changes.modified, changes.added), subresource)
    removed = owned(changes.removed, subresource)
    if not written and not removed:
        write_managers(new, managers)
        return
    own = Manager(manager, operation, api_version, subresource, timestamp(now), written)
    write_managers(new, _capped(_after(managers, own, removed)))


def _after(managers: list[Manager], own: Manager, removed: Tree) -> list[Manager]:
    """Return the managers after ``own`` wrote its fields and ``removed`` went; the writer comes last."""
    result: list[Manager] = []
    for each in managers:
        left = fieldsets.difference(each.fields, removed)
        if each.key != own.key:
            left = fieldsets.difference(left, own.fields)
            result.append(each if left == each.fields else replace(each, fields=left))
        else:
            time = own.time if own.fields else each.time
            own = replace(own, fields=fieldsets.union(left, own.fields), time=time)
    return [*result, own]


def _bare(obj: Obj | None) -> Obj:
    """Return the object without its managedFields, which can be large and are no one's."""
    if obj is None:
        return {}
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    return {**obj, "metadata": metadata}


def _capped(managers: list[Manager]) -> list[Manager]:
    """Fold the oldest updaters into one when there are too many."""
    updaters = sorted((m for m in managers if m.operation == "Update"), key=lambda m: m.time)
    excess = len(updaters) - MAX_UPDATERS
    if excess <= 0:
        return managers
    oldest = updaters[: excess + 1]
    fields: Tree = {}
    for each in oldest:
        fields = fieldsets.union(fields, each.fields)
    folded = replace(oldest[-1], name=_ANCIENT, subresource="", fields=fields)
    gone: list[Any] = [id(m) for m in oldest]
    return [*(m for m in managers if id(m) not in gone), folded]
