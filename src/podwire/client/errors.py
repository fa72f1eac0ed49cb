"""What an API server answers when it does not do what was asked (metav1.Status)."""

from __future__ import annotations

from typing import Any

from podwire.model.errors import PodwireError


class ApiError(PodwireError):
    """A Status with ``status: Failure``."""

    def __init__(self, code: int, reason: str, message: str, status: dict[str, Any] | None = None) -> None:
        self.code, self.reason, self.message, self.status = code, reason, message, status or {}
        super().__init__(f"{message} ({code} {reason})")


class NotFound(ApiError):
    """404: the object is not there."""


class Conflict(ApiError):
    """409 Conflict: the object changed since it was read; read again and retry."""


class AlreadyExists(ApiError):
    """409 AlreadyExists: create of a name that is taken."""


class Invalid(ApiError):
    """422: the object breaks a rule; ``status["details"]["causes"]`` names the fields."""


class Gone(ApiError):
    """410 Expired or Gone: the resourceVersion is compacted away; list again."""


class Unavailable(ApiError):
    """The server cannot be reached or is not ready (connection refused, 5xx, 429)."""


_BY_REASON = {"NotFound": NotFound, "Conflict": Conflict, "AlreadyExists": AlreadyExists,
              "Invalid": Invalid, "Gone": Gone, "Expired": Gone}  # fmt: skip


def from_status(code: int, status: dict[str, Any]) -> ApiError:
    """Return the exception for a Status object."""
    reason, message = status.get("reason", ""), status.get("message", "")
    kind = _BY_REASON.get(reason)
    if kind is None:
        kind = {404: NotFound, 410: Gone, 422: Invalid}.get(
            code, Unavailable if code >= 500 or code == 429 else ApiError
        )
    return kind(code, reason, message, status)
