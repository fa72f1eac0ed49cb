"""The endpoints that a Service ought to have, from its pods. Pure.

Source: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/ and KEP-1672 (terminating).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, NamedTuple

from podwire.controllers.pods.state import is_finished, node_of
from podwire.model.objects import Obj, is_deleting, is_ready, labels_of
from podwire.model.selectors import Selector, from_map

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
ZONE = "topology.kubernetes.io/zone"

Family = Literal["IPv4", "IPv6"]


class Port(NamedTuple):
    """One port of a slice. Equal tuples of ports share slices."""

    name: str
    protocol: str
    port: int
    app_protocol: str = ""

    def render(self) -> Obj:
        """Return the EndpointPort."""
        port: Obj = {"name": self.name, "protocol": self.protocol, "port": self.port}
        if self.app_protocol:
            port["appProtocol"] = self.app_protocol
        return port


class Group(NamedTuple):
    """What a slice has one of: address family and set of ports."""

    family: Family
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address that answers for a Service. ``uid`` "" when no pod stands behind it."""

    address: str
    ready: bool
    serving: bool
    terminating: bool
    node: str = ""
    zone: str = ""
    hostname: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    kind: str = "Pod"
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[str, str]:
        """What stays the same while its conditions change."""
        return (self.address, self.uid)

    def render(self) -> Obj:
        """Return the Endpoint of discovery.k8s.io/v1."""
        endpoint: Obj = {
            "addresses": [self.address],
            "conditions": {"ready": self.ready, "serving": self.serving, "terminating": self.terminating},
        }
        for name, value in (("hostname", self.hostname), ("nodeName", self.node), ("zone", self.zone)):
            if value:
                endpoint[name] = value
        if self.name:
            ref = {"kind": self.kind, "namespace": self.namespace, "name": self.name, "uid": self.uid}
            endpoint["targetRef"] = {k: v for k, v in ref.items() if v}
        hints = {"forZones": self.for_zones, "forNodes": self.for_nodes}
        if any(hints.values()):
            endpoint["hints"] = {k: [{"name": n} for n in names] for k, names in hints.items() if names}
        return endpoint


def selector_of(service: Obj) -> Selector | None:
    """Return the Service's selector; None when it has none, or needs none (ExternalName)."""
    spec = service.get("spec") or {}
    labels = spec.get("selector")
    if not labels or spec.get("type") == "ExternalName":
        return None
    return from_map(labels)


def is_headless(service: Obj) -> bool:
    """Return whether the Service has no cluster IP on purpose."""
    return (service.get("spec") or {}).get("clusterIP") == "None"


def families_of(service: Obj) -> tuple[Family, ...]:
    """Return the address families of a Service, the primary one first."""
    spec = service.get("spec") or {}
    families = spec.get("ipFamilies")
    if families:
        return tuple(families)
    address = spec.get("clusterIP") or ""
    if address and address != "None":
        return (family_of(address),)
    return ("IPv4",)


def family_of(address: str) -> Family:
    """Return the family of an address."""
    return "IPv6" if ip_address(address).version == 6 else "IPv4"


def addresses_of(pod: Obj, family: Family) -> str:
    """Return the pod's address of one family; "" when it has none (yet)."""
    status = pod.get("status") or {}
    found = [e["ip"] for e in status.get("podIPs") or () if e.get("ip")]
    found = found or ([status["podIP"]] if status.get("podIP") else [])
    return next((a for a in found if family_of(a) == family), "")


def ports_of(service: Obj, pod: Obj) -> tuple[Port, ...]:
    """Return the ports of one pod for a Service: a named targetPort may differ from pod to pod.

    A name that the pod does not have is left out. No targetPort means the Service's own number.
    """
    ports = []
    for p in (service.get("spec") or {}).get("ports") or ():
        protocol = p.get("protocol") or "TCP"
        number = _target_port(p.get("targetPort", p["port"]) or p["port"], protocol, pod)
        if number:
            ports.append(Port(p.get("name") or "", protocol, number, p.get("appProtocol") or ""))
    return tuple(ports)


def _target_port(target: Any, protocol: str, pod: Obj) -> int:
    if isinstance(target, int) or str(target).isdigit():
        return int(target)
    spec = pod.get("spec") or {}
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *sidecars]:
        for port in container.get("ports") or ():
            if port.get("name") == target and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
    return 0


def endpoint_of(service: Obj, pod: Obj, address: str, zones: Mapping[str, str]) -> Endpoint:
    """Return the endpoint of one pod. Ready never holds for a pod that is terminating (KEP-1672)."""
    spec, meta = pod.get("spec") or {}, pod["metadata"]
    serving, terminating = is_ready(pod), is_deleting(pod)
    always = bool((service.get("spec") or {}).get("publishNotReadyAddresses"))
    named = spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]
    return Endpoint(
        address=address,
        ready=always or (serving and not terminating),
        serving=serving,
        terminating=terminating,
        node=node_of(pod),
        zone=zones.get(node_of(pod), ""),
        hostname=spec["hostname"] if named else "",
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        uid=meta["uid"],
    )


def plan_endpoints(service: Obj, pods: Iterable[Obj], zones: Mapping[str, str]) -> dict[Group, tuple[Endpoint, ...]]:
    """Return the endpoints of a Service by group, sorted by address; ``pods`` are those it selects.

    Finished pods and pods without an address of the family are left out. Empty when no pod is left.
    """
    groups: dict[Group, list[Endpoint]] = {}
    living = [p for p in pods if not is_finished(p)]
    for family in families_of(service):
        for pod in living:
            address = addresses_of(pod, family)
            if address:
                group = Group(family, ports_of(service, pod))
                groups.setdefault(group, []).append(endpoint_of(service, pod, address, zones))
    return {g: tuple(sorted(es, key=lambda e: e.identity)) for g, es in groups.items()}


def slice_labels(service: Obj) -> dict[str, str]:
    """Return the labels of a Service's slices: its own, and those that name it."""
    labels = {k: v for k, v in labels_of(service).items() if k not in (SERVICE_NAME, MANAGED_BY, HEADLESS)}
    labels[SERVICE_NAME] = service["metadata"]["name"]
    labels[MANAGED_BY] = CONTROLLER
    if is_headless(service):
        labels[HEADLESS] = ""
    return labels


def pod_facts(pod: Obj) -> tuple[object, ...]:
    """Return what of a pod an endpoint depends on; when it stays equal, no slice changes."""
    status, spec = pod.get("status") or {}, pod.get("spec") or {}
    return (
        labels_of(pod),
        status.get("podIPs"),
        status.get("podIP"),
        node_of(pod),
        is_ready(pod),
        is_deleting(pod),
        is_finished(pod),
        spec.get("hostname"),
        spec.get("subdomain"),
    )
