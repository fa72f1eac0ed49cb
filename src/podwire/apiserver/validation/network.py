"""Rules of Service, Endpoints, EndpointSlice, NetworkPolicy and Ingress."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from podwire.apiserver.errors import (
    FieldError,
    duplicate,
    field_forbidden,
    invalid_value,
    required,
    too_many,
    unsupported,
)
from podwire.apiserver.validation import names
from podwire.apiserver.validation.servicefields import check_dependent_fields
from podwire.apiserver.validation.values import (
    PORT_RANGE,
    check_cidr,
    check_immutable,
    check_one_of,
    check_port,
    check_selector,
)
from podwire.model.objects import Obj

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_MAX_ENDPOINTS, _MAX_SLICE_PORTS, _MAX_ENDPOINT_ADDRESSES = 1000, 100, 100


def check_service(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a Service."""
    spec: Obj = new["spec"]
    ports = spec.get("ports") or []
    kind = spec.get("type")
    headless = spec.get("clusterIP") == "None"
    if not ports and kind != "ExternalName" and not headless:
        yield required("spec.ports")
    yield from check_one_of(spec, "spec", "type", _TYPES)
    yield from check_one_of(spec, "spec", "sessionAffinity", ("ClientIP", "None"))
    yield from check_one_of(spec, "spec", "internalTrafficPolicy", ("Cluster", "Local"))
    yield from check_one_of(spec, "spec", "externalTrafficPolicy", ("Cluster", "Local"))
    yield from check_one_of(spec, "spec", "ipFamilyPolicy", ("SingleStack", "PreferDualStack", "RequireDualStack"))
    if kind == "ExternalName":
        name = (spec.get("externalName") or "").rstrip(".")
        why = names.subdomain_problem(name) if name else ""
        if why:
            yield invalid_value("spec.externalName", spec.get("externalName"), why)
        elif not name:
            yield required("spec.externalName")
    if headless and kind in ("NodePort", "LoadBalancer"):
        yield invalid_value("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    timeout = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
    if timeout is not None and not 0 < timeout <= 86400:
        where = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        yield invalid_value(where, timeout, "must be greater than 0 and less than or equal to 86400")
    if spec.get("selector"):
        yield from names.check_labels(spec["selector"], "spec.selector")
    yield from _check_service_ports(ports, kind or "", many=len(ports) > 1)
    for n, address in enumerate(spec.get("externalIPs") or ()):
        yield from check_reachable_address(address, f"spec.externalIPs[{n}]")
    yield from check_dependent_fields(spec)


def _check_service_ports(ports: list[Obj], kind: str, *, many: bool) -> Iterator[FieldError]:
    seen: set[tuple[str, int]] = set()
    node_ports: set[tuple[str, int]] = set()
    yield from names.check_unique([p.get("name") for p in ports], "spec.ports")
    for n, port in enumerate(ports):
        where = f"spec.ports[{n}]"
        name, number, protocol = port.get("name", ""), port.get("port", 0), port.get("protocol", "TCP")
        if many and not name:
            yield required(f"{where}.name")
        elif name and (why := names.label_problem(name)):
            yield invalid_value(f"{where}.name", name, why)
        if not 1 <= number <= 65535:
            yield invalid_value(f"{where}.port", number, PORT_RANGE)
        if protocol not in _PROTOCOLS:
            yield unsupported(f"{where}.protocol", protocol, _PROTOCOLS)
        target = port.get("targetPort")
        if isinstance(target, int):
            yield from check_port(target, f"{where}.targetPort")
        elif isinstance(target, str) and (why := names.port_name_problem(target)):
            yield invalid_value(f"{where}.targetPort", target, why)
        if (protocol, number) in seen:
            yield duplicate(where, {"name": name, "protocol": protocol, "port": number})
        seen.add((protocol, number))
        node_port = port.get("nodePort", 0)
        if node_port and kind in ("ClusterIP", "ExternalName"):
            yield field_forbidden(f"{where}.nodePort", f"may not be used when `type` is '{kind}'")
        if node_port:
            if (protocol, node_port) in node_ports:
                yield duplicate(f"{where}.nodePort", node_port)
            node_ports.add((protocol, node_port))


def _is_api(obj: Obj) -> bool:
    """Return whether these are the API server's own endpoints: on a fake kernel it has a loopback address."""
    meta = obj["metadata"]
    return (meta.get("namespace"), meta.get("name")) == ("default", "kubernetes")


def check_endpoints(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check an Endpoints object."""
    for n, subset in enumerate(new.get("subsets") or ()):
        path = f"subsets[{n}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            yield required(path, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for m, address in enumerate(subset.get(field) or ()):
                yield from check_reachable_address(
                    address.get("ip", ""), f"{path}.{field}[{m}].ip", loopback=_is_api(new)
                )
        ports = subset.get("ports") or []
        for m, port in enumerate(ports):
            where = f"{path}.ports[{m}]"
            if len(ports) > 1 and not port.get("name"):
                yield required(f"{where}.name")
            yield from check_port(port.get("port", 0), f"{where}.port")
            yield from check_one_of(port, where, "protocol", _PROTOCOLS)


def check_reachable_address(text: str, path: str, *, loopback: bool = False) -> Iterator[FieldError]:
    """No address that would let Services reach a node's own loopback or link, or that is none."""
    try:
        address = ip_address(text)
    except ValueError:
        yield invalid_value(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
        return
    if address.is_unspecified:
        yield invalid_value(path, text, f"may not be unspecified ({text})")
    if address.is_loopback and not loopback:
        yield invalid_value(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if address.is_link_local:
        yield invalid_value(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if address.is_multicast:
        yield invalid_value(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


def check_endpointslice(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check an EndpointSlice."""
    kind = new.get("addressType")
    if not kind:
        yield required("addressType")
    elif kind not in ("IPv4", "IPv6", "FQDN"):
        yield unsupported("addressType", kind, ("FQDN", "IPv4", "IPv6"))
    if old is not None:
        yield from check_immutable(kind, old.get("addressType"), "addressType")
    endpoints = new.get("endpoints") or []
    if len(endpoints) > _MAX_ENDPOINTS:
        yield too_many("endpoints", len(endpoints), _MAX_ENDPOINTS)
    for n, endpoint in enumerate(endpoints):
        addresses = endpoint.get("addresses") or []
        if not addresses:
            yield required(f"endpoints[{n}].addresses", "must contain at least 1 address")
        if len(addresses) > _MAX_ENDPOINT_ADDRESSES:
            yield too_many(f"endpoints[{n}].addresses", len(addresses), _MAX_ENDPOINT_ADDRESSES)
        for m, text in enumerate(addresses):
            where = f"endpoints[{n}].addresses[{m}]"
            if kind == "FQDN":
                if why := names.subdomain_problem(text.rstrip(".")):
                    yield invalid_value(where, text, why)
                continue
            problems = list(check_reachable_address(text, where, loopback=_is_api(new)))
            yield from problems
            if not problems and kind in ("IPv4", "IPv6") and f"IPv{ip_address(text).version}" != kind:
                yield invalid_value(where, text, f"must be an {kind} address")
        if endpoint.get("hostname") and (why := names.label_problem(endpoint["hostname"])):
            yield invalid_value(f"endpoints[{n}].hostname", endpoint["hostname"], why)
    ports = new.get("ports") or []
    if len(ports) > _MAX_SLICE_PORTS:
        yield too_many("ports", len(ports), _MAX_SLICE_PORTS)
    seen = set()
    for n, port in enumerate(ports):
        if port.get("name", "") in seen:
            yield duplicate(f"ports[{n}].name", port.get("name", ""))
        seen.add(port.get("name", ""))
        yield from check_one_of(port, f"ports[{n}]", "protocol", _PROTOCOLS)


def check_network_policy(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a NetworkPolicy."""
    spec: Obj = new.get("spec") or {}
    yield from check_selector(spec.get("podSelector"), "spec.podSelector")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for n, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{n}]"
            for m, port in enumerate(rule.get("ports") or ()):
                yield from _check_policy_port(port, f"{path}.ports[{m}]")
            for m, peer in enumerate(rule.get(peers) or ()):
                yield from _check_peer(peer, f"{path}.{peers}[{m}]")
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        yield invalid_value("spec.policyTypes", types, "may not specify more than two policyTypes")
    for n, kind in enumerate(types):
        if kind not in ("Ingress", "Egress"):
            yield unsupported(f"spec.policyTypes[{n}]", kind, ("Egress", "Ingress"))


def _check_policy_port(port: Obj, path: str) -> Iterator[FieldError]:
    yield from check_one_of(port, path, "protocol", _PROTOCOLS)
    number = port.get("port")
    if isinstance(number, int):
        yield from check_port(number, f"{path}.port")
        end = port.get("endPort")
        if end is not None:
            if end < number:
                yield invalid_value(f"{path}.endPort", end, "must be greater than or equal to `port`")
            yield from check_port(end, f"{path}.endPort")
    elif port.get("endPort") is not None:
        if isinstance(number, str):
            yield invalid_value(f"{path}.endPort", port["endPort"], "may not be specified when `port` is non-numeric")
        else:
            yield invalid_value(f"{path}.endPort", port["endPort"], "may not be specified when `port` is not specified")
    elif isinstance(number, str) and (why := names.port_name_problem(number)):
        yield invalid_value(f"{path}.port", number, why)


def _check_peer(peer: Obj, path: str) -> Iterator[FieldError]:
    given = [k for k in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(k) is not None]
    if not given:
        yield required(path, "must specify a peer")
    if "ipBlock" in given and len(given) > 1:
        yield field_forbidden(path, "may not specify both ipBlock and another peer")
    for field in ("podSelector", "namespaceSelector"):
        yield from check_selector(peer.get(field), f"{path}.{field}")
    block: Obj | None = peer.get("ipBlock")
    if block is None:
        return
    if not block.get("cidr"):
        yield required(f"{path}.ipBlock.cidr")
        return
    problems = list(check_cidr(block["cidr"], f"{path}.ipBlock.cidr"))
    yield from problems
    for n, text in enumerate(block.get("except") or ()):
        where = f"{path}.ipBlock.except[{n}]"
        wrong = list(check_cidr(text, where))
        yield from wrong
        if wrong or problems:
            continue
        outer, inner = ip_network(block["cidr"], strict=False), ip_network(text, strict=False)
        inside = outer.version == inner.version and inner.subnet_of(outer) and inner != outer  # type: ignore[arg-type]
        if not inside:
            yield invalid_value(where, text, "must be a strict subset of `cidr`")


def check_ingress(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check an Ingress."""
    spec: Obj = new.get("spec") or {}
    if not spec.get("rules") and not spec.get("defaultBackend"):
        yield invalid_value("spec", "", "either `defaultBackend` or `rules` must be specified")
    if spec.get("defaultBackend"):
        yield from _check_backend(spec["defaultBackend"], "spec.defaultBackend")
    for n, rule in enumerate(spec.get("rules") or ()):
        path = f"spec.rules[{n}]"
        host = rule.get("host", "")
        if host:
            why = names.subdomain_problem(host.removeprefix("*."))
            if why:
                yield invalid_value(f"{path}.host", host, why)
        for m, entry in enumerate((rule.get("http") or {}).get("paths") or ()):
            where = f"{path}.http.paths[{m}]"
            kind = entry.get("pathType")
            if not kind:
                yield required(f"{where}.pathType", "pathType must be specified")
            elif kind not in ("Exact", "Prefix", "ImplementationSpecific"):
                yield unsupported(f"{where}.pathType", kind, ("Exact", "ImplementationSpecific", "Prefix"))
            if kind in ("Exact", "Prefix") and not (entry.get("path") or "").startswith("/"):
                yield invalid_value(f"{where}.path", entry.get("path", ""), "must be an absolute path")
            yield from _check_backend(entry.get("backend") or {}, f"{where}.backend")


def _check_backend(backend: Obj, path: str) -> Iterator[FieldError]:
    service = backend.get("service")
    if service is None:
        if backend.get("resource") is None:
            yield required(path, "port name or number is required")
        return
    if not service.get("name"):
        yield required(f"{path}.service.name")
    port: Obj = service.get("port") or {}
    if bool(port.get("name")) == bool(port.get("number")):
        yield required(f"{path}.service.port", "port name or number is required")
    elif port.get("number"):
        yield from check_port(port["number"], f"{path}.service.port.number")


CHECKS = {
    ("", "Service"): check_service,
    ("", "Endpoints"): check_endpoints,
    ("discovery.k8s.io", "EndpointSlice"): check_endpointslice,
    ("networking.k8s.io", "NetworkPolicy"): check_network_policy,
    ("networking.k8s.io", "Ingress"): check_ingress,
}
