"""Send and watch probes in the pods of one node; run there as `python -m podwire.policy.prober`.

Speaks lines of JSON on its standard streams. In: a list of [source, destination, protocol, port, mark]; then, a line
each, "send" and "report". Out: "ready", "sent", and the list of [mark, destination] that arrived at this node's pods.
All nodes watch before any sends, and report when all have sent. Nothing is waited for but the wires' silence.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from podwire.kernel.link.real import RealLinks
from podwire.kernel.netns.real import RealNetns
from podwire.policy.packets import ETH_P_ALL, OUTGOING, Sent, decode_packet, encode_packet
from podwire.policy.rules import IPAddress

_NETNS = Path("/run/podwire/netns")
_QUIET_S = 0.05


class Prober:
    """Sockets in every pod of this node."""

    def __init__(self, directory: Path = _NETNS) -> None:
        self._senders: dict[tuple[IPAddress, int], socket.socket] = {}
        self._watchers: dict[int, tuple[socket.socket, frozenset[IPAddress]]] = {}
        self._arrived: set[tuple[int, str]] = set()
        netns = RealNetns()
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            fd = netns.open(path)
            netns.within(fd, self._open)

    def _open(self) -> None:
        links = RealLinks()
        addresses = frozenset(a.interface.ip for a in links.addresses() if not a.interface.ip.is_loopback)
        links.close()
        for address in addresses:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            self._senders[address, address.version] = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
        self._watchers[sock.fileno()] = (sock, addresses)

    def send(self, probes: Sequence[tuple[Sent, int]]) -> None:
        """Send those probes whose source is a pod of this node."""
        for index, (probe, mark) in enumerate(probes):
            sender = self._senders.get((probe.source, probe.source.version))
            if sender is not None:
                sender.sendto(encode_packet(probe, mark), (str(probe.destination), 0))
            if index % 64 == 63:
                self.collect(0.0)

    def collect(self, quiet_s: float = _QUIET_S) -> list[tuple[int, str]]:
        """Return all that has arrived, when nothing more comes for ``quiet_s``."""
        while ready := select.select(list(self._watchers), [], [], quiet_s)[0]:
            for fd in ready:
                self._drain(*self._watchers[fd])
        return sorted(self._arrived)

    def _drain(self, sock: socket.socket, addresses: frozenset[IPAddress]) -> None:
        while True:
            try:
                frame, about = sock.recvfrom(256)
            except BlockingIOError:
                return
            seen = decode_packet(frame) if about[2] != OUTGOING else None
            if seen is not None and seen[1] in addresses:
                self._arrived.add((seen[0], str(seen[1])))


def main() -> None:
    """Serve one round on the standard streams."""
    prober = Prober()
    raw = json.loads(sys.stdin.readline())
    probes = [(Sent(ip_address(s), ip_address(d), protocol, port), mark) for s, d, protocol, port, mark in raw]
    print("ready", flush=True)
    sys.stdin.readline()
    prober.send(probes)
    print("sent", flush=True)
    sys.stdin.readline()
    print(json.dumps(prober.collect()), flush=True)


if __name__ == "__main__":
    main()
