"""What the files of a configMap, secret, downwardAPI or projected volume hold. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from podwire.node.pod.environment import ConfigError, GetObject, PodFacts, field_value, resource_value


@dataclass(frozen=True, slots=True)
class PayloadFile:
    """One file of a volume."""

    content: bytes
    mode: int


Payload: TypeAlias = dict[str, PayloadFile]
"""Relative path -> file."""

GENERATED = ("configMap", "secret", "downwardAPI", "projected")


class VolumeError(Exception):
    """A volume cannot be set up (now); the text goes into a FailedMount event."""


@dataclass(frozen=True, slots=True)
class TokenWanted:
    """A serviceAccountToken source: which token, and where it goes."""

    path: str
    audience: str
    lasts_s: int


Tokens: TypeAlias = Mapping[TokenWanted, str]


def references(pod: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return (kind, name) of every ConfigMap and Secret that the pod's volumes and variables use."""
    found: set[tuple[str, str]] = set()
    for volume in pod["spec"].get("volumes") or ():
        for source in _sources(volume):
            found |= _reference_of(source)
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for c in pod["spec"].get(group) or ():
            for entry in c.get("envFrom") or ():
                found |= _reference_of({k.removesuffix("Ref"): v for k, v in entry.items() if k != "prefix"})
            for entry in c.get("env") or ():
                source = entry.get("valueFrom") or {}
                found |= _reference_of({k.removesuffix("KeyRef"): v for k, v in source.items()})
    return frozenset(found)


def _reference_of(source: Mapping[str, Any]) -> set[tuple[str, str]]:
    found = set()
    for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
        if field in source:
            found.add((kind, source[field].get("secretName") or source[field].get("name") or ""))
    return {r for r in found if r[1]}


def _sources(volume: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the sources of a generated volume; a projected one has several."""
    if "projected" in volume:
        yield from volume["projected"].get("sources") or ()
    elif any(kind in volume for kind in GENERATED):
        yield volume


def tokens_wanted(volume: Mapping[str, Any]) -> Iterator[TokenWanted]:
    """Yield the ServiceAccount tokens that a volume holds."""
    for source in _sources(volume):
        if "serviceAccountToken" in source:
            t = source["serviceAccountToken"]
            yield TokenWanted(t["path"], t.get("audience") or "", int(t.get("expirationSeconds") or 3600))


def payload(
    pod: Mapping[str, Any], volume: Mapping[str, Any], get: GetObject, facts: PodFacts, tokens: Tokens
) -> Payload:
    """Return the files of a generated volume. Raises VolumeError when a needed object or key is missing."""
    kind = next(k for k in GENERATED if k in volume)
    mode = volume[kind].get("defaultMode")
    mode = 0o644 if mode is None else mode
    files: Payload = {}
    for source in _sources(volume):
        if "configMap" in source or "secret" in source:
            files |= _object_files(pod, source, get, mode)
        elif "downwardAPI" in source:
            files |= _downward_files(pod, source["downwardAPI"], facts, mode)
        elif "serviceAccountToken" in source:
            wanted = next(tokens_wanted({"projected": {"sources": [source]}}))
            files[_inside(wanted.path)] = PayloadFile(tokens[wanted].encode(), 0o600 if mode == 0o600 else mode)
        else:
            raise VolumeError(f"projected source {', '.join(source)} is not supported by this node")
    return files


def _object_files(pod: Mapping[str, Any], source: Mapping[str, Any], get: GetObject, mode: int) -> Payload:
    kind, ref = ("ConfigMap", source["configMap"]) if "configMap" in source else ("Secret", source["secret"])
    name = ref.get("secretName") or ref.get("name") or ""
    obj = get(kind, name)
    if obj is None:
        if ref.get("optional"):
            return {}
        raise VolumeError(f'{kind.lower()} "{name}" not found')
    return dict(_select(kind, name, object_bytes(obj), ref, mode, pod["metadata"].get("namespace", "")))


def object_bytes(obj: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the entries of a ConfigMap (binaryData too) or a Secret as bytes."""
    if obj.get("kind") == "Secret":
        return {k: base64.b64decode(v) for k, v in (obj.get("data") or {}).items()}
    text = {k: v.encode() for k, v in (obj.get("data") or {}).items()}
    return text | {k: base64.b64decode(v) for k, v in (obj.get("binaryData") or {}).items()}


def _select(
    kind: str, name: str, entries: Mapping[str, bytes], ref: Mapping[str, Any], mode: int, namespace: str
) -> Iterable[tuple[str, PayloadFile]]:
    items = ref.get("items")
    if not items:
        yield from ((k, PayloadFile(v, mode)) for k, v in entries.items())
        return
    for item in items:
        if item["key"] in entries:
            own = item.get("mode")
            yield _inside(item["path"]), PayloadFile(entries[item["key"]], mode if own is None else own)
        elif not ref.get("optional"):
            raise VolumeError(f"references non-existent {kind.lower()} key: {item['key']} ({namespace}/{name})")


def _downward_files(pod: Mapping[str, Any], ref: Mapping[str, Any], facts: PodFacts, mode: int) -> Payload:
    files: Payload = {}
    for item in ref.get("items") or ():
        try:
            if "fieldRef" in item:
                text = field_value(pod, item["fieldRef"]["fieldPath"], facts)
            else:
                text = resource_value(pod, {}, item["resourceFieldRef"], facts)
        except ConfigError as error:
            raise VolumeError(str(error)) from error
        own = item.get("mode")
        files[_inside(item["path"])] = PayloadFile(text.encode(), mode if own is None else own)
    return files


def _inside(path: str) -> str:
    """Return ``path``, once sure that it stays within the volume."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or not path or parts[0].startswith(".."):
        raise VolumeError(f"invalid path {path!r}: it must be relative and stay within the volume")
    return path
