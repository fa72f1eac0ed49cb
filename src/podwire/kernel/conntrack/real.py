"""Connection tracking over ctnetlink, in the namespace in which the object was made."""

from __future__ import annotations

import errno
from pathlib import Path

from podwire.kernel.conntrack.values import Flow, IPAddress, matches
from podwire.kernel.netlink import NETLINK_NETFILTER, NetlinkSocket, Request, machine_error
from podwire.model.errors import MachineError, Unsupported
from podwire.wire import ctnetlink as wire

_ROOM = "kernel/conntrack"
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_ABSENT = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


class RealConntrack:
    """See ``kernel.conntrack.port``."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER, strict=False)

    def close(self) -> None:
        """Close the netlink socket."""
        self._socket.close()

    def flows(self) -> tuple[Flow, ...]:
        """Return all flows, both families."""
        return self._dump(wire.encode_header())

    def forget(
        self,
        protocol: int,
        original_destination: IPAddress,
        original_port: int,
        reply_source: IPAddress | None = None,
        reply_port: int = 0,
    ) -> int:
        """Delete the flows first sent to this address, and return how many."""
        # The kernel compares (Linux 5.8) so that a large table is not carried over; so do we, for older ones.
        body = wire.encode_destination_filter(original_destination, protocol, original_port)
        stale = [
            flow
            for flow in self._dump(body)
            if matches(flow, protocol, original_destination, original_port, reply_source, reply_port)
        ]
        replies = self._socket.transact([Request(wire.CT_DELETE, 0, wire.encode_delete(f)) for f in stale])
        for reply in replies:
            if reply.error is not None and reply.error.errno != errno.ENOENT:
                what = f"flows to {original_destination} port {original_port}"
                raise self._error("delete", what, reply.error.errno, reply.error.text)
        return sum(reply.error is None for reply in replies)

    def flush(self) -> None:
        """Forget every flow."""
        error = self._socket.transact([Request(wire.CT_DELETE, 0, wire.encode_header())])[0].error
        if error is not None:
            raise self._error("flush", "all flows", error.errno, error.text)

    def count(self) -> int:
        """Return how many flows are tracked in the namespace that the thread is in."""
        try:
            return int(_COUNT.read_text())
        except OSError as error:
            raise self._error("count", "flows", error.errno or errno.EIO) from None

    def _dump(self, body: bytes) -> tuple[Flow, ...]:
        try:
            messages = self._socket.dump(wire.CT_GET, body)
        except OSError as error:
            number = error.errno or errno.EIO
            raise self._error("list", "flows", number, str(error.strerror or "")) from None
        found = (wire.decode_flow(m.body) for m in messages)
        return tuple(flow for flow in found if flow is not None)

    def _error(self, act: str, what: str, number: int, said: str = "") -> MachineError:
        if number in _ABSENT:
            return Unsupported(_ROOM, act, what, said or "no answer", "needs the module nf_conntrack_netlink")
        return machine_error(_ROOM, act, what, number, said)
