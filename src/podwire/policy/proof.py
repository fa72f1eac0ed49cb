"""Prove that the kernel does what the model says, on random clusters, by packets.

Each cluster is brought into the world of ``packets`` change by change, as an agent would, and after each change the
three judges are asked about the same packets: the model (``evaluate``), the rendered rules (``trace``), the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from podwire.kernel.nft.port import NftPort
from podwire.model.objects import Obj
from podwire.policy.evaluate import Packet, evaluate
from podwire.policy.feed import feed_all, feed_change
from podwire.policy.fuzz import NODES, RandomCluster
from podwire.policy.packets import PacketWorld, Sent
from podwire.policy.programmer import Programmer
from podwire.policy.render import nftables as render
from podwire.policy.snapshot import PolicySnapshot, snapshot_of
from podwire.policy.table import PolicyTable

_CHANGES = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """A packet on which model and kernel disagree, and the cluster in which they do."""

    seed: int
    step: int
    probe: Sent
    allowed: bool
    arrived: bool
    words: str
    objects: tuple[Obj, ...]

    def __str__(self) -> str:
        p = self.probe
        packet = f"{p.source} -> {p.destination} {p.port}/{p.protocol}"
        did = "arrived" if self.arrived else "did not arrive"
        return f"seed {self.seed}, step {self.step}: {packet} {did}, but the model says: {self.words}"


@dataclass(slots=True)
class Tally:
    """What a run has seen."""

    clusters: int = 0
    probes: int = 0
    allowed: int = 0
    differences: list[Difference] = field(default_factory=list)


MakeProgrammer = Callable[[NftPort, PolicyTable], Programmer]


class _Node:
    def __init__(self, nft: NftPort, name: str, versions: Sequence[int], make: MakeProgrammer) -> None:
        self.table = PolicyTable(name, versions)
        self.programmer = make(nft, self.table)


def prove(world: PacketWorld, seeds: Sequence[int], *, probes: int = 24, make: MakeProgrammer = Programmer) -> Tally:
    """Return what happened to ``probes`` packets a step on the clusters of these seeds."""
    tally = Tally()
    for seed in seeds:
        _prove_cluster(world, seed, probes, tally, make)
        tally.clusters += 1
    for name in NODES:
        for table in render.TABLES:
            world.nft[name].apply(render.delete(table))
    return tally


def _prove_cluster(world: PacketWorld, seed: int, probes: int, tally: Tally, make: MakeProgrammer) -> None:
    dual = seed % 3 == 0
    cluster = RandomCluster(seed, pods=9, policies=5, dual=dual)
    nodes = [_Node(world.nft[name], name, (4, 6) if dual else (4,), make) for name in NODES]
    world.forget_connections()
    for node in nodes:
        feed_all(node.table, cluster.objects.values())
        node.programmer.program()
    for step in range(_CHANGES + 1):
        if step:
            old, new = cluster.mutate()
            for node in nodes:
                feed_change(node.table, old, new)
                node.programmer.program()
        _compare(world, cluster, seed, step, probes, tally)


def _compare(world: PacketWorld, cluster: RandomCluster, seed: int, step: int, probes: int, tally: Tally) -> None:
    snapshot = snapshot_of(cluster.objects.values())
    sent = list(_draw(cluster, snapshot, probes))
    arrived = world.deliver(sent)
    for probe, came in zip(sent, arrived, strict=True):
        ends = snapshot.endpoint(probe.source), snapshot.endpoint(probe.destination)
        verdict = evaluate(snapshot, Packet(*ends, probe.protocol, probe.port))
        tally.probes += 1
        tally.allowed += verdict.allowed
        if came != verdict.allowed:
            objects = tuple(cluster.objects.values())
            tally.differences.append(Difference(seed, step, probe, verdict.allowed, came, str(verdict), objects))


def _draw(cluster: RandomCluster, snapshot: PolicySnapshot, count: int) -> Iterator[Sent]:
    """Yield packets that cross a node: not within one pod, not between strangers, not of pods that have ended."""
    ended = {ip for pod in snapshot.pods.values() if not pod.selectable for ip in pod.ips}
    drawn = 0
    for source, destination, protocol, port in cluster.probes(20 * count):
        src, dst = ip_address(source), ip_address(destination)
        is_pod = snapshot.endpoint(src).pod is not None, snapshot.endpoint(dst).pod is not None
        if src == dst or not any(is_pod) or {src, dst} & ended:
            continue
        yield Sent(src, dst, protocol, port)
        drawn += 1
        if drawn == count:
            return
