"""What may be asked of the routes of one network namespace. Errors as in ``kernel.link.port``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from podwire.kernel.link.values import IPAddress
from podwire.kernel.route.values import Route


class RoutePort(Protocol):
    """The main routing table, both families. Synchronous."""

    def routes(self) -> tuple[Route, ...]:
        """Return the main table's routes, IPv4 before IPv6, in the kernel's order."""
        ...

    def replace(self, route: Route) -> None:
        """Add the route, or overwrite the one with the same destination and metric."""
        ...

    def replace_all(self, routes: Sequence[Route]) -> None:
        """Replace several, in order, in one exchange with the kernel; raise the first failure at the end."""
        ...

    def delete(self, route: Route) -> None:
        """Remove the route; absent: no error."""
        ...

    def lookup(self, destination: IPAddress) -> Route | None:
        """Return the table's route that a packet to ``destination`` would take; None when unreachable."""
        ...

    def close(self) -> None:
        """Close the netlink socket."""
        ...
