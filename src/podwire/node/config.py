"""What a node's agent is told at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node. Paths are as the agent sees them, in the node's own mount view."""

    name: str
    addresses: tuple[Address, ...]  # InternalIPs, the primary one first
    state_dir: Path = Path("/var/lib/podwire")
    log_dir: Path = Path("/var/log/pods")
    cluster_dns: tuple[Address, ...] = ()
    cluster_domain: str = "cluster.local"
    resolv_conf: Path = Path("/etc/resolv.conf")  # what dnsPolicy Default gives
    hosts_file: Path = Path("/etc/hosts")  # what pods of the host network see
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    max_pods: int = 110
    port: int = 10250
    bind: tuple[str, ...] = ()  # where the endpoint listens; (): on ``addresses``, and on dry nodes nowhere
    tls_cert_pem: str = ""  # "" : no HTTPS endpoint
    tls_key_pem: str = field(default="", repr=False)
    client_ca_pem: str = ""
    # Groups of client certificates that may use the endpoint.
    trusted_groups: frozenset[str] = frozenset({"system:masters", "kubeadm:cluster-admins"})
    lease_duration_s: int = 40
    lease_renew_s: float = 10.0
    status_every_s: float = 300.0
    backoff_initial_s: float = 10.0
    backoff_max_s: float = 300.0
    dry: bool = False  # nothing runs: say so on the Node


KUBELET_VERSION = "v1.36.0+podwire"
DRY_ANNOTATION = "podwire.dev/dry-kernel"
