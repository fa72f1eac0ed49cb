"""Tracked connections as values."""

from __future__ import annotations

from podwire.wire.ctnetlink import Flow, FlowTuple, IPAddress

__all__ = ["Flow", "FlowTuple", "IPAddress", "matches"]


def matches(
    flow: Flow,
    protocol: int,
    original_destination: IPAddress,
    original_port: int,
    reply_source: IPAddress | None = None,
    reply_port: int = 0,
) -> bool:
    """Return whether a flow was first sent to this address, and is answered from ``reply_source``.

    ``reply_source`` None and ``reply_port`` 0 match any.
    """
    sent, answered = flow.original, flow.reply
    if (sent.protocol, sent.destination, sent.destination_port) != (
        protocol,
        original_destination,
        original_port,
    ):
        return False
    if reply_source is not None and answered.source != reply_source:
        return False
    return not reply_port or answered.source_port == reply_port
