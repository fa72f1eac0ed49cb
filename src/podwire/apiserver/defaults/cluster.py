"""Defaults of the remaining kinds: Namespace, Node, Secret, RBAC, storage, scheduling, CRDs."""

from __future__ import annotations

import base64

from podwire.model.objects import Obj

_RBAC = "rbac.authorization.k8s.io"


def default_node(obj: Obj) -> None:
    """Complete a Node: allocatable is the capacity unless it is said otherwise."""
    obj.setdefault("spec", {})
    status = obj.get("status")
    if isinstance(status, dict) and "capacity" in status and "allocatable" not in status:
        status["allocatable"] = dict(status["capacity"])


def default_secret(obj: Obj) -> None:
    """Complete a Secret; stringData, which is write-only, becomes data."""
    plain = obj.pop("stringData", None)
    if plain:
        data = obj.setdefault("data", {})
        for key, value in plain.items():
            data[key] = base64.b64encode(value.encode()).decode()
    if not obj.get("type"):
        obj["type"] = "Opaque"


def default_binding(obj: Obj) -> None:
    """Complete a RoleBinding or ClusterRoleBinding."""
    role = obj.get("roleRef")
    if isinstance(role, dict) and not role.get("apiGroup"):
        role["apiGroup"] = _RBAC
    for subject in obj.get("subjects") or ():
        if not subject.get("apiGroup") and subject.get("kind") in ("User", "Group"):
            subject["apiGroup"] = _RBAC


def default_role(obj: Obj) -> None:
    """Complete a Role or ClusterRole: it always has rules."""
    obj.setdefault("rules", [])


def default_storage_class(obj: Obj) -> None:
    """Complete a StorageClass."""
    obj.setdefault("reclaimPolicy", "Delete")
    obj.setdefault("volumeBindingMode", "Immediate")


def default_claim(obj: Obj) -> None:
    """Complete a PersistentVolumeClaim."""
    obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")


def default_volume(obj: Obj) -> None:
    """Complete a PersistentVolume."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
    spec.setdefault("volumeMode", "Filesystem")


def default_priority_class(obj: Obj) -> None:
    """Complete a PriorityClass."""
    obj.setdefault("preemptionPolicy", "PreemptLowerPriority")
    obj.setdefault("value", 0)


def default_crd(obj: Obj) -> None:
    """Complete a CustomResourceDefinition."""
    spec = obj.get("spec") or {}
    names = spec.get("names") or {}
    if names.get("kind"):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")
    spec.setdefault("conversion", {"strategy": "None"})


def default_webhooks(obj: Obj) -> None:
    """Complete a webhook configuration."""
    for hook in obj.get("webhooks") or ():
        hook.setdefault("failurePolicy", "Fail")
        hook.setdefault("matchPolicy", "Equivalent")
        hook.setdefault("namespaceSelector", {})
        hook.setdefault("objectSelector", {})
        hook.setdefault("timeoutSeconds", 10)


DEFAULTS = {
    ("", "Node"): default_node,
    ("", "Secret"): default_secret,
    (_RBAC, "RoleBinding"): default_binding,
    (_RBAC, "ClusterRoleBinding"): default_binding,
    (_RBAC, "Role"): default_role,
    (_RBAC, "ClusterRole"): default_role,
    ("storage.k8s.io", "StorageClass"): default_storage_class,
    ("", "PersistentVolumeClaim"): default_claim,
    ("", "PersistentVolume"): default_volume,
    ("scheduling.k8s.io", "PriorityClass"): default_priority_class,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): default_crd,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): default_webhooks,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): default_webhooks,
}
