"""The older Endpoints object of a Service, and Endpoints that people make by hand. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from podwire.controllers.endpoints.plan import (
    HEADLESS,
    MANAGED_BY,
    SERVICE_NAME,
    TRIGGER_TIME,
    Endpoint,
    Group,
    Port,
    families_of,
    family_of,
    is_headless,
)
from podwire.model.objects import Obj, annotations_of, labels_of

CAPACITY = 1000
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
ENDPOINTS_MANAGED_BY = "endpoints.kubernetes.io/managed-by"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"
MIRRORER = "endpointslicemirroring-controller.k8s.io"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def plan_legacy(service: Obj, wanted: Mapping[Group, Sequence[Endpoint]], trigger_time: str) -> Obj:
    """Return the Endpoints object: the primary family, ready and not ready addresses, at most 1000.

    Terminating endpoints are left out unless the Service publishes what is not ready.
    """
    family = families_of(service)[0]
    always = bool(service["spec"].get("publishNotReadyAddresses"))
    left, truncated = CAPACITY, False
    subsets = []
    for group in sorted(g for g in wanted if g.family == family):
        endpoints = [e for e in wanted[group] if always or not e.terminating]
        endpoints.sort(key=lambda e: (not e.ready, e.address))
        truncated = truncated or len(endpoints) > left
        endpoints = endpoints[:left]
        left -= len(endpoints)
        if endpoints and (group.ports or is_headless(service)):
            subsets.append(_subset(group, endpoints))
    meta = service["metadata"]
    labels = {**labels_of(service), ENDPOINTS_MANAGED_BY: "endpoint-controller"}
    if is_headless(service):
        labels[HEADLESS] = ""
    metadata: Obj = {"name": meta["name"], "namespace": meta["namespace"], "labels": labels}
    annotations = {}
    if trigger_time:
        annotations[TRIGGER_TIME] = trigger_time
    if truncated:
        annotations[OVER_CAPACITY] = "truncated"
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}


def _subset(group: Group, endpoints: Sequence[Endpoint]) -> Obj:
    ready = [_address(e) for e in endpoints if e.ready]
    waiting = [_address(e) for e in endpoints if not e.ready]
    subset: Obj = {}
    if ready:
        subset["addresses"] = ready
    if waiting:
        subset["notReadyAddresses"] = waiting
    if group.ports:
        subset["ports"] = [_port(p) for p in group.ports]
    return subset


def _port(port: Port) -> Obj:
    rendered = port.render()
    if not rendered["name"]:
        del rendered["name"]
    return rendered


def _address(endpoint: Endpoint) -> Obj:
    address: Obj = {"ip": endpoint.address}
    if endpoint.hostname:
        address["hostname"] = endpoint.hostname
    if endpoint.node:
        address["nodeName"] = endpoint.node
    address["targetRef"] = {
        "kind": "Pod", "namespace": endpoint.namespace, "name": endpoint.name, "uid": endpoint.uid,
    }  # fmt: skip
    return address


def says_the_same(a: Obj, b: Obj) -> bool:
    """Return whether two Endpoints differ at most in when they were written."""

    def content(o: Obj) -> tuple[object, ...]:
        annotations = {k: v for k, v in annotations_of(o).items() if k == OVER_CAPACITY}
        return (o.get("subsets") or [], dict(labels_of(o)), annotations)

    return content(a) == content(b)


def should_mirror(endpoints: Obj, service: Obj | None) -> bool:
    """Return whether slices are made of hand-made Endpoints: their Service exists and selects nothing."""
    if service is None or (service.get("spec") or {}).get("selector"):
        return False
    if labels_of(endpoints).get(SKIP_MIRROR) == "true":
        return False
    return LEADER not in annotations_of(endpoints)


def parse_legacy(endpoints: Obj, zones: Mapping[str, str]) -> dict[Group, tuple[Endpoint, ...]]:
    """Return the endpoints of hand-made Endpoints by group; at most 1000 per subset; bad addresses left out."""
    groups: dict[Group, dict[tuple[str, str], Endpoint]] = {}
    for subset in endpoints.get("subsets") or ():
        ports = tuple(
            Port(p.get("name") or "", p.get("protocol") or "TCP", p["port"], p.get("appProtocol") or "")
            for p in subset.get("ports") or ()
        )
        entries = [(a, True) for a in subset.get("addresses") or ()]
        entries += [(a, False) for a in subset.get("notReadyAddresses") or ()]
        for address, ready in entries[:CAPACITY]:
            try:
                group = Group(family_of(address["ip"]), ports)
            except ValueError:
                continue
            endpoint = _parse_address(address, ready, zones)
            groups.setdefault(group, {}).setdefault(endpoint.identity, endpoint)
    return {g: tuple(es[i] for i in sorted(es)) for g, es in groups.items()}


def _parse_address(address: Obj, ready: bool, zones: Mapping[str, str]) -> Endpoint:
    ref, node = address.get("targetRef") or {}, address.get("nodeName") or ""
    return Endpoint(
        address=address["ip"], ready=ready, serving=ready, terminating=False, node=node,
        zone=zones.get(node, ""), hostname=address.get("hostname") or "", kind=ref.get("kind", "Pod"),
        namespace=ref.get("namespace", ""), name=ref.get("name", ""), uid=ref.get("uid", ""),
    )  # fmt: skip


def mirror_labels(endpoints: Obj) -> dict[str, str]:
    """Return the labels of mirrored slices."""
    labels = {k: v for k, v in labels_of(endpoints).items() if k not in (SERVICE_NAME, MANAGED_BY)}
    return {**labels, SERVICE_NAME: endpoints["metadata"]["name"], MANAGED_BY: MIRRORER}


def mirror_annotations(endpoints: Obj) -> dict[str, str]:
    """Return the annotations that mirrored slices carry over."""
    return {k: v for k, v in annotations_of(endpoints).items() if k not in (TRIGGER_TIME, LAST_APPLIED)}
