"""Validation: what is wrong with an object, field by field, in Kubernetes' words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from podwire.apiserver import customschema
from podwire.apiserver.errors import FieldError
from podwire.apiserver.kinds import Kind
from podwire.apiserver.validation import cluster, crds, names, network, pods, workloads
from podwire.model.objects import Obj

Check = Callable[[Obj, Obj | None], Iterator[FieldError]]
_CHECKS: Mapping[tuple[str, str], Check] = {
    ("", "Pod"): pods.check,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): crds.check,
    **workloads.CHECKS,
    **network.CHECKS,
    **cluster.CHECKS,
}


def validate(kind: Kind, new: Obj, old: Obj | None, *, subresource: str = "") -> list[FieldError]:
    """Return everything that is wrong with ``new`` (an update when ``old`` is given); empty when nothing is."""
    if kind.schema is not None:
        return [*names.check_metadata(kind, new, old), *customschema.check(kind, new)]
    if subresource in ("status", "binding"):
        return []
    problems = list(names.check_metadata(kind, new, old))
    check = _CHECKS.get((kind.group, kind.kind))
    if check is not None:
        problems.extend(check(new, old))
    return problems
