"""What the proxy tells over HTTP: /proxyMode, /livez, /metrics on 10249; /healthz on both ports."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from podwire.runtime.statusserver import Page, Routes, serve_pages

METRICS_PORT = 10249
HEALTH_PORT = 10256
_BUCKETS_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 4.096, 16.384)


class Histogram:
    """Seconds, counted into kube-proxy's kind of buckets."""

    def __init__(self) -> None:
        self._counts = [0] * len(_BUCKETS_S)
        self._sum_s, self._count = 0.0, 0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._sum_s += seconds
        self._count += 1
        for i, bound in enumerate(_BUCKETS_S):
            if seconds <= bound:
                self._counts[i] += 1

    def render(self, name: str, words: str) -> str:
        """Return the Prometheus text of this histogram."""
        lines = [f"# HELP {name} {words}", f"# TYPE {name} histogram"]
        lines += [f'{name}_bucket{{le="{b:g}"}} {n}' for b, n in zip(_BUCKETS_S, self._counts, strict=True)]
        lines += [f'{name}_bucket{{le="+Inf"}} {self._count}', f"{name}_sum {self._sum_s:g}"]
        return "\n".join([*lines, f"{name}_count {self._count}"]) + "\n"


@dataclass(slots=True)
class ProxyStatus:
    """The proxy's own numbers; the agent writes them, the pages read them."""

    mode: str = "nftables"
    healthy: bool = False
    why: str = "waiting for Services and EndpointSlices"
    services: int = 0
    frontends: int = 0
    last_sync_s: float = 0.0  # Unix time
    failures: int = 0
    rounds: int = 0  # of writing rules that succeeded
    sync: Histogram = field(default_factory=Histogram)
    programming: Histogram = field(default_factory=Histogram)

    def metrics(self) -> str:
        """Return the Prometheus text, under the names that kube-proxy uses."""
        return (
            self.sync.render("kubeproxy_sync_proxy_rules_duration_seconds", "Time of one round of writing rules.")
            + self.programming.render(
                "kubeproxy_network_programming_duration_seconds", "From the change seen to the kernel's answer."
            )
            + "# TYPE kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge\n"
            + f"kubeproxy_sync_proxy_rules_last_timestamp_seconds {self.last_sync_s:.3f}\n"
            + "# TYPE kubeproxy_sync_proxy_rules_nftables_sync_failures_total counter\n"
            + f"kubeproxy_sync_proxy_rules_nftables_sync_failures_total {self.failures}\n"
            + "# TYPE podwire_proxy_services gauge\n"
            + f"podwire_proxy_services {self.services}\n"
            + "# TYPE podwire_proxy_frontends gauge\n"
            + f"podwire_proxy_frontends {self.frontends}\n"
        )


def routes(status: ProxyStatus) -> Routes:
    """Return the pages of the metrics port."""

    def health() -> Page:
        return Page("ok") if status.healthy else Page(status.why + "\n", 503)

    return {
        "/proxyMode": lambda: Page(status.mode),
        "/healthz": health,
        "/livez": health,
        "/metrics": lambda: Page(status.metrics(), content_type="text/plain; version=0.0.4"),
    }


async def serve_status(status: ProxyStatus) -> list[asyncio.Server]:
    """Listen as kube-proxy does: metrics on loopback, health on every address. Raises OSError."""
    pages = routes(status)
    health = {name: pages[name] for name in ("/healthz", "/livez")}
    return [
        await serve_pages("127.0.0.1", METRICS_PORT, pages),
        await serve_pages(None, HEALTH_PORT, health),
    ]
