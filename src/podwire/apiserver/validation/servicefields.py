"""Fields of a Service that mean something only beside others: refused where nothing would come of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from podwire.apiserver.errors import FieldError, field_forbidden, invalid_value
from podwire.apiserver.validation.values import check_cidr, check_one_of
from podwire.model.objects import Obj

_ONLY_BALANCERS = "may only be used when `type` is 'LoadBalancer'"
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")


def is_external(spec: Obj) -> bool:
    """Return whether a Service can be reached from outside: then it has an externalTrafficPolicy."""
    return spec.get("type") in ("NodePort", "LoadBalancer") or bool(spec.get("externalIPs"))


def needs_health_check(spec: Obj) -> bool:
    """Return whether outside balancers must be told which nodes have endpoints."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def check_dependent_fields(spec: Obj) -> Iterator[FieldError]:
    """Check fields against the type and the policy of their Service."""
    balancer = spec.get("type") == "LoadBalancer"
    for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
        if spec.get(field) is not None and not balancer:
            yield field_forbidden(f"spec.{field}", _ONLY_BALANCERS)
    if spec.get("loadBalancerSourceRanges"):
        if not balancer:
            yield field_forbidden("spec.LoadBalancerSourceRanges", _ONLY_BALANCERS)  # the capital is Kubernetes' own
        for n, cidr in enumerate(spec["loadBalancerSourceRanges"]):
            yield from check_cidr(cidr.strip(), f"spec.loadBalancerSourceRanges[{n}]")
    policy = spec.get("externalTrafficPolicy")
    if policy and not is_external(spec):
        yield invalid_value("spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services")
    port = spec.get("healthCheckNodePort")
    if port and not needs_health_check(spec):
        why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield invalid_value("spec.healthCheckNodePort", port, why)
    yield from check_one_of(spec, "spec", "trafficDistribution", _DISTRIBUTIONS)
