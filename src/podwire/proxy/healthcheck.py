"""spec.healthCheckNodePort: a page per Service that tells outside balancers whether this node has endpoints.

Source: Kubernetes "Create an External Load Balancer", and what kube-proxy answers there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from podwire.model.objects import Key
from podwire.proxy.desired import ServiceRules
from podwire.runtime.clock import Clock
from podwire.runtime.logging import get
from podwire.runtime.statusserver import EVERYWHERE, Page, serve_pages

_AGAIN_S = 5.0
_log = get("proxy")


@dataclass(slots=True)
class _Check:
    """One Service's page. ``local`` is what it says; it changes while the server stays."""

    service: Key
    local: int  # endpoints of this node that are ready


class HealthChecks:
    """The listeners of one node, one per Service that has a healthCheckNodePort."""

    def __init__(self, is_healthy: Callable[[], bool], clock: Clock) -> None:
        """``is_healthy``: whether the proxy programs Services at all; without it every answer is 503."""
        self._is_healthy, self._clock = is_healthy, clock
        self._wanted: dict[int, _Check] = {}
        self._servers: dict[int, asyncio.Server] = {}
        self._wake = asyncio.Event()

    def note(self, plans: Mapping[Key, ServiceRules | None], *, whole: bool = False) -> None:
        """Take in what became of these Services (``whole``: of all there are); listeners follow in ``run``."""
        ports = {k: r.health_check_port if r is not None else 0 for k, r in plans.items()}
        for port, check in list(self._wanted.items()):
            if ports.get(check.service, 0 if whole else port) != port:
                del self._wanted[port]
                self._wake.set()
        for key, rules in plans.items():
            if rules is None or not rules.health_check_port:
                continue
            known = self._wanted.setdefault(rules.health_check_port, _Check(key, -1))
            if known.service == key:  # the API gives a port to one Service only
                if known.local < 0:
                    self._wake.set()
                known.local = rules.local_ready

    async def run(self) -> None:
        """Open and close listeners until cancelled."""
        try:
            while True:
                self._wake.clear()
                if await self._follow():
                    await self._wake.wait()
                else:
                    await self._clock.sleep(_AGAIN_S)
        finally:
            for server in self._servers.values():
                server.close()

    async def _follow(self) -> bool:
        """Bring the listeners in line; return whether all are as wanted."""
        for port in [p for p in self._servers if p not in self._wanted]:
            self._servers.pop(port).close()
        complete = True
        for port, check in [(p, c) for p, c in self._wanted.items() if p not in self._servers]:
            try:
                self._servers[port] = await serve_pages(None, port, {EVERYWHERE: partial(self._page, port)})
            except OSError as error:
                complete = False
                _log.warning("health-check-port", service=check.service, port=port, error=str(error))
        return complete

    def _page(self, port: int) -> Page:
        check = self._wanted.get(port)
        if check is None:
            return Page("gone\n", 503)
        healthy = self._is_healthy()
        body = {
            "service": {"namespace": check.service.namespace, "name": check.service.name},
            "localEndpoints": check.local,
            "serviceProxyHealthy": healthy,
        }
        headers = (("X-Content-Type-Options", "nosniff"), ("X-Load-Balancing-Endpoint-Weight", str(check.local)))
        text = json.dumps(body, indent="\t") + "\n"
        return Page(text, 200 if check.local and healthy else 503, "application/json", headers)
