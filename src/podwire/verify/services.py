"""Services and what stands behind them: which pods receive, on which port, and why the others do not. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podwire.model.objects import Key, condition, is_deleting
from podwire.model.selectors import from_map
from podwire.model.serviceslices import SERVICE_NAME_LABEL
from podwire.verify.located import LIVE, Located
from podwire.verify.workloads import PodView


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service. ``target``: a number or the name of a container's port."""

    name: str
    protocol: str
    port: int
    target: int | str
    node_port: int
    path: str  # "spec.ports[0]"


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A Service, read."""

    key: Key
    located: Located
    type: str
    headless: bool
    ips: tuple[str, ...]  # cluster, external and load-balancer addresses
    selector: Mapping[str, str]
    ports: tuple[ServicePort, ...]
    keeps_client: bool  # externalTrafficPolicy: Local
    publishes_unready: bool
    external_name: str = ""

    @property
    def is_open_outside(self) -> bool:
        """Whether clients outside the cluster have a way in."""
        return self.type in ("NodePort", "LoadBalancer") or bool(self.located.object["spec"].get("externalIPs"))


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a Service sends connections: a pod of the cluster, or an address that is none's (pod None)."""

    pod: PodView | None
    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Excluded:
    """A pod that the selector matches and that receives nothing."""

    pod: PodView
    why: str


def read_service(located: Located) -> ServiceView:
    """Return a Service as values."""
    obj = located.object
    spec = obj.get("spec") or {}
    balancer = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    cluster_ips = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    ips = [ip for ip in cluster_ips if ip and ip != "None"] + list(spec.get("externalIPs") or ())
    annotations = obj["metadata"].get("annotations") or {}
    tolerated = annotations.get("service.alpha.kubernetes.io/tolerate-unready-endpoints") == "true"
    return ServiceView(
        key=Key(located.key.namespace, located.key.name),
        located=located,
        type=spec.get("type") or "ClusterIP",
        headless=spec.get("clusterIP") == "None",
        ips=(*ips, *(b["ip"] for b in balancer if b.get("ip"))),
        selector=spec.get("selector") or {},
        ports=tuple(_port(p, f"spec.ports[{i}]") for i, p in enumerate(spec.get("ports") or ())),
        keeps_client=spec.get("externalTrafficPolicy") == "Local",
        publishes_unready=bool(spec.get("publishNotReadyAddresses")) or tolerated,
        external_name=spec.get("externalName") or "" if spec.get("type") == "ExternalName" else "",
    )


def _port(port: Mapping[str, Any], path: str) -> ServicePort:
    number = int(port.get("port") or 0)
    return ServicePort(
        port.get("name") or "",
        port.get("protocol") or "TCP",
        number,
        port.get("targetPort") or number,
        int(port.get("nodePort") or 0),
        path,
    )


def selected(service: ServiceView, pods: Iterable[PodView]) -> list[PodView]:
    """Return the pods that the Service's selector matches. Without a selector: none."""
    if not service.selector:
        return []
    selector = from_map(service.selector)
    return [p for p in pods if p.key.namespace == service.key.namespace and selector.matches(p.labels)]


def backends(
    service: ServiceView, port: ServicePort, pods: Sequence[PodView], slices: Iterable[Located] = ()
) -> tuple[tuple[Backend, ...], tuple[Excluded, ...]]:
    """Return who receives on a Service's port, and the selected pods that do not, with the reason.

    A Service without a selector: what its EndpointSlices say.
    """
    if not service.selector:
        return tuple(_sliced(service, port, pods, slices)), ()
    found: list[Backend] = []
    left: list[Excluded] = []
    for pod in selected(service, pods):
        why = _unfit(pod, service)
        number = target_port(pod, port)
        if why:
            left.append(Excluded(pod, why))
        elif number is None:
            left.append(Excluded(pod, f"no container of it has a {port.protocol} port named {port.target!r}"))
        else:
            found.append(Backend(pod, pod.ip, number))
    return tuple(found), tuple(left)


def target_port(pod: PodView, port: ServicePort) -> int | None:
    """Return the pod's port behind a Service's port: a name is looked up on each pod. None: it has none."""
    if isinstance(port.target, int):
        return port.target
    if port.target.isdigit():
        return int(port.target)
    return next((n for name, protocol, n in pod.ports() if name == port.target and protocol == port.protocol), None)


def _unfit(pod: PodView, service: ServiceView) -> str:
    """Return why a selected pod is no endpoint; "" when it is one."""
    status = pod.object.get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return f"it has ended ({status['phase']})"
    if pod.located.file != LIVE:
        return ""
    if not pod.ip:
        return "it has no address yet"
    if service.publishes_unready:
        return ""
    if is_deleting(pod.object):
        return "it is being deleted"
    ready = condition(pod.object, "Ready")
    if ready is not None and ready.get("status") != "True":
        return f"it is not ready ({ready.get('reason') or ready.get('message') or 'no reason given'})"
    return ""


def _sliced(
    service: ServiceView, port: ServicePort, pods: Sequence[PodView], slices: Iterable[Located]
) -> Iterable[Backend]:
    by_ip = {p.ip: p for p in pods if not p.spec.get("hostNetwork")}
    for located in slices:
        piece = located.object
        labels = piece["metadata"].get("labels") or {}
        if labels.get(SERVICE_NAME_LABEL) != service.key.name or located.key.namespace != service.key.namespace:
            continue
        for slice_port in piece.get("ports") or ():
            named = (slice_port.get("name") or "") == port.name
            if not named or (slice_port.get("protocol") or "TCP") != port.protocol or not slice_port.get("port"):
                continue
            for endpoint in piece.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is not False:
                    ip = endpoint["addresses"][0]
                    yield Backend(by_ip.get(ip), ip, int(slice_port["port"]))
