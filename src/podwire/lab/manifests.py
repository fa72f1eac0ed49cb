"""`podwire up -f`: read manifests, check them before anything is made, apply them afterwards."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podwire.model.errors import BadInput, MachineError, Problem
from podwire.model.objects import Obj
from podwire.model.resources import Resource

if TYPE_CHECKING:
    from podwire.apiserver.kinds import Kind

SUFFIXES = (".yaml", ".yml", ".json")
_FIRST = {"Namespace": 0, "CustomResourceDefinition": 1}


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object and where it was read."""

    source: str  # "web.yaml, document 2"
    object: Obj


def read(paths: Sequence[str]) -> list[Manifest]:
    """Return the objects of files, directories (sorted by name) and "-", Lists taken apart.

    Raises BadInput for what cannot be read or is no Kubernetes object.
    """
    found: list[Manifest] = []
    for path in paths:
        for source, text in _texts(path):
            found += _parse(source, text)
    return found


def _texts(path: str) -> list[tuple[str, str]]:
    if path == "-":
        return [("standard input", sys.stdin.read())]
    place = Path(path)
    try:
        if place.is_dir():
            files = sorted(p for p in place.iterdir() if p.suffix in SUFFIXES)
            if not files:
                raise BadInput(Problem(path, "", f"the directory holds no {', '.join(SUFFIXES)} file"))
            return [(str(f), f.read_text()) for f in files]
        return [(path, place.read_text())]
    except OSError as error:
        raise BadInput(Problem(path, "", f"cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError:
        raise BadInput(Problem(path, "", "is no text")) from None


def _parse(source: str, text: str) -> list[Manifest]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        documents = list(yaml.load_all(text, Loader=loader))
    except yaml.YAMLError as error:
        raise BadInput(Problem(source, "", f"is no YAML: {' '.join(str(error).split())}")) from None
    found: list[Manifest] = []
    for number, document in enumerate(documents, 1):
        where = f"{source}, document {number}" if len(documents) > 1 else source
        if document is None:
            continue
        items = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else [document]
        found += [Manifest(where, _object(where, item)) for item in items or ()]
    return found


def _object(where: str, raw: Any) -> Obj:
    problems = []
    if not isinstance(raw, dict):
        raise BadInput(Problem(where, "", "is no mapping; a Kubernetes object has apiVersion, kind and metadata"))
    for field in ("apiVersion", "kind"):
        if not isinstance(raw.get(field), str):
            problems.append(Problem(where, field, "is missing"))
    meta = raw.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
        problems.append(Problem(where, "metadata.name", "is missing"))
    if problems:
        raise BadInput(*problems)
    return raw


def check(manifests: Sequence[Manifest]) -> None:
    """Check the objects of built-in kinds as the API server will. Raises BadInput with every problem."""
    from podwire.apiserver.builtin_kinds import kinds
    from podwire.apiserver.kinds import Registry

    registry = Registry(kinds())
    problems = []
    for m in manifests:
        group, _, version = m.object["apiVersion"].rpartition("/")
        kind = registry.find_kind(group, version, m.object["kind"])
        if kind is not None:
            name = f"{m.source}: {kind.kind} {m.object['metadata']['name']}"
            problems += [Problem(name, field, why) for field, why in _problems_of(kind, m.object)]
    if problems:
        raise BadInput(*problems)


def _problems_of(kind: Kind, obj: Obj) -> Iterator[tuple[str, str]]:
    """Yield the fields that the API server would refuse, and why."""
    import copy

    import orjson

    from podwire.apiserver import schema, validation
    from podwire.apiserver.defaults import apply_defaults
    from podwire.apiserver.errors import ApiStatusError

    try:
        candidate = schema.clean(kind, copy.deepcopy(obj), orjson.dumps(obj, default=str), "Strict", [])
    except ApiStatusError as error:
        yield "", error.message
        return
    if kind.namespaced:
        candidate["metadata"].setdefault("namespace", "default")
    apply_defaults(kind, candidate)
    for problem in validation.validate(kind, candidate, None):
        yield problem.field, problem.message


def apply(kubeconfig: Path, manifests: Sequence[Manifest], report: Callable[[dict[str, Any]], None]) -> None:
    """Apply the objects, namespaces and CRDs first. Raises MachineError with the server's words."""
    import time

    began = time.monotonic()
    title = f"Applying {len(manifests)} object{'s'[: len(manifests) != 1]}"
    report({"step": title})
    asyncio.run(_apply(kubeconfig, manifests))
    report({"done": title, "took_s": time.monotonic() - began})


async def _apply(kubeconfig: Path, manifests: Sequence[Manifest]) -> None:
    from podwire.client.errors import ApiError
    from podwire.client.http import HttpClient, from_kubeconfig

    client = HttpClient(from_kubeconfig(kubeconfig))
    known: dict[str, dict[str, Resource]] = {}
    try:
        for m in sorted(manifests, key=lambda m: _FIRST.get(m.object["kind"], 2)):
            meta = m.object["metadata"]
            try:
                resource = await _resource(client, m.object["apiVersion"], m.object["kind"], known)
                namespace = meta.get("namespace", "default") if resource.namespaced else ""
                await client.patch(resource, meta["name"], m.object, namespace, kind="apply", force=True)
            except ApiError as error:
                what = f"{m.object['kind']} {meta['name']} ({m.source})"
                raise MachineError("lab", "apply", what, error.message) from None
    finally:
        await client.close()


async def _resource(client: Any, api_version: str, kind: str, known: dict[str, dict[str, Resource]]) -> Resource:
    """Return the resource of a kind by discovery, asking again for kinds that a CRD may just have added."""
    from podwire.client.errors import NotFound

    if kind not in known.get(api_version, {}):
        group, _, version = api_version.rpartition("/")
        for _ in range(50):
            try:
                answer = await client.request("GET", f"/apis/{api_version}" if group else f"/api/{version}")
            except NotFound:
                answer = {"resources": []}
            known[api_version] = {
                r["kind"]: Resource(group, version, r["name"], r["kind"], r["namespaced"])
                for r in answer["resources"]
                if "/" not in r["name"]
            }
            if kind in known[api_version]:
                break
            await asyncio.sleep(0.02)
    if kind not in known[api_version]:
        raise NotFound(404, "NotFound", f"the server knows no kind {kind} in {api_version}")
    return known[api_version][kind]
