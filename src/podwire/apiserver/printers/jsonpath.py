"""The small JSONPath of a CRD's ``additionalPrinterColumns``.

Fields, ``[0]``, ``[-1]``, ``[*]``, ``['name']``, ``\\.`` inside names, and filters ``[?(@.type=="Ready")]``
with ``==`` and ``!=``. Paths are relative to the object: ``.spec.replicas``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Step = Callable[[list[Any]], list[Any]]

_TOKEN = re.compile(
    r"""\.?\[\?\(\s*@(?P<filter>[^=!]*?)\s*(?P<op>==|!=)\s*(?P<value>"[^"]*"|'[^']*'|[^)\s]+)\s*\)\]
      | \.?\[(?P<index>-?\d+|\*)\]
      | \.?\[(?P<quoted>'[^']*'|"[^"]*")\]
      | \.(?P<field>(?:\\.|[^.\[\\])+)
      | ^(?P<first>(?:\\.|[^.\[\\])+)""",
    re.X,
)


@lru_cache(maxsize=1024)
def compile(path: str) -> tuple[Step, ...]:
    """Return the steps of a path. Raises ValueError for what is not understood."""
    text = path.strip().removeprefix("{").removesuffix("}")
    if text in (".", "$", "@"):
        return ()
    text = text.removeprefix("$")
    steps: list[Step] = []
    position = 0
    while position < len(text):
        m = _TOKEN.match(text, position)
        if m is None or m.end() == position:
            raise ValueError(f"cannot read JSONPath {path!r} at {text[position:]!r}")
        steps.append(_step(m))
        position = m.end()
    return tuple(steps)


def find(obj: Any, path: str) -> list[Any]:
    """Return every value at ``path``; empty when there is none."""
    found = [obj]
    for step in compile(path):
        found = step(found)
    return found


def _step(m: re.Match[str]) -> Step:
    if m["op"]:
        return _filter(m["filter"], m["op"], m["value"])
    if m["index"] == "*":
        return lambda nodes: [v for n in nodes for v in _children(n)]
    if m["index"]:
        index = int(m["index"])
        return lambda nodes: [n[index] for n in nodes if isinstance(n, list) and -len(n) <= index < len(n)]
    raw = m["field"] or m["first"]
    name = m["quoted"][1:-1] if m["quoted"] else re.sub(r"\\(.)", r"\1", raw)
    if name == "*" and raw:
        return lambda nodes: [v for n in nodes for v in _children(n)]
    return lambda nodes: [n[name] for n in nodes if isinstance(n, dict) and name in n]


def _filter(path: str, operator: str, literal: str) -> Step:
    wanted: Any
    if literal[0] in "\"'":
        wanted = literal[1:-1]
    else:
        try:
            wanted = json.loads(literal)
        except ValueError as error:
            raise ValueError(f"cannot read {literal!r} in a JSONPath filter") from error
    steps = compile(path)

    def chosen(node: Any) -> bool:
        found = [node]
        for step in steps:
            found = step(found)
        return (wanted in found) == (operator == "==") if found else False

    return lambda nodes: [v for n in nodes for v in _children(n) if chosen(v)]


def _children(node: Any) -> list[Any]:
    if isinstance(node, list):
        return node
    return list(node.values()) if isinstance(node, dict) else []
