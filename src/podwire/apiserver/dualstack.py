"""A Service's IP families, cluster IP fields and what an update leaves out. Pure.

Source: KEP-563 and ``pkg/registry/core/service/storage/alloc.go``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Any

from podwire.apiserver.errors import FieldError, field_forbidden, invalid_value, required
from podwire.apiserver.validation.servicefields import is_external, needs_health_check
from podwire.model.objects import Obj

_OTHER = {"IPv4": "IPv6", "IPv6": "IPv4"}


def complete(service: Obj, old: Obj | None, families: Sequence[str]) -> list[FieldError]:
    """Complete clusterIPs, ipFamilies and ipFamilyPolicy in place; return what cannot be had.

    ``families`` are the cluster's, the primary first.
    """
    spec = service["spec"]
    if old is not None:
        _drop_dependent(spec, old["spec"])
    if spec["type"] == "ExternalName":
        return list(_external_name(spec))
    if old is not None:
        _carry_over(spec, old["spec"])
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    elif spec.get("clusterIPs") and not spec.get("clusterIP"):
        spec["clusterIP"] = spec["clusterIPs"][0]
    problems = list(_contradictions(spec, families))
    if not problems:
        _set_families(spec, families)
        problems.extend(_immutable(spec, old))
    return problems


def _external_name(spec: Obj) -> Iterator[FieldError]:
    if spec.get("clusterIP") or spec.get("clusterIPs"):
        yield field_forbidden("spec.clusterIP", "may not be set for ExternalName services")
    for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
        spec.pop(field, None)


def _drop_dependent(spec: Obj, before: Obj) -> None:
    """Drop what belonged to the former type and was not changed: a client sent back what it had read."""
    dropped: list[str] = []
    if spec["type"] == "ExternalName" and before["type"] != "ExternalName":
        dropped += ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]
    if spec["type"] != "LoadBalancer":
        dropped += ["allocateLoadBalancerNodePorts", "loadBalancerClass"]
    if not is_external(spec):
        dropped.append("externalTrafficPolicy")
    if not needs_health_check(spec):
        dropped.append("healthCheckNodePort")
    for field in dropped:
        if field in spec and spec[field] == before.get(field):
            del spec[field]
    ports, held = spec.get("ports") or (), before.get("ports") or ()
    if spec["type"] in ("ClusterIP", "ExternalName") and _node_ports(ports) == _node_ports(held):
        for port in ports:
            port.pop("nodePort", None)


def _node_ports(ports: Sequence[Obj]) -> list[int]:
    return [p.get("nodePort") or 0 for p in ports]


def _carry_over(spec: Obj, before: Obj) -> None:
    """Fill what a client that knows only the old fields leaves out with what was allocated."""
    if before["type"] != "ExternalName":
        if not spec.get("clusterIP") and not spec.get("clusterIPs"):
            for field in ("clusterIP", "clusterIPs"):
                if field in before:
                    spec[field] = before[field]
        for field in ("ipFamilies", "ipFamilyPolicy"):
            if not spec.get(field) and before.get(field):
                spec[field] = before[field]
    external = ("NodePort", "LoadBalancer")
    if spec["type"] in external and before["type"] in external:
        _carry_node_ports(spec, before)
    if needs_health_check(spec) and before.get("healthCheckNodePort") and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = before["healthCheckNodePort"]


def _carry_node_ports(spec: Obj, before: Obj) -> None:
    known = {(p.get("protocol"), p.get("port")): p.get("nodePort") for p in before.get("ports") or ()}
    used = {p["nodePort"] for p in spec.get("ports") or () if p.get("nodePort")}
    for port in spec.get("ports") or ():
        number = known.get((port.get("protocol"), port.get("port")))
        if not port.get("nodePort") and number and number not in used:
            port["nodePort"] = number
            used.add(number)


def _contradictions(spec: Obj, families: Sequence[str]) -> Iterator[FieldError]:
    addresses: list[str] = spec.get("clusterIPs") or []
    if addresses and spec.get("clusterIP") != addresses[0]:
        yield invalid_value("spec.clusterIPs[0]", addresses, "first value must match `clusterIP`")
    if len(addresses) > 2:
        yield invalid_value("spec.clusterIPs", addresses, "may only hold up to 2 values")
    for n, text in enumerate(addresses):
        if text == "None":
            if len(addresses) > 1:
                yield invalid_value(f"spec.clusterIPs[{n}]", text, "'None' must be the first and only value")
            continue
        try:
            ip_address(text)
        except ValueError:
            why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            yield invalid_value(f"spec.clusterIPs[{n}]", text, why)
    wanted: list[str] = spec.get("ipFamilies") or []
    if len(set(wanted)) != len(wanted):
        yield invalid_value("spec.ipFamilies", wanted, "families must be unique")
    policy = spec.get("ipFamilyPolicy")
    headless = spec.get("clusterIP") == "None" and not spec.get("selector")
    if policy == "RequireDualStack" and len(families) < 2 and not headless:
        yield invalid_value("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services")
    if policy in (None, "SingleStack") and (len(wanted) > 1 or len(addresses) > 1):
        which = "ipFamilies" if len(wanted) > 1 else "clusterIPs"
        why = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {which} are specified"
        yield (
            required("spec.ipFamilyPolicy", why)
            if policy is None
            else invalid_value("spec.ipFamilyPolicy", policy, why)
        )
    for n, family in enumerate(wanted):
        if family not in families and not headless:
            yield invalid_value(f"spec.ipFamilies[{n}]", family, "not configured on this cluster")


def _set_families(spec: Obj, families: Sequence[str]) -> None:
    wanted: list[str] = list(spec.get("ipFamilies") or ())
    given = [f"IPv{ip_address(a).version}" for a in spec.get("clusterIPs") or () if a != "None"]
    for n, family in enumerate(given):
        if n >= len(wanted):
            wanted.append(family)
    headless = spec.get("clusterIP") == "None" and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        if headless and not wanted:
            spec["ipFamilyPolicy"] = "RequireDualStack"
        else:
            spec["ipFamilyPolicy"] = "SingleStack"
    policy = spec["ipFamilyPolicy"]
    if not wanted:
        wanted = [families[0]]
    if policy == "SingleStack":
        wanted = wanted[:1]
        if spec.get("clusterIPs"):
            spec["clusterIPs"] = spec["clusterIPs"][:1]
    elif len(wanted) == 1 and (len(families) > 1 or (headless and policy == "RequireDualStack")):
        wanted.append(_OTHER[wanted[0]])
    spec["ipFamilies"] = wanted


def _immutable(spec: Obj, old: Obj | None) -> Iterator[FieldError]:
    if old is None or old["spec"]["type"] == "ExternalName":
        return
    before: Obj = old["spec"]
    for n, (new_value, old_value) in enumerate(_pairs(spec.get("clusterIPs"), before.get("clusterIPs"))):
        if new_value != old_value and (n == 0 or (new_value and old_value)):
            yield invalid_value(f"spec.clusterIPs[{n}]", spec.get("clusterIPs"), "may not change once set")
    first = (spec.get("ipFamilies") or [""])[0], (before.get("ipFamilies") or [""])[0]
    if first[0] != first[1] and first[1]:
        yield field_forbidden("spec.ipFamilies[0]", "primary ipFamily can not be changed once set")


def _pairs(new: list[str] | None, old: list[str] | None) -> Iterator[tuple[Any, Any]]:
    for n in range(max(len(new or ()), len(old or ()))):
        yield (new or [])[n : n + 1], (old or [])[n : n + 1]
