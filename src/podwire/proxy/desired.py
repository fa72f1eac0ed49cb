"""What one node should do for one Service, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, NamedTuple, TypeAlias

from podwire.model.errors import Problem
from podwire.model.objects import Key

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network

TCP, UDP, SCTP = 6, 17, 132
PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}

Exposure = Literal["cluster", "cluster-local", "external", "external-local"]
"""How the address is meant to be reached, which decides the source address that endpoints see.

cluster          a ClusterIP: masquerade only sources outside the pod networks
cluster-local    the same with internalTrafficPolicy Local: ``targets`` are those of this node
external         node ports, external and load-balancer IPs, policy Cluster: always masquerade
external-local   the same, policy Local: keep the source of off-cluster clients, give them local endpoints
                 only; pods and the node itself reach every endpoint
"""

Kind = Literal["cluster IP", "external IP", "loadbalancer IP", "node port"]
"""What the address is to the Service."""

Refusal = Literal["reject", "drop"]
"""What a frontend without endpoints does: answer RST or port unreachable, or say nothing."""


class FrontKey(NamedTuple):
    """The address that clients use. Two Services cannot both have it."""

    address: IPAddress
    protocol: int
    port: int


class Target(NamedTuple):
    """Where a connection goes."""

    address: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class Frontend:
    """One address of one Service port.

    ``targets`` empty: ``refusal`` says what happens. ``local_targets`` matters for external-local only:
    off-cluster clients are dropped where it is empty. ``affinity_s`` 0: none. ``sources`` None: anybody.
    """

    key: FrontKey
    name: str  # "namespace/name:port"
    kind: Kind
    exposure: Exposure
    targets: tuple[Target, ...]
    local_targets: tuple[Target, ...] = ()
    refusal: Refusal = "reject"
    affinity_s: int = 0
    sources: tuple[IPNetwork, ...] | None = None


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """Everything that this node programs for one Service. Without frontends: nothing."""

    service: Key
    rank: tuple[str, str, str]  # of two Services that claim one address the lower rank wins: age, then name
    frontends: tuple[Frontend, ...] = ()
    cluster_ips: tuple[IPAddress, ...] = ()
    hairpins: tuple[IPAddress, ...] = ()  # endpoints that may reach themselves through the Service by this node
    health_check_port: int = 0
    local_ready: int = 0  # endpoints of this node, for the health check
    problems: tuple[Problem, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Here:
    """What the plan must know of the node it plans for."""

    node: str
    addresses: tuple[IPAddress, ...]  # on which node ports are served
    zone: str = ""
