"""Label selectors (metav1.LabelSelector and the ``-l`` string form) as values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label. A key that is absent satisfies NotIn and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether ``labels`` satisfy this requirement."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None


@dataclass(frozen=True, slots=True)
class Selector:
    """A conjunction of requirements. Without any it matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether every requirement holds."""
        return all(r.matches(labels) for r in self.requirements)


EVERYTHING = Selector()


def from_map(labels: Mapping[str, str]) -> Selector:
    """Return the selector of an equality map such as a Service's spec.selector."""
    return Selector(tuple(Requirement(k, "In", (v,)) for k, v in sorted(labels.items())))


def from_label_selector(selector: Mapping[str, Any]) -> Selector:
    """Return the selector of a metav1.LabelSelector. ``{}`` matches everything.

    Raises ValueError for an operator or a value list that Kubernetes refuses.
    A selector that is *absent* (None) is the caller's to interpret; it usually matches nothing.
    """
    parts = [Requirement(k, "In", (v,)) for k, v in sorted((selector.get("matchLabels") or {}).items())]
    for e in selector.get("matchExpressions") or ():
        parts.append(_expression(e["key"], e["operator"], e.get("values") or ()))
    return Selector(tuple(parts))


def _expression(key: str, operator: str, values: Sequence[str]) -> Requirement:
    if operator in ("In", "NotIn"):
        if not values:
            raise ValueError(f"{operator} on {key!r} needs at least one value")
        return Requirement(key, operator, tuple(values))  # type: ignore[arg-type]
    if operator in ("Exists", "DoesNotExist"):
        if values:
            raise ValueError(f"{operator} on {key!r} takes no values")
        return Requirement(key, operator)  # type: ignore[arg-type]
    raise ValueError(f"unknown operator {operator!r} on {key!r}")


_TERM = re.compile(
    r"""\s*(?:
        !\s*(?P<absent>[^\s,=!()]+)
      | (?P<key>[^\s,=!()]+)\s+(?P<set>in|notin)\s*\(\s*(?P<values>[^)]*)\)
      | (?P<eqkey>[^\s,=!()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s,()]*)
      | (?P<present>[^\s,=!()]+)
    )\s*(?:,|$)""",
    re.X,
)


def parse(text: str) -> Selector:
    """Return the selector of the string form: ``a=b,c!=d,e in (f,g),!h,i``. Raises ValueError."""
    parts: list[Requirement] = []
    position = 0
    while position < len(text):
        m = _TERM.match(text, position)
        if m is None or m.end() == position:
            raise ValueError(f"cannot parse label selector {text!r} at {text[position:]!r}")
        parts.append(_term(m))
        position = m.end()
    return Selector(tuple(parts))


def _term(m: re.Match[str]) -> Requirement:
    if m["absent"]:
        return Requirement(m["absent"], "DoesNotExist")
    if m["present"]:
        return Requirement(m["present"], "Exists")
    if m["eqkey"]:
        return Requirement(m["eqkey"], "NotIn" if m["op"] == "!=" else "In", (m["value"],))
    values = tuple(v.strip() for v in m["values"].split(","))
    return Requirement(m["key"], "In" if m["set"] == "in" else "NotIn", values)
