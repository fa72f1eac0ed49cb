"""Defaults: the values that a field has when nobody set it. One module per group of kinds, pure.

Each function completes an object in place and changes nothing that is set. Source: Kubernetes'
``pkg/apis/*/v1/defaults.go`` as of 1.36.
"""

from __future__ import annotations

from podwire.apiserver.defaults import cluster, network, pods, workloads
from podwire.apiserver.defaults.custom import apply_schema_defaults
from podwire.apiserver.kinds import Kind
from podwire.model.objects import Obj

_DEFAULTS = {**pods.DEFAULTS, **workloads.DEFAULTS, **network.DEFAULTS, **cluster.DEFAULTS}


def apply_defaults(kind: Kind, obj: Obj) -> None:
    """Complete ``obj`` in place."""
    if kind.schema is not None:
        apply_schema_defaults(obj, kind.schema)
        return
    defaults = _DEFAULTS.get((kind.group, kind.kind))
    if defaults is not None:
        defaults(obj)
