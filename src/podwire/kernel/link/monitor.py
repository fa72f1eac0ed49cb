"""What changes in a network namespace, as the kernel tells it: links, addresses, routes, neighbours, FDB.

monitor = netns.within(fd, RealMonitor)
async for changes in monitor.changes(): ...
"""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from podwire.kernel.link.codec import decode_address, decode_link, decode_neighbour
from podwire.kernel.link.values import Address, FdbEntry, Link, Neighbour
from podwire.kernel.netlink import NetlinkSocket
from podwire.kernel.route.codec import decode_route
from podwire.kernel.route.values import Route
from podwire.wire import rtnetlink as rt
from podwire.wire.netlink import Message

_GROUPS = (
    rt.RTNLGRP_LINK,
    rt.RTNLGRP_NEIGH,
    rt.RTNLGRP_IPV4_IFADDR,
    rt.RTNLGRP_IPV6_IFADDR,
    rt.RTNLGRP_IPV4_ROUTE,
    rt.RTNLGRP_IPV6_ROUTE,
)


@dataclass(frozen=True, slots=True)
class Change:
    """One change. ``kind`` "lost" (value None): messages were dropped, read everything again."""

    kind: Literal["link", "address", "route", "neighbour", "fdb", "lost"]
    value: Link | Address | Route | Neighbour | FdbEntry | None
    gone: bool = False


class MonitorPort(Protocol):
    """Changes of one namespace from the moment when the object was made."""

    def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        """Yield changes in batches as they come; never ends. One consumer."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class RealMonitor:
    """rtnetlink's multicast groups. One's own changes are told as well."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket()
        self._socket.subscribe(_GROUPS)

    def fileno(self) -> int:
        """Return the descriptor, readable when there are changes."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self) -> tuple[Change, ...]:
        """Return the changes that wait; empty when there are none."""
        found: list[Change] = []
        while True:
            try:
                messages = self._socket.receive()
            except BlockingIOError:
                return tuple(found)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found.append(Change("lost", None))
                continue
            found += (c for c in map(_decode_or_lose, messages) if c is not None)

    async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        """Yield changes in batches as they come."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self.fileno(), readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                if batch := self.read():
                    yield batch
        finally:
            loop.remove_reader(self.fileno())


def _decode_or_lose(message: Message) -> Change | None:
    # A message of a shape that is not known yet must not end the watch: reading everything again is safe.
    try:
        return decode_change(message)
    except (ValueError, KeyError, struct.error):
        return Change("lost", None)


def decode_change(message: Message) -> Change | None:
    """Return what a multicast message tells; None for other tables and families."""
    match message.type:
        case rt.RTM_NEWLINK | rt.RTM_DELLINK:
            # A bridge also tells of its ports in AF_BRIDGE messages: those are about the port's role.
            if rt.decode_ifinfo(message.body).family != rt.AF_UNSPEC:
                return None
            return Change("link", decode_link(message), message.type == rt.RTM_DELLINK)
        case rt.RTM_NEWADDR | rt.RTM_DELADDR:
            return Change("address", decode_address(message), message.type == rt.RTM_DELADDR)
        case rt.RTM_NEWROUTE | rt.RTM_DELROUTE:
            found = decode_route(message)
            if found is None or found[0] != rt.RT_TABLE_MAIN:
                return None
            return Change("route", found[1], message.type == rt.RTM_DELROUTE)
        case rt.RTM_NEWNEIGH | rt.RTM_DELNEIGH:
            entry = decode_neighbour(message)
            if entry is None:
                return None
            gone = message.type == rt.RTM_DELNEIGH
            return Change("fdb" if isinstance(entry, FdbEntry) else "neighbour", entry, gone)
    return None
