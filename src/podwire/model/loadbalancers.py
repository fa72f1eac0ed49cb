"""Load-balancer addresses without a cloud: what the controller and the announcers agree on. Pure.

The controller gives a Service its addresses (status.loadBalancer.ingress) and names the node that answers for
them (annotation ``podwire.dev/announcer``). Each node's announcer follows the annotation, and shows that it
lives in a Lease of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeAlias

from podwire.model.objects import annotations_of
from podwire.model.resources import Resource

IPAddress: TypeAlias = IPv4Address | IPv6Address

GROUP = "podwire.dev"
POOLS = Resource(GROUP, "v1alpha1", "loadbalancerippools", "LoadBalancerIPPool", namespaced=False)
CLASS = "podwire.dev/layer2"  # spec.loadBalancerClass; none means ours too, there is no other by default
ANNOUNCER = "podwire.dev/announcer"  # annotation of a Service: the node that answers for its addresses
POOL = "podwire.dev/ip-pool"  # annotation of a Service: the pool to take addresses from
LEASE_NAMESPACE = "kube-system"
LEASE_S = 4  # an announcer that renews nothing for so long is taken for dead
RENEW_S = 1.0
_LEASE_PREFIX = "podwire-announcer-"


def lease_name(node: str) -> str:
    """Return the name of the Lease of a node's announcer."""
    return _LEASE_PREFIX + node


def node_of_lease(namespace: str, name: str) -> str:
    """Return the node whose announcer holds this Lease; "" when it is another's Lease."""
    if namespace != LEASE_NAMESPACE or not name.startswith(_LEASE_PREFIX):
        return ""
    return name.removeprefix(_LEASE_PREFIX)


def is_ours(service: Mapping[str, Any]) -> bool:
    """Return whether this Service gets its addresses from our pools."""
    spec = service.get("spec") or {}
    return spec.get("type") == "LoadBalancer" and (spec.get("loadBalancerClass") or CLASS) == CLASS


def announcer_of(service: Mapping[str, Any]) -> str:
    """Return the node that answers for the Service's addresses; "" when none does."""
    return annotations_of(service).get(ANNOUNCER, "")


def ingress_addresses(service: Mapping[str, Any]) -> tuple[IPAddress, ...]:
    """Return the addresses of status.loadBalancer.ingress, in its order; what is none is left out."""
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    found = []
    for entry in ingress:
        try:
            found.append(ip_address(entry.get("ip") or ""))
        except ValueError:
            continue
    return tuple(found)
