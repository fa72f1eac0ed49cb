"""Rules of Node, ConfigMap, Secret, Lease, RBAC and PriorityClass."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator

from podwire.apiserver.errors import (
    FieldError,
    field_forbidden,
    invalid_value,
    required,
    too_long,
    unsupported,
)
from podwire.apiserver.validation import names
from podwire.apiserver.validation.values import check_at_least, check_cidr, check_immutable
from podwire.model.objects import Obj

_MAX_BYTES = 1 << 20
_TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_RBAC = "rbac.authorization.k8s.io"


def check_node(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a Node."""
    spec: Obj = new.get("spec") or {}
    seen = set()
    for n, taint in enumerate(spec.get("taints") or ()):
        path = f"spec.taints[{n}]"
        if why := names.qualified_problem(taint.get("key", "")):
            yield invalid_value(f"{path}.key", taint.get("key", ""), why)
        if why := names.label_value_problem(taint.get("value", "")):
            yield invalid_value(f"{path}.value", taint["value"], why)
        effect = taint.get("effect")
        if not effect:
            yield required(f"{path}.effect")
        elif effect not in _TAINT_EFFECTS:
            yield unsupported(f"{path}.effect", effect, _TAINT_EFFECTS)
        if (taint.get("key"), effect) in seen:
            why = "taints must be unique by key and effect pair"
            yield FieldError("FieldValueDuplicate", path, f"Duplicate value: {why}")
        seen.add((taint.get("key"), effect))
    for n, cidr in enumerate(spec.get("podCIDRs") or ()):
        yield from check_cidr(cidr, f"spec.podCIDRs[{n}]")
    if old is not None:
        before: Obj = old.get("spec") or {}
        for field in ("podCIDR", "podCIDRs", "providerID"):
            if before.get(field) and spec.get(field) != before[field]:
                yield field_forbidden(
                    f"spec.{field}", "node updates may not change " + field + ' except from "" to valid'
                )


def check_config_map(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a ConfigMap."""
    data, binary = new.get("data") or {}, new.get("binaryData") or {}
    size = 0
    for field, values in (("data", data), ("binaryData", binary)):
        for key, value in values.items():
            if why := names.config_key_problem(key):
                yield invalid_value(f"{field}[{key}]", key, why)
            size += len(value)
    for key in binary:
        if key in data:
            yield invalid_value(f"data[{key}]", key, "duplicate of key present in binaryData")
    if size > _MAX_BYTES:
        yield too_long("", _MAX_BYTES)
    yield from _check_frozen(new, old, ("data", "binaryData"))


def check_secret(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a Secret."""
    size = 0
    for key, value in (new.get("data") or {}).items():
        if why := names.config_key_problem(key):
            yield invalid_value(f"data[{key}]", key, why)
        try:
            size += len(b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            yield invalid_value(f"data[{key}]", "<secret contents redacted>", "illegal base64 data")
    if size > _MAX_BYTES:
        yield too_long("data", _MAX_BYTES)
    wanted = {
        "kubernetes.io/tls": ("tls.crt", "tls.key"),
        "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
        "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    }.get(new.get("type", ""), ())
    for key in wanted:
        if key not in (new.get("data") or {}):
            yield required(f"data[{key}]")
    if old is not None:
        yield from check_immutable(new.get("type"), old.get("type"), "type")
    yield from _check_frozen(new, old, ("data",))


def _check_frozen(new: Obj, old: Obj | None, fields: tuple[str, ...]) -> Iterator[FieldError]:
    if old is None or not old.get("immutable"):
        return
    if not new.get("immutable"):
        yield field_forbidden("immutable", "field is immutable when `immutable` is set")
    for field in fields:
        if (new.get(field) or {}) != (old.get(field) or {}):
            yield field_forbidden(field, "field is immutable when `immutable` is set")


def check_lease(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a Lease."""
    spec: Obj = new.get("spec") or {}
    yield from check_at_least(spec, "spec", "leaseDurationSeconds", 1)
    yield from check_at_least(spec, "spec", "leaseTransitions", 0)


def check_binding(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a RoleBinding or ClusterRoleBinding."""
    role: Obj = new.get("roleRef") or {}
    if role.get("apiGroup") != _RBAC:
        yield unsupported("roleRef.apiGroup", role.get("apiGroup"), (_RBAC,))
    allowed = ("Role", "ClusterRole") if new["kind"] == "RoleBinding" else ("ClusterRole",)
    if role.get("kind") not in allowed:
        yield unsupported("roleRef.kind", role.get("kind"), allowed)
    if not role.get("name"):
        yield required("roleRef.name")
    for n, subject in enumerate(new.get("subjects") or ()):
        path = f"subjects[{n}]"
        if not subject.get("name"):
            yield required(f"{path}.name")
        kind = subject.get("kind")
        if kind not in ("ServiceAccount", "User", "Group"):
            yield unsupported(f"{path}.kind", kind, ("ServiceAccount", "User", "Group"))
        if kind == "ServiceAccount" and not subject.get("namespace"):
            yield required(f"{path}.namespace")
    if old is not None and role != old.get("roleRef"):
        yield invalid_value("roleRef", role, "cannot change roleRef")


def check_role(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a Role or ClusterRole."""
    for n, rule in enumerate(new.get("rules") or ()):
        path = f"rules[{n}]"
        if not rule.get("verbs"):
            yield required(f"{path}.verbs", "verbs must contain at least one value")
        if rule.get("nonResourceURLs"):
            if new["kind"] == "Role":
                where = f"{path}.nonResourceURLs"
                yield invalid_value(
                    where, rule["nonResourceURLs"], "namespaced rules cannot apply to non-resource URLs"
                )
            continue
        if not rule.get("apiGroups"):
            yield required(f"{path}.apiGroups", "resource rules must supply at least one api group")
        if not rule.get("resources"):
            yield required(f"{path}.resources", "resource rules must supply at least one resource")


def check_priority_class(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a PriorityClass."""
    if new.get("value", 0) > 1000000000 and not new["metadata"]["name"].startswith("system-"):
        yield field_forbidden("value", "maximum allowed value of a user defined priority is 1000000000")
    if old is not None and new.get("value") != old.get("value"):
        yield field_forbidden("value", "may not be changed in an update.")


CHECKS = {
    ("", "Node"): check_node,
    ("", "ConfigMap"): check_config_map,
    ("", "Secret"): check_secret,
    ("coordination.k8s.io", "Lease"): check_lease,
    (_RBAC, "RoleBinding"): check_binding,
    (_RBAC, "ClusterRoleBinding"): check_binding,
    (_RBAC, "Role"): check_role,
    (_RBAC, "ClusterRole"): check_role,
    ("scheduling.k8s.io", "PriorityClass"): check_priority_class,
}
