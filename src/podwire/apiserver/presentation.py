"""Objects in the form that was asked for: JSON, YAML, Table, PartialObjectMetadata. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from podwire.apiserver import tables
from podwire.apiserver.kinds import Kind
from podwire.apiserver.negotiation import YAML, Format
from podwire.apiserver.store.port import Row
from podwire.model.objects import Obj

PARTIAL = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}


def single(kind: Kind, body: bytes, form: Format, now: datetime, include: str = "") -> bytes:
    """Return one object for the wire. ``body`` is in the version of ``kind``."""
    if form.plain:
        return body
    if form.transform == "":
        return encode(orjson.loads(body), form)
    return encode(_transformed(kind, orjson.loads(body), form, now, include), form)


def object_in(kind: Kind, body: bytes, form: Format, now: datetime, *, first: bool = True) -> Obj:
    """Return the object of a watch event; ``first`` tells Tables to carry their column definitions."""
    obj: Obj = orjson.loads(body)
    if kind.from_stored:
        obj = kind.from_stored(obj)
    return _transformed(kind, obj, form, now, "", with_definitions=first) if form.transform else obj


def _transformed(
    kind: Kind, obj: Obj, form: Format, now: datetime, include: str, *, with_definitions: bool = True
) -> Obj:
    if form.transform == "Table":
        meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
        return tables.table(
            kind,
            [obj],
            include_object=include,
            list_meta=meta,
            now=now,
            with_definitions=with_definitions,
        )
    return PARTIAL | {"metadata": obj["metadata"]}


def collection(
    kind: Kind, rows: Sequence[Row], meta: dict[str, Any], form: Format, now: datetime, include: str = ""
) -> bytes:
    """Return a list for the wire."""
    if form.plain and kind.from_stored is None:
        head = orjson.dumps(
            {"kind": kind.list_kind or kind.kind + "List", "apiVersion": kind.api_version, "metadata": meta}
        )
        return head[:-1] + b',"items":[' + b",".join([r.body for r in rows]) + b"]}"
    objs = [orjson.loads(r.body) for r in rows]
    if kind.from_stored:
        objs = [kind.from_stored(o) for o in objs]
    if form.transform == "Table":
        answer = tables.table(kind, objs, include_object=include, list_meta=meta, now=now)
    elif form.transform:
        items = [PARTIAL | {"metadata": o["metadata"]} for o in objs]
        answer = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items}
    else:
        answer = {"kind": kind.list_kind or kind.kind + "List", "apiVersion": kind.api_version, "metadata": meta}
        answer["items"] = objs
    return encode(answer, form)


def encode(obj: Obj, form: Format) -> bytes:
    """Return an object as JSON or YAML."""
    if form.media_type == YAML:
        import yaml

        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        return yaml.dump(obj, Dumper=dumper, sort_keys=False).encode()
    return orjson.dumps(obj, option=orjson.OPT_INDENT_2 if form.pretty else 0)


def event(kind: str, obj: Obj, form: Format) -> bytes:
    """Return one line of a watch, as JSON or as a YAML document."""
    if form.media_type == YAML:
        return b"---\n" + encode({"type": kind, "object": obj}, form)
    return orjson.dumps({"type": kind, "object": obj}) + b"\n"
