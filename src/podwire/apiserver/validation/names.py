"""Names, labels and annotations: RFC 1123, RFC 1035 and Kubernetes' qualified names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from podwire.apiserver.errors import FieldError, duplicate, field_forbidden, invalid_value, required, too_long
from podwire.apiserver.kinds import Kind
from podwire.model.objects import Obj

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"[-a-z0-9]+")
_ENV_NAME = re.compile(r"[^\x00-\x1f=\x7f-\U0010ffff]+")
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")

LABEL_HELP = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
    "end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
LABEL_1035_HELP = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
    "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for "
    "validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN_HELP = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
NAME_PART_HELP = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
LABEL_VALUE_HELP = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_MAX_ANNOTATIONS = 256 << 10

# How objects of a kind may be named; a DNS subdomain unless stated.
_NAMED_BY_LABEL = frozenset({("", "Namespace")})
_NAMED_BY_LABEL_1035 = frozenset({("", "Service")})
_NAMED_BY_PATH = frozenset(
    ("rbac.authorization.k8s.io", k) for k in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
)


def label_problem(text: str) -> str:
    """Return what is wrong with a DNS label (RFC 1123), or ""."""
    if len(text) > 63:
        return "must be no more than 63 bytes"
    return "" if _LABEL.fullmatch(text) else LABEL_HELP


def label_1035_problem(text: str) -> str:
    """Return what is wrong with a DNS label that must begin with a letter (RFC 1035), or ""."""
    if len(text) > 63:
        return "must be no more than 63 bytes"
    return "" if _LABEL_1035.fullmatch(text) else LABEL_1035_HELP


def subdomain_problem(text: str) -> str:
    """Return what is wrong with a DNS subdomain (RFC 1123), or ""."""
    if len(text) > 253:
        return "must be no more than 253 bytes"
    return "" if _SUBDOMAIN.fullmatch(text) else SUBDOMAIN_HELP


def qualified_problem(text: str) -> str:
    """Return what is wrong with a label or annotation key, or ""."""
    prefix, slash, name = text.rpartition("/")
    if slash:
        if not prefix:
            return "prefix part must be non-empty"
        why = subdomain_problem(prefix)
        if why:
            return f"prefix part {why}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 bytes"
    return "" if _QUALIFIED.fullmatch(name) else NAME_PART_HELP


def label_value_problem(text: str) -> str:
    """Return what is wrong with a label's value, or ""."""
    if len(text) > 63:
        return "must be no more than 63 bytes"
    return "" if _VALUE.fullmatch(text) else LABEL_VALUE_HELP


def port_name_problem(text: str) -> str:
    """Return what is wrong with a port's name (IANA service name, RFC 6335), or ""."""
    if len(text) > 15:
        return "must be no more than 15 characters"
    if not _PORT_NAME.fullmatch(text):
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not any(c.isalpha() for c in text):
        return "must contain at least one letter (a-z)"
    if "--" in text:
        return "must not contain consecutive hyphens"
    if text[0] == "-" or text[-1] == "-":
        return "must not begin or end with a hyphen"
    return ""


def env_name_problem(text: str) -> str:
    """Return what is wrong with an environment variable's name (relaxed rule of 1.34), or ""."""
    if _ENV_NAME.fullmatch(text):
        return ""
    return "a valid environment variable name must consist only of printable ASCII characters other than '='"


def config_key_problem(text: str) -> str:
    """Return what is wrong with a key of a ConfigMap or Secret, or ""."""
    if len(text) > 253:
        return "must be no more than 253 bytes"
    if not _CONFIG_KEY.fullmatch(text):
        return (
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
            "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        )
    if text in (".", "..") or text.startswith(".."):
        return "must not start with '..'" if text.startswith("..") and text != ".." else f"must not be '{text}'"
    return ""


def name_problem(kind: Kind, name: str) -> str:
    """Return what is wrong with an object's name, or ""."""
    key = (kind.group, kind.kind)
    if key in _NAMED_BY_LABEL:
        return label_problem(name)
    if key in _NAMED_BY_LABEL_1035:
        return label_1035_problem(name)
    if key in _NAMED_BY_PATH:
        if name in (".", ".."):
            return f"may not be '{name}'"
        bad = [c for c in "/%" if c in name]
        return f"may not contain '{bad[0]}'" if bad else ""
    return subdomain_problem(name)


def check_metadata(kind: Kind, new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check what every object has."""
    meta = new["metadata"]
    if old is None:
        why = name_problem(kind, meta["name"])
        if why:
            yield invalid_value("metadata.name", meta["name"], why)
    labels = meta.get("labels")
    if labels:
        yield from check_labels(labels, "metadata.labels")
    annotations = meta.get("annotations")
    if annotations:
        yield from check_annotations(annotations)
    owners = meta.get("ownerReferences")
    if owners:
        yield from _check_owners(owners)
    finalizers = meta.get("finalizers")
    if finalizers:
        yield from _check_finalizers(finalizers, meta, old)


def check_labels(labels: Mapping[str, Any], path: str) -> Iterator[FieldError]:
    """Check a map of labels."""
    for key, value in labels.items():
        why = qualified_problem(key)
        if why:
            yield invalid_value(path, key, why)
        why = label_value_problem(value)
        if why:
            yield invalid_value(path, value, why)


def check_annotations(annotations: Mapping[str, Any], path: str = "metadata.annotations") -> Iterator[FieldError]:
    """Check annotations: keys, and the size of all of them."""
    size = 0
    for key, value in annotations.items():
        why = qualified_problem(key.lower())
        if why:
            yield invalid_value(path, key, why)
        size += len(key) + len(value)
    if size > _MAX_ANNOTATIONS:
        yield too_long(path, _MAX_ANNOTATIONS)


def _check_owners(owners: list[Obj]) -> Iterator[FieldError]:
    controllers = 0
    for n, owner in enumerate(owners):
        path = f"metadata.ownerReferences[{n}]"
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                yield invalid_value(f"{path}.{field}", owner.get(field, ""), f"{field} must not be empty")
        controllers += owner.get("controller") is True
    if controllers > 1:
        yield invalid_value("metadata.ownerReferences", owners, "Only one reference can have Controller set to true")


def _check_finalizers(finalizers: list[str], meta: Obj, old: Obj | None) -> Iterator[FieldError]:
    for n, finalizer in enumerate(finalizers):
        why = qualified_problem(finalizer)
        if why:
            yield invalid_value(f"metadata.finalizers[{n}]", finalizer, why)
    before = (old or {}).get("metadata", {}).get("finalizers") or ()
    if old is not None and "deletionTimestamp" in old["metadata"]:
        added = [f for f in finalizers if f not in before]
        if added:
            yield field_forbidden(
                "metadata.finalizers",
                f"no new finalizers can be added if the object is being deleted, found new finalizers {added}",
            )


def check_unique(values: list[Any], path: str, field: str = "name") -> Iterator[FieldError]:
    """Complain of values that are there twice."""
    seen = set()
    for n, value in enumerate(values):
        if value and value in seen:
            yield duplicate(f"{path}[{n}].{field}", value)
        seen.add(value)


def check_required(obj: Mapping[str, Any], path: str, *fields: str) -> Iterator[FieldError]:
    """Complain of fields that are absent or empty strings."""
    for field in fields:
        if obj.get(field) in (None, ""):
            yield required(f"{path}.{field}" if path else field)
