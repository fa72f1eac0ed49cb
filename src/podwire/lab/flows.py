"""The connections that a lab's nodes have tracked: what learning mode learns from."""

from __future__ import annotations

import json
import os
import sys
from ipaddress import ip_address

from podwire.lab import control
from podwire.lab.home import ClusterDir
from podwire.model.errors import MachineError
from podwire.verify.suggest import SeenFlow

_SEEN_REPLY = 1 << 1  # IPS_SEEN_REPLY: somebody answered, so it was allowed and served
_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}


def seen(place: ClusterDir, nodes: list[str]) -> set[SeenFlow]:
    """Return the answered connections that ``nodes`` track now. Raises MachineError for a node that does not tell."""
    found: set[SeenFlow] = set()
    for node in nodes:
        for source, destination, protocol, port in json.loads(_on_node(place, node)):
            found.add(SeenFlow(ip_address(source), ip_address(destination), protocol, port))
    return found


def _on_node(place: ClusterDir, node: str) -> str:
    """Run this module on a node and return what it prints."""
    connection = control.connect(place.control_socket)
    if connection is None:
        raise MachineError("lab", "read the flows of", node, "the cluster is not running", "start it: podwire start")
    heard, told = os.pipe()
    path = os.pathsep.join(p for p in sys.path if p)
    request = {
        "op": "node-exec", "node": node, "argv": [sys.executable, "-m", "podwire.lab.flows"],
        "env": {"PYTHONPATH": path},
    }  # fmt: skip
    with connection:
        control.send(connection, request, (0, told, 2))
        os.close(told)
        with os.fdopen(heard) as lines:
            text = lines.read()
        code = control.receive_answer(connection, "node-exec")["exit"]
    if code:
        raise MachineError("lab", "read the flows of", node, f"exit code {code}")
    return text


def main() -> None:
    """Print the answered flows of this network namespace, as pods see them: the source, and who answered."""
    from podwire.kernel.conntrack.real import RealConntrack

    found = {
        (str(f.original.source), str(f.reply.source), _PROTOCOLS[f.original.protocol], f.reply.source_port)
        for f in RealConntrack().flows()
        if f.status & _SEEN_REPLY and f.original.protocol in _PROTOCOLS
    }
    print(json.dumps(sorted(found)))


if __name__ == "__main__":
    main()
