"""Ask the running cluster's kernel what the model has said: a packet of each class between real pods.

The model's answers come from the API's objects, the packets from raw sockets in the pods' namespaces. Packets carry
no data; a server that gets one sees a connection that is reset, or an empty datagram.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from podwire.lab import control
from podwire.lab.home import ClusterDir
from podwire.model.errors import MachineError
from podwire.policy.evaluate import Packet, evaluate
from podwire.policy.packets import Sent
from podwire.policy.sampling import packets_of
from podwire.policy.snapshot import PolicySnapshot, snapshot_of
from podwire.verify import live

_MARKS = range(20_000, 60_000)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A packet that the kernel treated otherwise than the model says."""

    probe: Sent
    source: str
    destination: str
    allowed: bool
    words: str

    def __str__(self) -> str:
        did = "did not arrive" if self.allowed else "arrived"
        port = f"{self.probe.port}/{self.probe.protocol}"
        return f"{self.source} -> {self.destination} {port} {did}; the model: {self.words}"


@dataclass(frozen=True, slots=True)
class Report:
    """What was sent. ``left_out``: classes beyond the limit."""

    probes: int
    allowed: int
    left_out: int
    mismatches: tuple[Mismatch, ...]


def verify(cluster: ClusterDir, *, limit: int, seed: int = 1) -> Report:
    """Return what became of at most ``limit`` packets. Raises MachineError."""
    objects = [located.object for located in live.read(cluster.kubeconfig)]
    snapshot = snapshot_of(objects)
    wanted = list(packets_of(snapshot))
    limit = min(limit, len(_MARKS))
    probes = wanted if len(wanted) <= limit else random.Random(seed).sample(wanted, limit)
    arrived = _send(cluster, sorted(snapshot.nodes), probes)
    # What is in the API now may not be what was when the packets flew: judge by a cluster that stood still.
    again = snapshot_of([located.object for located in live.read(cluster.kubeconfig)])
    if (again.pods, again.policies) != (snapshot.pods, snapshot.policies):
        raise MachineError(
            "lab", "verify", "the cluster", "it changed while packets were sent", "try again when it rests"
        )
    mismatches, allowed = [], 0
    for probe, came in zip(probes, arrived, strict=True):
        mismatch = _judge(snapshot, probe, came)
        allowed += came if mismatch is None else not came
        if mismatch is not None:
            mismatches.append(mismatch)
    return Report(len(probes), allowed, len(wanted) - len(probes), tuple(mismatches))


def _judge(snapshot: PolicySnapshot, probe: Sent, came: bool) -> Mismatch | None:
    source, destination = snapshot.endpoint(probe.source), snapshot.endpoint(probe.destination)
    verdict = evaluate(snapshot, Packet(source, destination, probe.protocol, probe.port))
    if verdict.allowed == came:
        return None
    return Mismatch(probe, str(source), str(destination), verdict.allowed, str(verdict))


def _send(cluster: ClusterDir, nodes: Sequence[str], probes: Sequence[Sent]) -> list[bool]:
    """Return which probes arrived. Every node's prober watches before any of them sends."""
    arrived: set[tuple[int, str]] = set()
    start = random.randrange(len(_MARKS))
    marks = [_MARKS[(start + n) % len(_MARKS)] for n in range(len(probes))]
    rows = [(str(p.source), str(p.destination), p.protocol, p.port, m) for p, m in zip(probes, marks, strict=True)]
    with ExitStack() as stack:
        lines = [_start(cluster, node, stack) for node in nodes]
        for feed, _ in lines:
            print(json.dumps(rows), file=feed, flush=True)
        for word in ("ready", "sent"):
            for node, (_, answers) in zip(nodes, lines, strict=True):
                _expect(node, answers.readline(), word)
            for feed, _ in lines:
                print(word, file=feed, flush=True)
        for _, answers in lines:
            arrived |= {(mark, address) for mark, address in json.loads(answers.readline())}
    return [(m, str(p.destination)) in arrived for p, m in zip(probes, marks, strict=True)]


def _expect(node: str, said: str, word: str) -> None:
    if said.strip() != word:
        raise MachineError("lab", "verify", node, f"its prober said {said.strip()!r}", "see `podwire logs`")


def _start(cluster: ClusterDir, node: str, stack: ExitStack) -> tuple[IO[str], IO[str]]:
    """Start a prober on a node; return where to write and where to read."""
    connection = control.connect(cluster.control_socket)
    if connection is None:
        raise MachineError("lab", "verify", cluster.name, "the cluster is not running", "start it: podwire start")
    stack.enter_context(connection)
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    environment = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    argv = [sys.executable, "-m", "podwire.policy.prober"]
    request = {"op": "node-exec", "node": node, "argv": argv, "env": environment}
    control.send(connection, request, (theirs_in, theirs_out, 2))
    os.close(theirs_in)
    os.close(theirs_out)
    return stack.enter_context(os.fdopen(ours_in, "w")), stack.enter_context(os.fdopen(ours_out, "r"))
