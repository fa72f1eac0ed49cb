"""Routes in memory, with the kernel's rules. See ``kernel.fake``."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network

from podwire.kernel.fake import RTPROT_KERNEL, FakeMachine, FakeNamespace
from podwire.kernel.link.monitor import Change
from podwire.kernel.link.values import IPAddress
from podwire.kernel.netlink import machine_error
from podwire.kernel.route.values import Route

_UNICAST, _LOCAL = 1, 2


class FakeRoutes:
    """See ``kernel.route.port``. Bound to the machine's current namespace."""

    def __init__(self, machine: FakeMachine | None = None) -> None:
        self.machine = machine or FakeMachine()
        self.namespace: FakeNamespace = self.machine.current

    def close(self) -> None:
        """Nothing to close."""

    def routes(self) -> tuple[Route, ...]:
        """Return the routes, IPv4 before IPv6."""
        return tuple(sorted(self.namespace.routes.values(), key=_order))

    def replace(self, route: Route) -> None:
        """Add the route, or overwrite the one with the same destination and metric."""
        if route.type == _UNICAST:
            route = self._resolve(route)
        here = self.namespace
        here.routes[(route.destination, route.metric)] = route
        here.tell(Change("route", route))

    def _resolve(self, route: Route) -> Route:
        here, link, via = self.namespace, route.link, route.via
        if link and link not in here.links:
            raise self._refuse(route, errno.ENODEV)
        if via is not None and not (route.onlink and link):
            reached = self._best(via, self.namespace)
            if reached is None or reached.via is not None or link not in (0, reached.link):
                number = errno.ENETUNREACH if via.version == 4 else errno.EHOSTUNREACH
                raise self._refuse(route, number)
            link = reached.link
        if not link:
            raise self._refuse(route, errno.ENODEV)
        if not here.links[link].up:
            raise self._refuse(route, errno.ENETDOWN)
        return replace(route, link=link)

    def _refuse(self, route: Route, number: int) -> Exception:
        return machine_error("kernel/route", "set", f"route {route.destination}", number)

    def replace_all(self, routes: Sequence[Route]) -> None:
        """Replace several, in order; the first failure is raised at the end."""
        failures: list[Exception] = []
        for route in routes:
            try:
                self.replace(route)
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def delete(self, route: Route) -> None:
        """Remove the route; absent: no error. What is not said (link, via) matches anything."""
        here = self.namespace
        for key, old in list(here.routes.items()):
            if old.destination != route.destination or route.metric not in (0, old.metric):
                continue
            if route.link not in (0, old.link) or route.via not in (None, old.via):
                continue
            del here.routes[key]
            here.tell(Change("route", old, gone=True))
            return

    def lookup(self, destination: IPAddress) -> Route | None:
        """Return the table's route that a packet to ``destination`` would take; None when unreachable."""
        for address in self.namespace.addresses:
            if address.interface.ip == destination:
                host = ip_network(destination)
                source = destination if destination.version == 4 else None
                return Route(host, address.link, source=source, protocol=RTPROT_KERNEL, type=_LOCAL)
        found = self._best(destination, self.namespace)
        return found if found is not None and found.type == _UNICAST else None

    def _best(self, destination: IPAddress, namespace: FakeNamespace) -> Route | None:
        fits = [
            r
            for r in namespace.routes.values()
            if r.destination.version == destination.version and destination in r.destination
        ]
        return max(fits, key=lambda r: (r.destination.prefixlen, -r.metric), default=None)


def _order(route: Route) -> tuple[int, bytes, int, int]:
    network = route.destination
    return network.version, network.network_address.packed, network.prefixlen, route.metric
