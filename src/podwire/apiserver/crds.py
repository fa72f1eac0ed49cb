"""CustomResourceDefinitions as kinds: what a CRD serves, and what its status says. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from podwire.apiserver.kinds import ALL_VERBS, Kind, Registry, ScalePaths, Subresource
from podwire.model.objects import Obj, with_condition

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_OPEN: Obj = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_STATUS_VERBS = ("get", "patch", "update")


def kinds_of(crd: Obj) -> Iterator[Kind]:
    """Yield the kinds that a CRD serves, one per served version."""
    spec = crd["spec"]
    names, group = spec["names"], spec["group"]
    versions = [v for v in spec["versions"] if v.get("served")]
    versions.sort(key=lambda v: version_rank(v["name"]))
    stored = next((v["name"] for v in spec["versions"] if v.get("storage")), versions[0]["name"] if versions else "")
    several = len(spec["versions"]) > 1
    for n, version in enumerate(versions):
        api_version = f"{group}/{version['name']}"
        yield Kind(
            group,
            version["name"],
            names["kind"],
            names["plural"],
            names.get("singular") or names["kind"].lower(),
            namespaced=spec.get("scope") == "Namespaced",
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            verbs=ALL_VERBS,
            subresources=_subresources(names["kind"], version.get("subresources") or {}),
            preferred=n == 0,
            storage=f"{names['plural']}.{group}",
            scale=_scale(version.get("subresources") or {}),
            selectable={f["jsonPath"].lstrip("."): _path(f["jsonPath"]) for f in version.get("selectableFields") or ()},
            to_stored=_relabel(f"{group}/{stored}") if several else None,
            from_stored=_relabel(api_version) if several else None,
            schema=(version.get("schema") or {}).get("openAPIV3Schema") or _OPEN,
            printer_columns=tuple(version.get("additionalPrinterColumns") or ()),
            list_kind=names.get("listKind") or names["kind"] + "List",
        )


def version_rank(name: str) -> tuple[int, int, int, str]:
    """Return the sort key of Kubernetes' version priority: v2, v1, v1beta2, v1beta1, v1alpha1, others."""
    match = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", name)
    if match is None:
        return (3, 0, 0, name)
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return (stage, -int(match[1]), -int(match[3] or 0), name)


def _relabel(api_version: str) -> Callable[[Obj], Obj]:
    return lambda obj: {**obj, "apiVersion": api_version}


def _path(text: str) -> tuple[str, ...]:
    return tuple(text.lstrip(".").split("."))


def _subresources(kind: str, given: Mapping[str, Any]) -> dict[str, Subresource]:
    found = {}
    if given.get("status") is not None:
        found["status"] = Subresource("status", _STATUS_VERBS, kind)
    if given.get("scale") is not None:
        found["scale"] = Subresource("scale", _STATUS_VERBS, "Scale", "autoscaling", "v1")
    return found


def _scale(given: Mapping[str, Any]) -> ScalePaths | None:
    scale = given.get("scale")
    if scale is None:
        return None
    return ScalePaths(
        _path(scale["specReplicasPath"]),
        _path(scale["statusReplicasPath"]),
        _path(scale.get("labelSelectorPath") or ""),
    )


def establish(crd: Obj, registry: Registry, now: str) -> None:
    """Write the status of a CRD: whether its names are free, and that it is served."""
    spec = crd["spec"]
    names = spec["names"]
    mine = f"{names['plural']}.{spec['group']}"
    taken = [
        k for k in registry if k.group == spec["group"] and k.storage != mine and names["kind"] in (k.kind, k.list_kind)
    ]
    status = crd.get("status") or {}
    stored = list(status.get("storedVersions") or ())
    stored += [v["name"] for v in spec["versions"] if v.get("storage") and v["name"] not in stored]
    conditions = status.get("conditions") or []
    accepted = {
        "type": "NamesAccepted",
        "status": "False" if taken else "True",
        "reason": "KindConflict" if taken else "NoConflicts",
        "message": f'"{names["kind"]}" is already in use' if taken else "no conflicts found",
    }
    established = {
        "type": "Established",
        "status": "False" if taken else "True",
        "reason": "NotAccepted" if taken else "InitialNamesAccepted",
        "message": "not all names are accepted" if taken else "the initial names have been accepted",
    }
    conditions = with_condition(with_condition(conditions, accepted, now), established, now)
    crd["status"] = {
        "conditions": conditions,
        "acceptedNames": {} if taken else names,
        "storedVersions": stored,
    }
    finalizers = crd["metadata"].setdefault("finalizers", [])
    if CLEANUP not in finalizers and "deletionTimestamp" not in crd["metadata"]:
        finalizers.append(CLEANUP)


def is_established(crd: Obj) -> bool:
    """Return whether the CRD's kinds are to be served."""
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
