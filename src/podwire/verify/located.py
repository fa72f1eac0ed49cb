"""Objects that remember where they were written: file and line of every field. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from podwire.model.objects import Obj

LIVE = "(cluster)"
"""The file of objects that a cluster holds: shown as their field path, for there is no line."""

_STEP = re.compile(r"""\[(\d+)\]|\["([^"]*)"\]|\['([^']*)'\]|([^.\[\]]+)""")


class Place(NamedTuple):
    """A position in a file. ``line`` counts from 1; 0 means that there is no line."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class ObjectKey(NamedTuple):
    """What tells one object from another, whatever version of its API it is written in."""

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Located:
    """One object and where it was written. ``node``: its YAML node, None for objects without text."""

    object: Obj
    file: str
    node: Any = field(default=None, repr=False, compare=False)
    first_line: int = field(default=0, compare=False)

    @property
    def key(self) -> ObjectKey:
        """What the object is called."""
        meta = self.object["metadata"]
        group = self.object["apiVersion"].rpartition("/")[0]
        return ObjectKey(group, self.object["kind"], meta.get("namespace", ""), meta["name"])

    def place(self, path: str = "") -> Place:
        """Return where the field ``path`` ("spec.ingress[0].from[1]") stands, or its nearest parent."""
        return Place(self.file, self._line(path) if self.node is not None else self.first_line)

    def _line(self, path: str) -> int:
        node, line = self.node, self.first_line
        for step in steps(path):
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line


def steps(path: str) -> tuple[str | int, ...]:
    """Return a field path taken apart: 'spec.ports[0]["a.b"]' -> ("spec", "ports", 0, "a.b")."""
    return tuple(
        int(index) if index else double or single or plain for index, double, single, plain in _STEP.findall(path)
    )


def _child(node: Any, step: str | int) -> tuple[int, Any] | None:
    """Return the line (from 1) and the node of a mapping's value or a sequence's item; None when it has none."""
    value = node.value
    if isinstance(step, int):
        if isinstance(value, list) and step < len(value) and not isinstance(value[step], tuple):
            return value[step].start_mark.line + 1, value[step]
        return None
    if not isinstance(value, list):
        return None
    for pair in value:
        if isinstance(pair, tuple) and pair[0].value == step:
            return pair[0].start_mark.line + 1, pair[1]
    return None


def field_of(obj: Mapping[str, Any], path: str) -> Any:
    """Return the value at a field path, None when something on the way is missing."""
    here: Any = obj
    for step in steps(path):
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            return None
    return here


def overlay(below: Iterable[Located], above: Iterable[Located]) -> tuple[Located, ...]:
    """Return ``below`` with the objects of ``above`` put over those of the same name, as `kubectl apply` would."""
    merged = {located.key: located for located in below}
    merged.update((located.key, located) for located in above)
    return tuple(merged.values())
