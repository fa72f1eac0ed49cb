"""What selectors ask of an object: labels, and the fields that its kind lets one select by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from podwire.apiserver.errors import bad_request
from podwire.apiserver.kinds import Kind, Registry
from podwire.apiserver.store.port import Index, IndexOf, Row
from podwire.model import selectors
from podwire.model.objects import Obj

_NO_FIELDS: Mapping[str, tuple[str, ...]] = {}


def index_of(registry: Registry) -> IndexOf:
    """Return the function that the store asks what to keep of an object."""
    paths: dict[str, Mapping[str, tuple[str, ...]]] = {}
    seen = -1

    def index(bucket: str, obj: Obj) -> Index:
        nonlocal seen
        if seen != registry.generation:
            seen = registry.generation
            paths.clear()
            for kind in registry:
                paths.setdefault(kind.storage, {})
                paths[kind.storage] = {**paths[kind.storage], **kind.selectable}
        wanted = paths.get(bucket, _NO_FIELDS)
        fields = {name: field_text(obj, path) for name, path in wanted.items()} if wanted else {}
        return Index(obj["metadata"].get("labels") or {}, fields)

    return index


def field_text(obj: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """Return the field as a selector compares it; "" when absent, "false" for an absent boolean."""
    value: Any = obj
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
        if value is None:
            return "false" if step in _BOOLEANS else "0" if step in _NUMBERS else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


_BOOLEANS = ("unschedulable", "hostNetwork")
_NUMBERS = ("succeeded", "replicas")


class FieldTerm(NamedTuple):
    """One condition of a field selector."""

    field: str
    value: str
    equal: bool


class Selection(NamedTuple):
    """Label and field selector of a list or watch; ``name`` when the fields pin the name."""

    labels: selectors.Selector
    fields: tuple[FieldTerm, ...]

    @property
    def everything(self) -> bool:
        """Whether nothing is filtered."""
        return not self.labels.requirements and not self.fields

    @property
    def name(self) -> str:
        """The one name that can match, or ""."""
        return next((t.value for t in self.fields if t.equal and t.field == "metadata.name"), "")

    def matches(self, row: Row) -> bool:
        """Return whether the object is selected."""
        for field, value, equal in self.fields:
            if field == "metadata.name":
                actual = row.key.name
            elif field == "metadata.namespace":
                actual = row.key.namespace
            else:
                actual = row.fields.get(field, "")
            if (actual == value) is not equal:
                return False
        return self.labels.matches(row.labels)


EVERYTHING = Selection(selectors.EVERYTHING, ())


def parse(kind: Kind, label_selector: str, field_selector: str) -> Selection:
    """Return the selection. Raises 400 for bad syntax or a field that the kind does not know."""
    if not label_selector and not field_selector:
        return EVERYTHING
    try:
        labels = selectors.parse(label_selector)
    except ValueError as error:
        raise bad_request(f"unable to parse requirement: {error}") from error
    return Selection(labels, tuple(_term(kind, t) for t in field_selector.split(",") if t))


def _term(kind: Kind, text: str) -> FieldTerm:
    for operator, equal in (("!=", False), ("==", True), ("=", True)):
        field, found, value = text.partition(operator)
        if found:
            if field in ("metadata.name", "metadata.namespace") or field in kind.selectable:
                return FieldTerm(field, value, equal)
            raise bad_request(
                f'Unable to find "{kind.api_version}, Resource={kind.plural}" that match label selector "", '
                f'field selector "{text}": field label not supported: {field}'
            )
    raise bad_request(f"invalid selector: '{text}'; can't understand '{text}'")
