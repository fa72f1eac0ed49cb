"""Who asks, for what, and how: the values that every floor of the API server shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from podwire.apiserver.kinds import Kind

FieldValidation = Literal["Ignore", "Warn", "Strict"]


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated identity."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked for, as authorization sees it. Non-resource requests have ``path`` and no ``resource``."""

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""  # the plural
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def is_resource(self) -> bool:
        """Whether a resource is asked for, not a bare path."""
        return bool(self.resource)


@dataclass(frozen=True, slots=True)
class Decision:
    """The authorizer's answer. ``reason`` says which rule allowed, or why nothing did."""

    allowed: bool
    reason: str = ""


@dataclass(slots=True)
class RequestContext:
    """One write request, as admission and the verbs see it. ``warnings`` go out as Warning headers."""

    user: User
    verb: str
    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    dry_run: bool = False
    field_manager: str = ""
    field_validation: FieldValidation = "Warn"
    force: bool = False
    warnings: list[str] = field(default_factory=list)
