"""NetworkPolicy and its successors as frozen values; every rule knows where it was written.

Three kinds become one ``Policy``: NetworkPolicy (networking.k8s.io/v1), ClusterNetworkPolicy
(policy.networking.k8s.io/v1alpha2) and the older pair AdminNetworkPolicy and BaselineAdminNetworkPolicy
(v1alpha1). What they mean is said in ``evaluate``; how they are read from JSON in ``parse`` and ``parse_cluster``.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, TypeAlias

from podwire.model.errors import Problem
from podwire.model.objects import Key
from podwire.model.selectors import EVERYTHING, Selector

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network
Direction = Literal["ingress", "egress"]
Action = Literal["Accept", "Deny", "Pass"]
Tier = Literal["Admin", "NetworkPolicy", "Baseline"]

DIRECTIONS: tuple[Direction, ...] = ("egress", "ingress")
PROTOCOLS = ("TCP", "UDP", "SCTP")
LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports of one protocol, both ends included. A whole protocol is 0 to 65535."""

    protocol: str
    first: int
    last: int

    def __str__(self) -> str:
        if self.first == 0 and self.last == LAST_PORT:
            return self.protocol
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{ports}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A container port by its name, looked up on each destination pod.

    ``protocol`` None matches the name under any protocol (the cluster-wide kinds name no protocol).
    """

    name: str
    protocol: str | None = None

    def __str__(self) -> str:
        return f"{self.name}/{self.protocol}" if self.protocol else self.name


Port: TypeAlias = PortRange | NamedPort


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods by their labels, in one namespace or in the namespaces that a selector picks.

    ``namespace`` None means: whichever namespaces ``namespaces`` matches. Pods on the host's network and pods
    that have ended are never meant.
    """

    namespace: str | None = None
    namespaces: Selector = EVERYTHING
    pods: Selector = EVERYTHING
    path: str = ""


@dataclass(frozen=True, slots=True)
class BlockPeer:
    """Addresses inside ``cidr`` and outside every one of ``excepts``; pod addresses too."""

    cidr: IPNetwork
    excepts: tuple[IPNetwork, ...] = ()
    path: str = ""

    def contains(self, address: IPAddress) -> bool:
        """Return whether the block holds the address. The other family's never."""
        return address in self.cidr and not any(address in e for e in self.excepts)


@dataclass(frozen=True, slots=True)
class NodePeer:
    """The addresses of nodes (status.addresses) whose labels match."""

    nodes: Selector
    path: str = ""


@dataclass(frozen=True, slots=True)
class DomainPeer:
    """Addresses that a DNS name resolved to. ``*.`` in front stands for one or more whole labels."""

    name: str
    path: str = ""

    def covers(self, name: str) -> bool:
        """Return whether the pattern covers the name. Case and a final dot do not count."""
        pattern, asked = self.name.rstrip(".").lower(), name.rstrip(".").lower()
        return asked.endswith(pattern[1:]) if pattern.startswith("*.") else asked == pattern


Peer: TypeAlias = PodPeer | BlockPeer | NodePeer | DomainPeer


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``peers`` None means everyone, ``ports`` None every port of every protocol, ICMP included.

    An empty tuple matches nothing. ``why`` is set when the rule is not as it was written: it held something
    that podwire does not know, and fails closed.
    """

    path: str
    action: Action = "Accept"
    peers: tuple[Peer, ...] | None = None
    ports: tuple[Port, ...] | None = None
    name: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy of any kind.

    ``isolates`` says in which directions a NetworkPolicy isolates the pods it selects; it is empty for the
    cluster-wide kinds, whose rules are ordered by ``priority`` (lower first) and then by place. ``problems``
    holds why a policy could not be read as written: it then denies all to the pods it may select.
    """

    kind: str
    key: Key
    tier: Tier
    subject: PodPeer
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    isolates: frozenset[Direction] = frozenset()
    priority: int = 0
    problems: tuple[Problem, ...] = ()

    def rules(self, direction: Direction) -> tuple[Rule, ...]:
        """Return the rules of one direction."""
        return self.ingress if direction == "ingress" else self.egress

    @property
    def order(self) -> tuple[int, str, Key]:
        """Where it stands within its tier. Equal priorities are settled by kind and name, always the same way."""
        return (self.priority, self.kind, self.key)

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"
