"""Validation: what is wrong with an object, field by field, in Kubernetes' words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from podwire.apiserver.errors import FieldError
from podwire.apiserver.kinds import Kind
from podwire.apiserver.validation import names
from podwire.model.objects import Obj

Check = Callable[[Obj, Obj | None], Iterator[FieldError]]
_CHECKS: dict[tuple[str, str], Check] = {}


def validate(kind: Kind, new: Obj, old: Obj | None, *, subresource: str = "") -> list[FieldError]:
    """Return everything that is wrong with ``new`` (an update when ``old`` is given); empty when nothing is."""
    if subresource == "status":
        return []
    problems = list(names.check_metadata(kind, new, old))
    check = _CHECKS.get((kind.group, kind.kind))
    if check is not None:
        problems.extend(check(new, old))
    return problems
