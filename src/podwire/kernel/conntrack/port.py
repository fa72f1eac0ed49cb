"""What may be asked of connection tracking in one network namespace.

Errors: MachineError (room "kernel/conntrack"). Deleting what is not there is no error.
"""

from __future__ import annotations

from typing import Protocol

from podwire.kernel.conntrack.values import Flow, IPAddress


class ConntrackPort(Protocol):
    """The table of tracked connections. Synchronous; a listing costs a few microseconds a flow."""

    def flows(self) -> tuple[Flow, ...]:
        """Return all flows, both families, unordered."""
        ...

    def forget(
        self,
        protocol: int,
        original_destination: IPAddress,
        original_port: int,
        reply_source: IPAddress | None = None,
        reply_port: int = 0,
    ) -> int:
        """Delete the flows first sent to this address and return how many they were.

        With ``reply_source`` (and ``reply_port``) only those that are answered from there: the endpoint that
        a Service's flow was translated to, or the destination itself for flows without translation.
        """
        ...

    def flush(self) -> None:
        """Forget every flow."""
        ...

    def count(self) -> int:
        """Return how many flows are tracked."""
        ...

    def close(self) -> None:
        """Close the netlink socket."""
        ...
