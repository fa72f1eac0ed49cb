"""UDP flows that outlive the host port they went to.

A UDP flow has no end: its tracked connection goes on translating to a pod that is gone, or not at all
when it began before the port was published, for as long as the client sends. TCP finds out by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from podwire.cni.settings import Published
from podwire.cni.spec import IPAddress
from podwire.kernel.conntrack.port import ConntrackPort
from podwire.kernel.conntrack.values import Flow
from podwire.model.errors import MachineError

UDP = 17


class StaleFlows:
    """Forgets them, in one node's connection table."""

    def __init__(self, open_conntrack: Callable[[], ConntrackPort], local: Callable[[], Collection[IPAddress]]) -> None:
        """``local`` returns the node's own addresses. Nothing is opened before a UDP port comes by."""
        self._open, self._local = open_conntrack, local
        self._conntrack: ConntrackPort | None = None

    def forget(self, ports: Iterable[Published], *, published: bool) -> None:
        """Forget flows to these ports: if ``published``, those that lead elsewhere, else those that lead there.

        A connection table that cannot be read is no reason to refuse a pod: the flows then age.
        """
        udp = [p for p in ports if p.protocol == "udp"]
        if not udp:
            return
        with suppress(MachineError):
            if self._conntrack is None:
                self._conntrack = self._open()
            local = frozenset(self._local())
            for flow in self._conntrack.flows():
                if any(is_stale(flow, port, local, published) for port in udp):
                    sent, answered = flow.original, flow.reply
                    self._conntrack.forget(
                        UDP,
                        sent.destination,
                        sent.destination_port,
                        answered.source,
                        answered.source_port,
                    )


def is_stale(flow: Flow, port: Published, local: Collection[IPAddress], published: bool) -> bool:
    """Return whether a flow was sent to the port's host side and must not go on as it does."""
    sent, answered = flow.original, flow.reply
    if (sent.protocol, sent.destination_port) != (UDP, port.host_port):
        return False
    if sent.destination.version != port.pod.version or sent.destination not in local:
        return False
    if port.host_ip is not None and sent.destination != port.host_ip:
        return False
    leads_there = (answered.source, answered.source_port) == (port.pod.ip, port.container_port)
    return leads_there != published
