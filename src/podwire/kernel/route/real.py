"""Routes over rtnetlink, in the namespace in which the object was made."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from podwire.kernel.link.values import IPAddress
from podwire.kernel.netlink import NetlinkSocket, machine_error
from podwire.kernel.route.codec import decode_route, list_body, lookup_request, route_request
from podwire.kernel.route.values import Route
from podwire.wire import rtnetlink as rt

_ROOM = "kernel/route"
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES)


class RealRoutes:
    """See ``kernel.route.port``. Give it ``RealLinks().socket`` to share one socket."""

    def __init__(self, socket: NetlinkSocket | None = None) -> None:
        self.socket = socket or NetlinkSocket()

    def close(self) -> None:
        """Close the netlink socket."""
        self.socket.close()

    def routes(self) -> tuple[Route, ...]:
        """Return the main table's routes, IPv4 before IPv6, in the kernel's order."""
        found: list[Route] = []
        for family in (rt.AF_INET, rt.AF_INET6):
            try:
                messages = self.socket.dump(rt.RTM_GETROUTE, list_body(family))
            except OSError as error:
                # No IPv6 in this kernel; or (ENOENT) the family has no main table yet.
                if error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT):
                    continue
                raise machine_error(_ROOM, "list", "routes", error.errno or errno.EIO, str(error.strerror)) from None
            pairs = (decode_route(m) for m in messages)
            found += (p[1] for p in pairs if p is not None and p[0] == rt.RT_TABLE_MAIN)
        return tuple(found)

    def replace(self, route: Route) -> None:
        """Add the route, or overwrite the one with the same destination and metric."""
        self.replace_all((route,))

    def replace_all(self, routes: Sequence[Route]) -> None:
        """Replace several in one exchange with the kernel; the first failure is raised at the end."""
        replies = self.socket.transact([route_request(rt.RTM_NEWROUTE, r) for r in routes])
        for route, reply in zip(routes, replies, strict=True):
            if reply.error is not None:
                raise machine_error(_ROOM, "set", _words(route), reply.error.errno, reply.error.text)

    def delete(self, route: Route) -> None:
        """Remove the route; absent: no error."""
        error = self.socket.transact([route_request(rt.RTM_DELROUTE, route)])[0].error
        if error is not None and error.errno not in (errno.ESRCH, errno.ENODEV, errno.ENOENT):
            raise machine_error(_ROOM, "delete", _words(route), error.errno, error.text)

    def lookup(self, destination: IPAddress) -> Route | None:
        """Return the table's route that a packet to ``destination`` would take; None when unreachable."""
        reply = self.socket.transact([lookup_request(destination)])[0]
        if reply.error is not None:
            if reply.error.errno in _UNREACHABLE:
                return None
            raise machine_error(_ROOM, "look up", str(destination), reply.error.errno, reply.error.text)
        found = decode_route(reply.messages[0])
        if found is None or found[1].type not in (rt.RTN_UNICAST, rt.RTN_LOCAL):
            return None
        return found[1]


def _words(route: Route) -> str:
    via = f" via {route.via}" if route.via is not None else ""
    return f"route {route.destination}{via} link {route.link}"
