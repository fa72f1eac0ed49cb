"""Prebuilt answers, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from podwire.model.objects import Key


@dataclass(frozen=True, slots=True)
class Answer:
    """What one (name, type) is answered with.

    ``own``: records owned by the name asked for, each without its owner, which is put in front in the case of
    the question. ``more``: further records of the answer section, whole. ``extra``: the additional section.
    ``alias``: a CNAME's target, to be followed when another type was asked for.
    """

    own: tuple[bytes, ...] = ()
    more: tuple[bytes, ...] = ()
    extra: tuple[bytes, ...] = ()
    alias: bytes = b""


@dataclass(frozen=True, slots=True)
class ServiceRecords:
    """All that one Service brings: answers by lower-case name + type, and the names that exist because of it."""

    service: Key
    answers: Mapping[bytes, Answer] = field(default_factory=dict)
    names: frozenset[bytes] = frozenset()
