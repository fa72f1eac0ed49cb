"""Services, their endpoints, ingress, policies and addresses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from podwire.apiserver.printers.column import (
    NONE,
    UNSET,
    Printer,
    age,
    columns,
    labels_text,
    selector_text,
    some,
    spec_of,
    status_of,
)
from podwire.model.objects import Obj


def _name(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def _balancer_addresses(obj: Obj) -> list[str]:
    ingress = (status_of(obj).get("loadBalancer") or {}).get("ingress") or ()
    return [i.get("ip") or i.get("hostname") or "" for i in ingress]


def _external(service: Obj) -> str:
    spec = spec_of(service)
    given = list(spec.get("externalIPs") or ())
    if spec.get("type") == "ExternalName":
        return spec.get("externalName") or NONE
    if spec.get("type") == "LoadBalancer":
        found = [*dict.fromkeys(_balancer_addresses(service)), *given]
        return ",".join(found) or "<pending>"
    return ",".join(given) or NONE


def _port(port: Mapping[str, Any]) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node_port}/{port.get('protocol') or 'TCP'}"


def _service(service: Obj, now: datetime) -> list[Any]:
    spec = spec_of(service)
    addresses = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    return [
        _name(service),
        spec.get("type") or "ClusterIP",
        addresses[0] if addresses else NONE,
        _external(service),
        ",".join(_port(p) for p in spec.get("ports") or ()) or NONE,
        age(service, now),
        labels_text(spec.get("selector")),
    ]


def _endpoints(endpoints: Obj, now: datetime) -> list[Any]:
    found: list[str] = []
    for subset in endpoints.get("subsets") or ():
        addresses = [a["ip"] for a in subset.get("addresses") or ()]
        ports = subset.get("ports") or ()
        if not ports:
            found += addresses
        for port in ports:
            found += [f"[{a}]:{port['port']}" if ":" in a else f"{a}:{port['port']}" for a in addresses]
    return [_name(endpoints), some(found) or NONE, age(endpoints, now)]


def _slice(endpoint_slice: Obj, now: datetime) -> list[Any]:
    ports = [str(p.get("port") or "*") for p in endpoint_slice.get("ports") or ()]
    addresses = [a for e in endpoint_slice.get("endpoints") or () for a in e.get("addresses") or ()]
    return [
        _name(endpoint_slice),
        endpoint_slice.get("addressType"),
        some(ports) or UNSET,
        some(addresses) or UNSET,
        age(endpoint_slice, now),
    ]


def _ingress(ingress: Obj, now: datetime) -> list[Any]:
    spec = spec_of(ingress)
    hosts = list(dict.fromkeys(r["host"] for r in spec.get("rules") or () if r.get("host")))
    return [
        _name(ingress),
        spec.get("ingressClassName") or NONE,
        some(hosts) or "*",
        ",".join(_balancer_addresses(ingress)),
        "80, 443" if spec.get("tls") else "80",
        age(ingress, now),
    ]


def _ingress_class(obj: Obj, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    parameters = spec.get("parameters")
    shown = NONE
    if parameters:
        group = f".{parameters['apiGroup']}" if parameters.get("apiGroup") else ""
        shown = f"{parameters.get('kind')}{group}/{parameters.get('name')}"
    return [_name(obj), spec.get("controller"), shown, age(obj, now)]


def _policy(policy: Obj, now: datetime) -> list[Any]:
    return [_name(policy), selector_text(spec_of(policy).get("podSelector")), age(policy, now)]


def _address(obj: Obj, now: datetime) -> list[Any]:
    parent = spec_of(obj).get("parentRef") or {}
    parts = [parent.get(k) for k in ("resource", "group", "namespace", "name")]
    resource = f"{parts[0]}.{parts[1]}" if parts[1] else parts[0]
    return [_name(obj), "/".join(p for p in (resource, parts[2], parts[3]) if p), age(obj, now)]


def _service_cidr(obj: Obj, now: datetime) -> list[Any]:
    return [_name(obj), ",".join(spec_of(obj).get("cidrs") or ()), age(obj, now)]


PRINTERS = {
    ("", "Service"): Printer(
        columns("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector+"), _service
    ),
    ("", "Endpoints"): Printer(columns("Name", "Endpoints", "Age"), _endpoints),
    ("discovery.k8s.io", "EndpointSlice"): Printer(columns("Name", "AddressType", "Ports", "Endpoints", "Age"), _slice),
    ("networking.k8s.io", "Ingress"): Printer(columns("Name", "Class", "Hosts", "Address", "Ports", "Age"), _ingress),
    ("networking.k8s.io", "IngressClass"): Printer(columns("Name", "Controller", "Parameters", "Age"), _ingress_class),
    ("networking.k8s.io", "NetworkPolicy"): Printer(columns("Name", "Pod-Selector", "Age"), _policy),
    ("networking.k8s.io", "IPAddress"): Printer(columns("Name", "ParentRef", "Age"), _address),
    ("networking.k8s.io", "ServiceCIDR"): Printer(columns("Name", "CIDRs", "Age"), _service_cidr),
}
