"""The CustomResourceDefinitions of the cluster-wide policies, as objects to create in a cluster."""

from __future__ import annotations

from importlib.resources import files

from podwire.model.objects import Obj

NAMES = ("clusternetworkpolicies", "adminnetworkpolicies", "baselineadminnetworkpolicies")


def read_crds() -> list[Obj]:
    """Return the three definitions: ClusterNetworkPolicy v1alpha2 and its two predecessors, v1alpha1."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
    return [yaml.load((files(__name__) / f"{name}.yaml").read_text(), loader) for name in NAMES]
