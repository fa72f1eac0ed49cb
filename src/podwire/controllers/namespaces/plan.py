"""The objects of a new namespace, and what a dying one reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from podwire.model.objects import Obj

ROOT_CA = "kube-root-ca.crt"
ROOT_CA_NOTE = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as "
    "the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of "
    "Kubernetes clusters."
)


def default_account(namespace: str) -> Obj:
    """Return the ServiceAccount that pods use when they name none."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": namespace},
    }


def root_ca(namespace: str, pem: str) -> Obj:
    """Return the ConfigMap with which pods verify the API server."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": ROOT_CA,
            "namespace": namespace,
            "annotations": {"kubernetes.io/description": ROOT_CA_NOTE},
        },
        "data": {"ca.crt": pem},
    }


def deletion_conditions(
    remaining: Mapping[str, int], finalizers: Mapping[str, int], failures: list[str], discovered: bool
) -> list[Obj]:
    """Return the conditions of a terminating namespace.

    ``remaining`` counts objects by "plural.group", ``finalizers`` counts the objects each finalizer holds.
    """
    left = ", ".join(f"{what} has {n} resource instances" for what, n in sorted(remaining.items()))
    held = ", ".join(f"{what} in {n} resource instances" for what, n in sorted(finalizers.items()))
    wanted = (
        ("NamespaceDeletionDiscoveryFailure", not discovered, "DiscoveryFailed", "ResourcesDiscovered",
         "Some API groups did not answer", "All resources successfully discovered"),
        ("NamespaceDeletionGroupVersionParsingFailure", False, "", "ParsedGroupVersions",
         "", "All legacy kube types successfully parsed"),
        ("NamespaceDeletionContentFailure", bool(failures), "ContentDeletionFailed", "ContentDeleted",
         "; ".join(failures[:5]), "All content successfully deleted, may be waiting on finalization"),
        ("NamespaceContentRemaining", bool(remaining), "SomeResourcesRemain", "ContentRemoved",
         f"Some resources are remaining: {left}", "All content successfully removed"),
        ("NamespaceFinalizersRemaining", bool(finalizers), "SomeFinalizersRemain", "ContentHasNoFinalizers",
         f"Some content in the namespace has finalizers remaining: {held}",
         "All content-preserving finalizers finished"),
    )  # fmt: skip
    return [
        {
            "type": type,
            "status": "True" if bad else "False",
            "reason": bad_reason if bad else good_reason,
            "message": bad_text if bad else good_text,
        }
        for type, bad, bad_reason, good_reason, bad_text, good_text in wanted
    ]


def without_contents(config_map: Obj) -> Obj:
    """Return a ConfigMap as the loops hold it: only of the root CA's does the content matter."""
    meta = config_map["metadata"]
    meta.pop("managedFields", None)
    if meta["name"] == ROOT_CA:
        return config_map
    return {k: v for k, v in config_map.items() if k not in ("data", "binaryData")}
