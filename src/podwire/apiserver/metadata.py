"""ObjectMeta as the server keeps it: what it sets, what clients may change, when an object goes. Pure."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from typing import Any

from podwire.apiserver.errors import ApiStatusError, bad_request, conflict
from podwire.apiserver.kinds import Kind
from podwire.model.objects import Obj

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, no look-alikes: as Kubernetes' rand.String
_MAX_GENERATED_BASE = 58

_STORAGE = ("CSIDriver", "CSINode", "CSIStorageCapacity", "StorageClass", "VolumeAttachment")

# Kinds whose generation the server leaves alone.
_NO_GENERATION = frozenset(
    {
        ("", k)
        for k in [
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "Namespace",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ResourceQuota",
            "Secret",
            "Service",
            "ServiceAccount",
        ]
    }
    | {("events.k8s.io", "Event"), ("coordination.k8s.io", "Lease"), ("apps", "ControllerRevision")}
    | {("autoscaling", "HorizontalPodAutoscaler"), ("certificates.k8s.io", "CertificateSigningRequest")}
    | {("rbac.authorization.k8s.io", k) for k in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")}
    | {("storage.k8s.io", k) for k in _STORAGE}
    | {("node.k8s.io", "RuntimeClass"), ("networking.k8s.io", "IPAddress"), ("networking.k8s.io", "ServiceCIDR")}
)


def has_generation(kind: Kind) -> bool:
    """Return whether the server counts changes of this kind's desired state."""
    return (kind.group, kind.kind) not in _NO_GENERATION


def generate_name(base: str) -> str:
    """Return ``base`` with five random characters."""
    return base[:_MAX_GENERATED_BASE] + "".join(random.choices(_ALPHABET, k=5))


def begin(kind: Kind, obj: Obj, namespace: str, name: str, now: str) -> None:
    """Fill in the metadata of an object that is created. Raises 400."""
    meta = obj.setdefault("metadata", {})
    check_identity(kind, obj, namespace, name)
    if meta.get("resourceVersion"):
        raise bad_request("resourceVersion should not be set on objects to be created")
    if not meta.get("name") and not meta.get("generateName"):
        raise bad_request("name or generateName is required")
    for gone in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"):
        meta.pop(gone, None)
    meta["uid"] = str(uuid.uuid4())
    meta["creationTimestamp"] = now
    if has_generation(kind):
        meta["generation"] = 1


def check_identity(kind: Kind, obj: Obj, namespace: str, name: str) -> None:
    """Complete apiVersion, kind and namespace from the path, or refuse a body that disagrees (400)."""
    if obj.setdefault("apiVersion", kind.api_version) != kind.api_version:
        raise bad_request(
            f"the API version in the data ({obj['apiVersion']}) does not match the expected API version "
            f"({kind.api_version})"
        )
    if obj.setdefault("kind", kind.kind) != kind.kind:
        raise bad_request(f'the object provided is unrecognized: it is a "{obj["kind"]}", not a "{kind.kind}"')
    meta = obj["metadata"]
    given = meta.get("namespace") or namespace
    if given != namespace:
        raise bad_request(
            f"the namespace of the provided object does not match the namespace sent on the request "
            f"({namespace!r} expected, {given!r} given)"
            if kind.namespaced
            else "namespace may not be set on a cluster-scoped object"
        )
    if namespace:
        meta["namespace"] = namespace
    else:
        meta.pop("namespace", None)
    if name and meta.get("name", name) != name:
        raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    if name:
        meta["name"] = name


def carry_over(kind: Kind, new: Obj, old: Obj) -> None:
    """Put back what clients cannot change; refuse an update of another object or an older state (409)."""
    meta, before = new["metadata"], old["metadata"]
    name = before["name"]
    version = meta.get("resourceVersion")
    if version and version != before["resourceVersion"]:
        raise conflict(kind, name)
    if meta.get("uid") and meta["uid"] != before["uid"]:
        raise conflict(kind, name, uid_mismatch(meta["uid"], before["uid"]))
    for field in (
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
    ):
        if field in before:
            meta[field] = before[field]
        else:
            meta.pop(field, None)
    meta.pop("selfLink", None)


def uid_mismatch(wanted: str, actual: str) -> str:
    """Return what is said of a failed precondition on the uid."""
    return f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}"


def desired_changed(kind: Kind, new: Obj, old: Obj) -> bool:
    """Return whether an update changes the desired state, which bumps the generation."""
    if not kind.is_custom and "spec" in old:
        return bool(new.get("spec") != old.get("spec"))
    ignored = {"metadata", "status"} if kind.has_status else {"metadata"}
    return {k: v for k, v in new.items() if k not in ignored} != {k: v for k, v in old.items() if k not in ignored}


def check_preconditions(kind: Kind, obj: Obj, preconditions: Mapping[str, Any] | None) -> None:
    """Refuse (409) when DeleteOptions' preconditions do not hold."""
    if not preconditions:
        return
    meta = obj["metadata"]
    uid, version = preconditions.get("uid"), preconditions.get("resourceVersion")
    if uid and uid != meta["uid"]:
        raise conflict(kind, meta["name"], uid_mismatch(uid, meta["uid"]))
    if version and version != meta["resourceVersion"]:
        raise conflict(
            kind,
            meta["name"],
            f"Precondition failed: ResourceVersion in precondition: {version}, "
            f"ResourceVersion in object meta: {meta['resourceVersion']}",
        )


def set_propagation(obj: Obj, options: Mapping[str, Any]) -> None:
    """Turn DeleteOptions' propagationPolicy into the finalizers that the garbage collector acts on."""
    policy = options.get("propagationPolicy")
    if policy is None and options.get("orphanDependents") is not None:
        policy = "Orphan" if options["orphanDependents"] else "Background"
    if policy not in (None, "Foreground", "Background", "Orphan"):
        raise _bad_policy(policy)
    if policy is None:
        return
    meta = obj["metadata"]
    kept = [f for f in meta.get("finalizers") or () if f not in (FOREGROUND, ORPHAN)]
    if policy != "Background":
        kept.append(FOREGROUND if policy == "Foreground" else ORPHAN)
    if kept:
        meta["finalizers"] = kept
    else:
        meta.pop("finalizers", None)


def _bad_policy(policy: str) -> ApiStatusError:
    return ApiStatusError(
        422,
        "Invalid",
        f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "{policy}": '
        'supported values: "Foreground", "Background", "Orphan", "nil"',
    )


def is_finished(kind: Kind, obj: Obj) -> bool:
    """Return whether nothing holds an object any more whose deletion was asked for."""
    meta = obj["metadata"]
    if "deletionTimestamp" not in meta or meta.get("finalizers"):
        return False
    if (kind.group, kind.kind) == ("", "Namespace") and (obj.get("spec") or {}).get("finalizers"):
        return False
    return not meta.get("deletionGracePeriodSeconds")
