"""Discovery: which groups, versions and resources are served; /version. Pure.

Aggregated discovery (KEP-3352) answers ``/api`` and ``/apis`` when the Accept header asks for
``APIGroupDiscoveryList``; the older documents serve everyone else.
"""

from __future__ import annotations

from typing import Any

from podwire import KUBERNETES_VERSION
from podwire.apiserver.kinds import Kind, Registry, Subresource
from podwire.model.objects import Obj

_DISCOVERY = "apidiscovery.k8s.io/v2"


def version() -> Obj:
    """Return /version."""
    major, minor, _ = KUBERNETES_VERSION.split(".")
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "gitVersion": f"v{KUBERNETES_VERSION}+podwire",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "python",
        "platform": "linux/amd64",
    }


def legacy_versions(host: str) -> Obj:
    """Return /api."""
    address = {"clientCIDR": "0.0.0.0/0", "serverAddress": host}
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [address]}


def groups(registry: Registry) -> Obj:
    """Return /apis."""
    found = registry.group_versions()
    listed = [group(registry, name) for name in found if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def group(registry: Registry, name: str) -> Obj | None:
    """Return /apis/GROUP; None when nothing of that group is served."""
    versions = registry.group_versions().get(name)
    if not name or not versions:
        return None
    entries = [{"groupVersion": f"{name}/{v}", "version": v} for v in versions]
    answer: Obj = {"name": name, "versions": entries, "preferredVersion": entries[0]}
    return {"kind": "APIGroup", "apiVersion": "v1"} | answer


def resources(registry: Registry, group: str, version: str) -> Obj | None:
    """Return /api/v1 or /apis/GROUP/VERSION; None when nothing is served there."""
    found = registry.of_group_version(group, version)
    if not found:
        return None
    listed: list[Obj] = []
    for kind in found:
        listed.append(_resource(kind))
        listed += [_subresource(kind, s) for s in kind.subresources.values()]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": listed,
    }


def _resource(kind: Kind) -> Obj:
    entry: dict[str, Any] = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": sorted(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    return entry


def _subresource(kind: Kind, sub: Subresource) -> Obj:
    entry: dict[str, Any] = {
        "name": f"{kind.plural}/{sub.name}",
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": sub.kind,
        "verbs": sorted(sub.verbs),
    }
    if sub.version:
        entry |= {"group": sub.group, "version": sub.version}
    return entry


def aggregated(registry: Registry, *, core: bool) -> Obj:
    """Return the APIGroupDiscoveryList of the core group, or of all others."""
    items = []
    for name, versions in registry.group_versions().items():
        if (name == "") is core:
            items.append(
                {
                    "metadata": {"name": name, "creationTimestamp": None},
                    "versions": [_aggregated_version(registry, name, v) for v in versions],
                }
            )
    return {"kind": "APIGroupDiscoveryList", "apiVersion": _DISCOVERY, "metadata": {}, "items": items}


def _aggregated_version(registry: Registry, group: str, version: str) -> Obj:
    listed = [_aggregated_resource(k) for k in registry.of_group_version(group, version)]
    return {"version": version, "resources": listed, "freshness": "Current"}


def _aggregated_resource(kind: Kind) -> Obj:
    entry: dict[str, Any] = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": sorted(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if kind.subresources:
        entry["subresources"] = [
            {
                "subresource": s.name,
                "responseKind": {
                    "group": s.group or (kind.group if not s.version else ""),
                    "version": s.version or kind.version,
                    "kind": s.kind,
                },
                "verbs": sorted(s.verbs),
            }
            for s in kind.subresources.values()
        ]
    return entry
