"""Columns, printers, and the phrases that many of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from podwire.model.objects import Obj, parse_timestamp

NONE, UNKNOWN, UNSET = "<none>", "<unknown>", "<unset>"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. Priority 1 shows only with ``-o wide``."""

    name: str
    type: str = "string"
    priority: int = 0
    format: str = ""
    description: str = ""

    def definition(self) -> Obj:
        """Return its TableColumnDefinition."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description or self.name,
            "priority": self.priority,
        }


Cells = Callable[[Obj, datetime], list[Any]]


@dataclass(frozen=True, slots=True)
class Printer:
    """How one kind prints: ``cells(object, now)`` gives as many values as there are columns."""

    columns: tuple[Column, ...]
    cells: Cells


NAME = Column("Name", format="name", description="Name must be unique within a namespace.")
AGE = Column("Age", description="Time since the object was created.")
CREATED_AT = Column("Created At", type="date", description="When the object was created.")


def columns(*names: str) -> tuple[Column, ...]:
    """Return columns from a compact form: "Desired:integer", "Images+" (wide only), "Name", "Age"."""
    made: list[Column] = []
    for name in names:
        if name in ("Name", "Age"):
            made.append(NAME if name == "Name" else AGE)
            continue
        text, _, type = name.rstrip("+").partition(":")
        made.append(Column(text, type or "string", 1 if name.endswith("+") else 0))
    return tuple(made)


_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 86400 * 365

# Below the limit, a duration shows as so many of the unit, and the rest in the finer unit (None: no rest).
_STEPS: tuple[tuple[int, tuple[int, str], tuple[int, str] | None], ...] = (
    (2 * _MINUTE, (1, "s"), None),
    (10 * _MINUTE, (_MINUTE, "m"), (1, "s")),
    (3 * _HOUR, (_MINUTE, "m"), None),
    (8 * _HOUR, (_HOUR, "h"), (_MINUTE, "m")),
    (2 * _DAY, (_HOUR, "h"), None),
    (8 * _DAY, (_DAY, "d"), (_HOUR, "h")),
    (2 * _YEAR, (_DAY, "d"), None),
    (8 * _YEAR, (_YEAR, "y"), (_DAY, "d")),
)


def duration(seconds: float) -> str:
    """Return a duration as kubectl shows ages: 95s, 4m10s, 170m, 5h3m, 3d4h, 200d, 3y12d."""
    if seconds <= -2:
        return "<invalid>"
    whole = max(0, int(seconds))
    for limit, (unit, letter), fine in _STEPS:
        if whole < limit:
            rest = whole % unit // fine[0] if fine else 0
            return f"{whole // unit}{letter}{rest}{fine[1]}" if fine and rest else f"{whole // unit}{letter}"
    return f"{whole // _YEAR}y"


def since(timestamp: str | None, now: datetime) -> str:
    """Return how long ago a metav1.Time was; "<unknown>" for none or nonsense."""
    if not timestamp:
        return UNKNOWN
    try:
        return duration((now - parse_timestamp(timestamp)).total_seconds())
    except (ValueError, TypeError):
        return UNKNOWN


def age(obj: Mapping[str, Any], now: datetime) -> str:
    """Return the object's age."""
    return since(obj["metadata"].get("creationTimestamp"), now)


def spec_of(obj: Mapping[str, Any]) -> Obj:
    """Return ``spec``; empty when there is none."""
    return obj.get("spec") or {}


def status_of(obj: Mapping[str, Any]) -> Obj:
    """Return ``status``; empty when there is none."""
    return obj.get("status") or {}


def labels_text(labels: Mapping[str, str] | None) -> str:
    """Return ``a=b,c=d``, sorted; "<none>" when empty."""
    return ",".join(f"{k}={v}" for k, v in sorted((labels or {}).items())) or NONE


def selector_text(selector: Mapping[str, Any] | None) -> str:
    """Return a LabelSelector in the string form of ``-l``; "<none>" for one that selects everything."""
    if not selector:
        return NONE
    parts = [f"{k}={v}" for k, v in sorted((selector.get("matchLabels") or {}).items())]
    for e in selector.get("matchExpressions") or ():
        key, values = e.get("key", ""), ",".join(sorted(e.get("values") or ()))
        parts.append(
            {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}.get(
                e.get("operator", ""), f"!{key}"
            )
        )
    return ",".join(sorted(parts)) or NONE


def some(items: Sequence[str], most: int = 3) -> str:
    """Return the first few, comma-separated, and how many more there are."""
    text = ",".join(items[:most])
    return f"{text} + {len(items) - most} more..." if len(items) > most else text


def containers_and_images(pod_spec: Mapping[str, Any]) -> list[str]:
    """Return two cells: the containers' names and their images."""
    containers = pod_spec.get("containers") or ()
    return [",".join(c.get("name", "") for c in containers), ",".join(c.get("image", "") for c in containers)]
