"""meta.k8s.io/v1 Table: the rows and columns that ``kubectl get`` prints. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from podwire.apiserver.printers import cluster, jsonpath, network, pods, workloads
from podwire.apiserver.printers.column import NAME, Column, Printer, age, since
from podwire.model.objects import Obj

if TYPE_CHECKING:
    from podwire.apiserver.kinds import Kind

PRINTERS: Mapping[tuple[str, str], Printer] = {
    **cluster.PRINTERS,
    **network.PRINTERS,
    **pods.PRINTERS,
    **workloads.PRINTERS,
}


def table(
    kind: Kind,
    objs: Sequence[Obj],
    *,
    include_object: str,
    list_meta: Mapping[str, Any],
    now: datetime,
    with_definitions: bool = True,
) -> Obj:
    """Return the Table of these objects.

    ``include_object`` is the request's includeObject: "Metadata" (or ""), "Object" or "None".
    ``with_definitions`` False leaves out the columns' definitions, as every event of a watch after the
    first does.
    """
    printer = printer_for(kind.group, kind.kind, kind.printer_columns)
    rows = []
    for obj in objs:
        row: Obj = {"cells": printer.cells(obj, now)}
        if kind.kind == "Pod" and not kind.group:
            conditions = pods.row_conditions(obj)
            if conditions:
                row["conditions"] = conditions
        if include_object == "Object":
            row["object"] = obj
        elif include_object != "None":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": obj["metadata"],
            }
        rows.append(row)
    definitions = [c.definition() for c in printer.columns] if with_definitions else []
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": dict(list_meta),
        "columnDefinitions": definitions,
        "rows": rows,
    }


def printer_for(group: str, kind: str, printer_columns: Sequence[Mapping[str, Any]] = ()) -> Printer:
    """Return how a kind prints: its own way, a CRD's columns, or NAME and AGE."""
    if printer_columns:
        return _custom(printer_columns)
    return PRINTERS.get((group, kind), cluster.GENERIC)


def _custom(printer_columns: Sequence[Mapping[str, Any]]) -> Printer:
    columns = [NAME]
    for given in printer_columns:
        columns.append(
            Column(
                given["name"],
                given.get("type") or "string",
                int(given.get("priority") or 0),
                given.get("format") or "",
                given.get("description") or "",
            )
        )
    paths = [(c["jsonPath"], c.get("type") or "string") for c in printer_columns]

    def cells(obj: Obj, now: datetime) -> list[Any]:
        return [obj["metadata"]["name"], *(_custom_cell(obj, p, t, now) for p, t in paths)]

    return Printer(tuple(columns), cells)


def _custom_cell(obj: Obj, path: str, type: str, now: datetime) -> Any:
    """Return one cell; None (printed as nothing) where the path leads nowhere or the type is wrong."""
    if path == ".metadata.creationTimestamp":
        return age(obj, now)
    try:
        found = jsonpath.find(obj, path)
    except ValueError:
        return None
    if not found or found[0] is None:
        return None
    value = found[0]
    if type == "date":
        return since(value, now) if isinstance(value, str) else None
    if type == "string":
        return ",".join(_text(v) for v in found)
    if type == "boolean":
        return value if isinstance(value, bool) else None
    if type in ("integer", "number"):
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        return int(value) if good and type == "integer" else value if good else None
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
