"""What the API answers when it refuses: metav1.Status with a code, a reason and the fields at fault.

Messages are Kubernetes' own, since people search for them and programs match them.
Source: apimachinery ``pkg/api/errors`` and ``pkg/util/validation/field``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from podwire.model.errors import PodwireError
from podwire.model.objects import Obj

if TYPE_CHECKING:
    from podwire.apiserver.kinds import Kind


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field at fault. ``message`` is what follows "spec.ports[0].port: "."""

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"

    def cause(self) -> Obj:
        """Return the metav1.StatusCause."""
        return {"reason": self.reason, "message": self.message, "field": self.field}


def show(value: Any) -> str:
    """Return a value as it appears in messages: strings quoted, the rest as JSON."""
    import orjson

    return orjson.dumps(value).decode()


def required(field: str, detail: str = "") -> FieldError:
    """A field that must be set is not."""
    return FieldError("FieldValueRequired", field, "Required value" + (f": {detail}" if detail else ""))


def invalid_value(field: str, value: Any, detail: str) -> FieldError:
    """A field's value breaks a rule."""
    return FieldError("FieldValueInvalid", field, f"Invalid value: {show(value)}: {detail}")


def unsupported(field: str, value: Any, allowed: Sequence[str]) -> FieldError:
    """A field's value is none of those allowed."""
    names = ", ".join(f'"{a}"' for a in allowed)
    return FieldError("FieldValueNotSupported", field, f"Unsupported value: {show(value)}: supported values: {names}")


def field_forbidden(field: str, detail: str) -> FieldError:
    """A field must not be set, or not be changed."""
    return FieldError("FieldValueForbidden", field, f"Forbidden: {detail}")


def duplicate(field: str, value: Any) -> FieldError:
    """A value that must be unique is there twice."""
    return FieldError("FieldValueDuplicate", field, f"Duplicate value: {show(value)}")


def missing(field: str, value: Any) -> FieldError:
    """A value names something that is not there."""
    return FieldError("FieldValueNotFound", field, f"Not found: {show(value)}")


def too_long(field: str, limit: int) -> FieldError:
    """A value is longer than ``limit`` bytes."""
    return FieldError("FieldValueTooLong", field, f"Too long: may not be more than {limit} bytes")


def too_many(field: str, count: int, limit: int) -> FieldError:
    """A list has more than ``limit`` items."""
    return FieldError("FieldValueTooMany", field, f"Too many: {count}: must have at most {limit} items")


def wrong_type(field: str, value: Any, detail: str) -> FieldError:
    """A value has the wrong JSON type."""
    return FieldError("FieldValueTypeInvalid", field, f"Invalid value: {show(value)}: {detail}")


class ApiStatusError(PodwireError):
    """A request that fails. ``status()`` is its answer; ``code`` the HTTP status."""

    def __init__(
        self, code: int, reason: str, message: str, details: Obj | None = None, retry_after_s: int = 0
    ) -> None:
        self.code, self.reason, self.message = code, reason, message
        self.details, self.retry_after_s = details or {}, retry_after_s
        super().__init__(message)

    def status(self) -> Obj:
        """Return the metav1.Status."""
        answer: Obj = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            answer["reason"] = self.reason
        details = dict(self.details)
        if self.retry_after_s:
            details["retryAfterSeconds"] = self.retry_after_s
        if details:
            answer["details"] = details
        answer["code"] = self.code
        return answer


def _resource(kind: Kind) -> str:
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def _details(kind: Kind, name: str) -> Obj:
    details: Obj = {"name": name, "kind": kind.plural}
    return details | {"group": kind.group} if kind.group else details


def not_found(kind: Kind, name: str) -> ApiStatusError:
    """404: no such object."""
    return ApiStatusError(404, "NotFound", f'{_resource(kind)} "{name}" not found', _details(kind, name))


def already_exists(kind: Kind, name: str) -> ApiStatusError:
    """409: the name is taken."""
    message = f'{_resource(kind)} "{name}" already exists'
    return ApiStatusError(409, "AlreadyExists", message, _details(kind, name))


