"""What a Corefile says, understood. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from podwire.dns.index import PodMode
from podwire.dns.plugins.acl import AclRule
from podwire.dns.plugins.autopath import Autopath
from podwire.dns.plugins.dns64 import Dns64
from podwire.dns.plugins.hosts import HostsFile
from podwire.dns.plugins.rewrite import RewriteRule
from podwire.dns.plugins.template import Template


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """The `kubernetes` directive. ``labels``: a selector of Services, as text."""

    zones: tuple[str, ...] = ("cluster.local",)
    pods: PodMode = "disabled"
    ttl_s: int = 5  # CoreDNS' own default
    fallthrough: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    labels: str = ""
    endpoint_pod_names: bool = False
    ignore_empty: bool = False


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A `forward` directive. ``to``: addresses, with ports, or paths of resolv.conf files."""

    zone: str = "."
    to: tuple[str, ...] = ()
    excepted: tuple[str, ...] = ()
    max_concurrent: int = 0  # 0: no limit
    policy: str = "random"
    max_fails: int = 2  # 0: an upstream never counts as down
    health_check_s: float = 0.5
    health_domain: str = "."
    force_tcp: bool = False
    prefer_udp: bool = False


@dataclass(frozen=True, slots=True)
class Caching:
    """The `cache` directive. Names of the cluster are never cached: they are never stale."""

    success_s: int = 3600
    success_min_s: int = 5
    success_entries: int = 9984
    denial_s: int = 1800
    denial_min_s: int = 5
    denial_entries: int = 9984
    servfail_s: float = 5.0
    prefetch: int = 0  # hits within prefetch_within_s after which an entry is renewed before it ends
    prefetch_within_s: float = 60.0
    prefetch_percent: int = 10
    stale_s: float = 0.0  # how long after its end an entry may be served while upstreams fail
    stale_verify: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """One server block, understood. ``others``: further blocks, on the same port, for other zones."""

    port: int = 53
    zones: tuple[str, ...] = (".",)
    kubernetes: Kubernetes | None = None
    forwards: tuple[Forwarding, ...] = ()
    caching: Caching | None = None
    health: tuple[str, int] | None = None
    lameduck_s: float = 0.0
    ready: tuple[str, int] | None = None
    prometheus: tuple[str, int] | None = None
    errors: bool = False
    log: tuple[str, ...] = ()  # classes: all, success, denial, error
    log_zones: tuple[str, ...] = ()
    loop: bool = False
    reload_s: float = 0.0
    loadbalance: bool = False
    bufsize: int = 0
    workers: int = 0  # `multisocket`: processes with a socket of their own; 0: this process answers itself
    hosts: HostsFile | None = None
    acl: tuple[AclRule, ...] = ()
    rewrite: tuple[RewriteRule, ...] = ()
    templates: tuple[Template, ...] = ()
    autopath: Autopath | None = None
    dns64: Dns64 | None = None
    zone_files: tuple[tuple[str, str], ...] = ()  # `file`: (origin, path)
    others: tuple[Settings, ...] = ()

    @property
    def forward(self) -> Forwarding | None:
        """The forwarding of everything, if there is one."""
        return next((f for f in self.forwards if f.zone == "."), None)
