"""What form the answer takes (Accept) and the body has (Content-Type). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from podwire.apiserver.errors import not_acceptable

JSON, YAML = "application/json", "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
BODY_TYPES = (JSON, YAML, PROTOBUF)


@dataclass(frozen=True, slots=True)
class Format:
    """The form of an answer: JSON or YAML, whole objects or a ``Table``, ``PartialObjectMetadata[List]``."""

    media_type: str = JSON
    transform: str = ""  # "", "Table", "PartialObjectMetadata", "PartialObjectMetadataList", ...
    version: str = ""
    pretty: bool = False

    @property
    def plain(self) -> bool:
        """Whether stored JSON can be sent as it is."""
        return self.media_type == JSON and not self.transform and not self.pretty


PLAIN = Format()
_TRANSFORMS = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList", "APIGroupDiscoveryList")


@lru_cache(maxsize=256)
def accept(header: str) -> Format:
    """Return the first form of an Accept header that can be given. Raises 406.

    Clauses are tried in the order given; protobuf is never given, and clients that ask for it name JSON too.
    """
    if not header or header in (JSON, "*/*"):
        return PLAIN
    for media_type, parameters in _clauses(header):
        if media_type in ("*/*", "application/*"):
            return PLAIN
        if media_type not in (JSON, YAML):
            continue
        transform = parameters.get("as", "")
        if transform and (transform not in _TRANSFORMS or parameters.get("v") not in ("v1", "v2")):
            continue
        return Format(media_type, transform, parameters.get("v", ""))
    raise not_acceptable((JSON, YAML))


def prefers(header: str, offered: Sequence[str]) -> str:
    """Return the first of the media types offered that an Accept header asks for. Raises 406.

    No header asks for anything, which is the first one offered.
    """
    for media_type, _ in _clauses(header or "*/*"):
        if media_type in ("*/*", "application/*"):
            return offered[0]
        if media_type in offered:
            return media_type
    raise not_acceptable(offered)


def _clauses(header: str) -> list[tuple[str, dict[str, str]]]:
    """Return the media types of an Accept header with their parameters, the most wanted first."""
    clauses = [_clause(text) for text in header.split(",")]
    clauses.sort(key=lambda c: -_weight(c[1]))
    return clauses


def _weight(parameters: Mapping[str, str]) -> float:
    try:
        return float(parameters.get("q") or 1)
    except ValueError:
        return 0.0


def _clause(text: str) -> tuple[str, dict[str, str]]:
    media_type, *rest = (part.strip() for part in text.split(";"))
    return media_type.lower(), {k.strip(): v.strip() for k, _, v in (p.partition("=") for p in rest)}
