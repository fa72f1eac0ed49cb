"""What the control loops may be told."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class ControllersConfig:
    """Settings of all loops; the defaults are those of a Kubernetes cluster."""

    root_ca_pem: str = ""  # published as ConfigMap kube-root-ca.crt; "" publishes none
    cluster_cidrs: tuple[Network, ...] = ()  # one per family; empty allocates no node CIDR
    service_cidrs: tuple[Network, ...] = ()  # never handed to nodes
    node_mask_ipv4: int = 24
    node_mask_ipv6: int = 64
    node_grace_s: float = 40.0  # a node that says nothing for so long is Unknown
    node_startup_grace_s: float = 60.0  # the same for a node that never said anything
    orphan_quarantine_s: float = 40.0  # a node is gone for so long before its pods are
    terminated_pod_threshold: int = 12500  # finished pods kept for their logs
    writes_in_flight: int = 16
    bindings_in_flight: int = 16
    garbage_delay_s: float = 2.0  # garbage collection starts so long after everything else
