"""Connection tracking in memory: flows are put there by the test."""

from __future__ import annotations

from collections.abc import Iterable

from podwire.kernel.conntrack.values import Flow, IPAddress, matches


class FakeConntrack:
    """See ``kernel.conntrack.port``. ``table`` may be changed by tests."""

    def __init__(self, flows: Iterable[Flow] = ()) -> None:
        self.table: list[Flow] = list(flows)

    def close(self) -> None:
        """Nothing to close."""

    def flows(self) -> tuple[Flow, ...]:
        """Return all flows."""
        return tuple(self.table)

    def forget(
        self,
        protocol: int,
        original_destination: IPAddress,
        original_port: int,
        reply_source: IPAddress | None = None,
        reply_port: int = 0,
    ) -> int:
        """Delete the flows first sent to this address, and return how many."""
        sought = protocol, original_destination, original_port, reply_source, reply_port
        kept = [flow for flow in self.table if not matches(flow, *sought)]
        gone = len(self.table) - len(kept)
        self.table = kept
        return gone

    def flush(self) -> None:
        """Forget every flow."""
        self.table.clear()

    def count(self) -> int:
        """Return how many flows there are."""
        return len(self.table)
