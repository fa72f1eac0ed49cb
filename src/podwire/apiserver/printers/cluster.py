"""Nodes, namespaces, configuration, events, access rules, storage and classes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from podwire.apiserver.printers.column import (
    AGE,
    CREATED_AT,
    NAME,
    NONE,
    UNKNOWN,
    UNSET,
    Cells,
    Column,
    Printer,
    age,
    columns,
    duration,
    since,
    spec_of,
    status_of,
)
from podwire.model.objects import Obj, annotations_of, condition, labels_of, parse_timestamp

_ROLE_PREFIX = "node-role.kubernetes.io/"


def _name(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def _node_roles(node: Obj) -> str:
    labels = labels_of(node)
    roles = {k[len(_ROLE_PREFIX) :] for k in labels if k.startswith(_ROLE_PREFIX)}
    roles |= {v for k, v in labels.items() if k == "kubernetes.io/role" and v}
    return ",".join(sorted(r for r in roles if r)) or NONE


def _node_address(node: Obj, type: str) -> str:
    for address in status_of(node).get("addresses") or ():
        if address.get("type") == type:
            return str(address.get("address"))
    return NONE


def _node(node: Obj, now: datetime) -> list[Any]:
    ready = condition(node, "Ready")
    state = "Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"
    if spec_of(node).get("unschedulable"):
        state += ",SchedulingDisabled"
    system = status_of(node).get("nodeInfo") or {}
    return [
        _name(node),
        state,
        _node_roles(node),
        age(node, now),
        system.get("kubeletVersion") or "",
        _node_address(node, "InternalIP"),
        _node_address(node, "ExternalIP"),
        system.get("osImage") or UNKNOWN,
        system.get("kernelVersion") or UNKNOWN,
        system.get("containerRuntimeVersion") or UNKNOWN,
    ]


def _source(event: Obj) -> str:
    source = event.get("source") or event.get("deprecatedSource") or {}
    parts = (source.get("component") or event.get("reportingController") or event.get("reportingComponent"),
             source.get("host") or event.get("reportingInstance"))  # fmt: skip
    return ", ".join(p for p in parts if p)


def _event(event: Obj, now: datetime) -> list[Any]:
    """Read both generations of events: core/v1 (count, firstTimestamp) and events.k8s.io/v1 (series)."""
    involved = event.get("involvedObject") or event.get("regarding") or {}
    first = event.get("firstTimestamp") or event.get("deprecatedFirstTimestamp") or event.get("eventTime")
    last = event.get("lastTimestamp") or event.get("deprecatedLastTimestamp") or first
    series = event.get("series") or {}
    count = series.get("count") or event.get("count") or event.get("deprecatedCount") or 1
    last = series.get("lastObservedTime") or last
    seen = since(last, now)
    if count > 1 and first:
        seen = f"{seen} (x{count} over {since(first, now)})"
    return [
        seen,
        event.get("type") or "",
        event.get("reason") or "",
        f"{(involved.get('kind') or '').lower()}/{involved.get('name') or ''}",
        involved.get("fieldPath") or "",
        _source(event),
        (event.get("message") or event.get("note") or "").strip(),
        since(first, now),
        count,
        _name(event),
    ]


def _binding(obj: Obj, now: datetime) -> list[Any]:
    role = obj.get("roleRef") or {}
    by_kind: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        name = subject.get("name", "")
        if subject.get("kind") == "ServiceAccount":
            name = f"{subject.get('namespace', '')}/{name}"
        by_kind.setdefault(subject.get("kind", ""), []).append(name)
    return [
        _name(obj),
        f"{role.get('kind')}/{role.get('name')}",
        age(obj, now),
        *(", ".join(by_kind[k]) for k in ("User", "Group", "ServiceAccount")),
    ]


_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def _storage_class(obj: Obj, now: datetime) -> list[Any]:
    default = " (default)" if annotations_of(obj).get(_DEFAULT_CLASS) == "true" else ""
    return [
        _name(obj) + default,
        obj.get("provisioner"),
        obj.get("reclaimPolicy") or "Delete",
        obj.get("volumeBindingMode") or "Immediate",
        bool(obj.get("allowVolumeExpansion")),
        age(obj, now),
    ]


_MODES = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


def _modes(spec: Mapping[str, Any]) -> str:
    return ",".join(_MODES.get(m, m) for m in spec.get("accessModes") or ())


def _state(obj: Obj) -> str:
    return "Terminating" if obj["metadata"].get("deletionTimestamp") else status_of(obj).get("phase") or ""


def _volume(obj: Obj, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    claim = spec.get("claimRef")
    return [
        _name(obj),
        (spec.get("capacity") or {}).get("storage", ""),
        _modes(spec),
        spec.get("persistentVolumeReclaimPolicy") or "",
        _state(obj),
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or UNSET,
        status_of(obj).get("reason") or "",
        age(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _claim(obj: Obj, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    bound = bool(spec.get("volumeName"))
    return [
        _name(obj),
        _state(obj),
        spec.get("volumeName") or "",
        (status.get("capacity") or {}).get("storage", "") if bound else "",
        _modes(status) if bound else "",
        spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or UNSET,
        age(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _quota(obj: Obj, now: datetime) -> list[Any]:
    status = status_of(obj)
    used = status.get("used") or {}
    hard = sorted((status.get("hard") or spec_of(obj).get("hard") or {}).items())
    requests = [f"{k}: {used.get(k, '0')}/{v}" for k, v in hard if not k.startswith("limits.")]
    limits = [f"{k}: {used.get(k, '0')}/{v}" for k, v in hard if k.startswith("limits.")]
    return [_name(obj), ", ".join(requests), ", ".join(limits), age(obj, now)]


def _priority_class(obj: Obj, now: datetime) -> list[Any]:
    return [
        _name(obj),
        obj.get("value"),
        bool(obj.get("globalDefault")),
        age(obj, now),
        obj.get("preemptionPolicy") or "PreemptLowerPriority",
    ]


def _signing_request(obj: Obj, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    types = [c.get("type") for c in status_of(obj).get("conditions") or ()]
    state = "Denied" if "Denied" in types else "Approved" if "Approved" in types else "Pending"
    state += ",Failed" if "Failed" in types else ""
    state += ",Issued" if status_of(obj).get("certificate") else ""
    seconds = spec.get("expirationSeconds")
    lifetime = NONE if seconds is None else duration(seconds)
    return [_name(obj), age(obj, now), spec.get("signerName"), spec.get("username"), lifetime, state]


def _created_at(obj: Obj, now: datetime) -> list[Any]:
    moment = obj["metadata"].get("creationTimestamp")
    return [_name(obj), parse_timestamp(moment).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else UNKNOWN]


def generic_cells(obj: Obj, now: datetime) -> list[Any]:
    """Return NAME and AGE: what every kind has."""
    return [_name(obj), age(obj, now)]


def _counting(field: str) -> Cells:
    def cells(obj: Obj, now: datetime) -> list[Any]:
        return [_name(obj), len(obj.get(field) or ()), age(obj, now)]

    return cells


def _config_map(obj: Obj, now: datetime) -> list[Any]:
    return [_name(obj), len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), age(obj, now)]


def _secret(obj: Obj, now: datetime) -> list[Any]:
    return [_name(obj), obj.get("type") or "Opaque", len(obj.get("data") or ()), age(obj, now)]


def _lease(obj: Obj, now: datetime) -> list[Any]:
    return [_name(obj), spec_of(obj).get("holderIdentity") or "", age(obj, now)]


def _namespace(obj: Obj, now: datetime) -> list[Any]:
    return [_name(obj), status_of(obj).get("phase") or "", age(obj, now)]


def _runtime_class(obj: Obj, now: datetime) -> list[Any]:
    return [_name(obj), obj.get("handler"), age(obj, now)]


GENERIC = Printer((NAME, AGE), generic_cells)
_CREATED = Printer((NAME, CREATED_AT), _created_at)
_BINDING = Printer(columns("Name", "Role", "Age", "Users+", "Groups+", "ServiceAccounts+"), _binding)
_WEBHOOKS = Printer(columns("Name", "Webhooks:integer", "Age"), _counting("webhooks"))
_EVENT = Printer(
    (
        *columns("Last Seen", "Type", "Reason", "Object", "Subobject+", "Source+", "Message", "First Seen+"),
        *columns("Count:integer+"),
        Column("Name", format="name", priority=1),
    ),
    _event,
)
_RBAC = "rbac.authorization.k8s.io"
PRINTERS = {
    ("", "Node"): Printer(
        columns(
            "Name", "Status", "Roles", "Age", "Version", "Internal-IP+", "External-IP+", "OS-Image+",
            "Kernel-Version+", "Container-Runtime+",
        ),
        _node,
    ),
    ("", "Namespace"): Printer(columns("Name", "Status", "Age"), _namespace),
    ("", "ConfigMap"): Printer(columns("Name", "Data", "Age"), _config_map),
    ("", "Secret"): Printer(columns("Name", "Type", "Data", "Age"), _secret),
    ("", "ServiceAccount"): Printer(columns("Name", "Secrets", "Age"), _counting("secrets")),
    ("", "Event"): _EVENT,
    ("events.k8s.io", "Event"): _EVENT,
    ("", "ResourceQuota"): Printer(columns("Name", "Request", "Limit", "Age"), _quota),
    ("", "LimitRange"): _CREATED,
    ("", "PersistentVolume"): Printer(
        columns(
            "Name", "Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass",
            "VolumeAttributesClass", "Reason", "Age", "VolumeMode+",
        ),
        _volume,
    ),
    ("", "PersistentVolumeClaim"): Printer(
        columns(
            "Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass",
            "VolumeAttributesClass", "Age", "VolumeMode+",
        ),
        _claim,
    ),
    ("coordination.k8s.io", "Lease"): Printer(columns("Name", "Holder", "Age"), _lease),
    (_RBAC, "Role"): _CREATED,
    (_RBAC, "ClusterRole"): _CREATED,
    (_RBAC, "RoleBinding"): _BINDING,
    (_RBAC, "ClusterRoleBinding"): _BINDING,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _CREATED,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _WEBHOOKS,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): _WEBHOOKS,
    ("storage.k8s.io", "StorageClass"): Printer(
        columns(
            "Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"
        ),
        _storage_class,
    ),
    ("scheduling.k8s.io", "PriorityClass"): Printer(
        columns("Name", "Value:integer", "Global-Default:boolean", "Age", "PreemptionPolicy"),
        _priority_class,
    ),
    ("node.k8s.io", "RuntimeClass"): Printer(columns("Name", "Handler", "Age"), _runtime_class),
    ("certificates.k8s.io", "CertificateSigningRequest"): Printer(
        columns("Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"),
        _signing_request,
    ),
}  # fmt: skip