STALE = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(kind: Kind, name: str, why: str = STALE) -> ApiStatusError:
    """409: the object changed since it was read, or a precondition does not hold."""
    message = f'Operation cannot be fulfilled on {_resource(kind)} "{name}": {why}'
    return ApiStatusError(409, "Conflict", message, _details(kind, name))


def invalid(kind: Kind, name: str, errors: Sequence[FieldError]) -> ApiStatusError:
    """422: fields break rules, all of them named."""
    full = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    texts = list(dict.fromkeys(str(e) for e in errors))
    body = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details: Obj = {"name": name, "kind": kind.kind, "causes": [e.cause() for e in errors]}
    if kind.group:
        details["group"] = kind.group
    return ApiStatusError(422, "Invalid", f'{full} "{name}" is invalid: {body}', details)


def forbidden(kind: Kind, name: str, why: str) -> ApiStatusError:
    """403: policy refuses, for this object."""
    what = f'{_resource(kind)} "{name}"' if name else _resource(kind)
    return ApiStatusError(403, "Forbidden", f"{what} is forbidden: {why}", _details(kind, name))


def bad_request(message: str) -> ApiStatusError:
    """400: the request cannot be understood."""
    return ApiStatusError(400, "BadRequest", message)


def undecodable(kind: Kind, why: str) -> ApiStatusError:
    """400: the body is no object of this kind."""
    return bad_request(f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}')


def unauthorized() -> ApiStatusError:
    """401: no or bad credentials."""
    return ApiStatusError(401, "Unauthorized", "Unauthorized")


def gone(message: str) -> ApiStatusError:
    """410 Gone: the resourceVersion of a watch is compacted away; list again."""
    return ApiStatusError(410, "Expired", message)


def unsupported_media_type(given: str, accepted: Sequence[str]) -> ApiStatusError:
    """415: the body is of a type that is not understood."""
    message = (
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(accepted)
        + (f" (given: {given})" if given else "")
    )
    return ApiStatusError(415, "UnsupportedMediaType", message)


def not_acceptable(accepted: Sequence[str]) -> ApiStatusError:
    """406: none of the formats asked for can be given."""
    message = "only the following media types are accepted: " + ", ".join(accepted)
    return ApiStatusError(406, "NotAcceptable", message)


def method_not_allowed(kind: Kind, verb: str) -> ApiStatusError:
    """405: this resource does not know the verb."""
    message = f"{verb} is not supported on resources of kind {_resource(kind)!r}"
    return ApiStatusError(405, "MethodNotAllowed", message, _details(kind, ""))


def no_such_path() -> ApiStatusError:
    """404: nothing is served at this path."""
    return ApiStatusError(404, "NotFound", "the server could not find the requested resource")


def too_large(limit_bytes: int) -> ApiStatusError:
    """413: the body is larger than the server takes."""
    message = f"Request entity too large: limit is {limit_bytes}"
    return ApiStatusError(413, "RequestEntityTooLarge", message)


def too_many_requests(message: str, retry_after_s: int = 10, causes: Sequence[Obj] = ()) -> ApiStatusError:
    """429: try again later (evictions that a disruption budget refuses)."""
    details: Obj = {"causes": list(causes)} if causes else {}
    return ApiStatusError(429, "TooManyRequests", message, details, retry_after_s)


def internal(message: str) -> ApiStatusError:
    """500: the server failed."""
    details = {"causes": [{"message": message}]}
    return ApiStatusError(500, "InternalError", f"Internal error occurred: {message}", details)


def timeout(message: str, retry_after_s: int = 1) -> ApiStatusError:
    """504: what was asked for did not come to pass in time."""
    return ApiStatusError(504, "Timeout", message, retry_after_s=retry_after_s)


def unavailable(message: str, retry_after_s: int = 1) -> ApiStatusError:
    """503: not now."""
    return ApiStatusError(503, "ServiceUnavailable", message, retry_after_s=retry_after_s)
