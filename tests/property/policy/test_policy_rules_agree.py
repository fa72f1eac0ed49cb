"""Random clusters that change at random: after each change the rendered rules say what the model says.

The rules are read from the fake kernel as they were programmed, change by change, so a stale element, a missing
chain or a wrong order of operations shows here.
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from podwire.kernel.nft.fake import FakeNft
from podwire.policy.evaluate import Packet, evaluate
from podwire.policy.feed import feed_all, feed_change
from podwire.policy.fuzz import NODES, RandomCluster
from podwire.policy.programmer import Programmer
from podwire.policy.render import nftables as render
from podwire.policy.snapshot import snapshot_of
from podwire.policy.table import PolicyTable
from podwire.policy.trace import Probe, Ruleset, trace

NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}


class Node:
    """One node's table on a fake kernel."""

    def __init__(self, name: str, versions: tuple[int, ...]) -> None:
        self.nft = FakeNft()
        self.table = PolicyTable(name, versions)
        self.programmer = Programmer(self.nft, self.table)

    def ruleset(self) -> Ruleset:
        where = (render.FAMILY, self.programmer.in_force)
        chains = {c: self.nft.filters.get((*where, c), ()) for c in self.nft.chains[where]}
        return Ruleset(chains, self.nft.tables[where])


def check(cluster: RandomCluster, nodes: dict[str, Node], count: int) -> None:
    snapshot = snapshot_of(cluster.objects.values())
    by_ip = {ip: pod for pod in snapshot.pods.values() if pod.selectable for ip in pod.ips}
    rulesets = {name: node.ruleset() for name, node in nodes.items()}
    for source, destination, protocol, port in cluster.probes(count):
        src, dst = ip_address(source), ip_address(destination)
        ends = [by_ip[ip] for ip in (src, dst) if ip in by_ip]
        ended = {ip for p in snapshot.pods.values() if not p.selectable for ip in p.ips}
        if not ends or ended & {src, dst}:
            continue
        verdict = evaluate(snapshot, Packet(snapshot.endpoint(src), snapshot.endpoint(dst), protocol, port))
        outcomes = {n: trace(rulesets[n], Probe(src, dst, NUMBERS[protocol], port)) for n in {p.node for p in ends}}
        passed = all(o.passed for o in outcomes.values())
        assert passed == verdict.allowed, (source, destination, protocol, port, str(verdict), outcomes)


@pytest.mark.parametrize("seed", range(40))
def test_rules_and_model_agree_through_changes(seed: int) -> None:
    dual = seed % 4 == 3
    cluster = RandomCluster(seed, pods=10, policies=6, dual=dual)
    nodes = {name: Node(name, (4, 6) if dual else (4,)) for name in NODES}
    for node in nodes.values():
        feed_all(node.table, cluster.objects.values())
        node.programmer.program()
    check(cluster, nodes, 60)
    for _ in range(25):
        for _ in range(1 + seed % 3):
            old, new = cluster.mutate()
            for node in nodes.values():
                feed_change(node.table, old, new)
        for node in nodes.values():
            node.programmer.program()
        check(cluster, nodes, 40)
    for node in nodes.values():
        before = node.ruleset()
        node.programmer.forget()
        node.programmer.program()
        after = node.ruleset()
        assert {c: tuple(r) for c, r in before.chains.items()} == {c: tuple(r) for c, r in after.chains.items()}
        sets = [s for s in after.sets if s != render.GENERATION]
        assert {s: before.sets[s].keys() for s in sets} == {s: after.sets[s].keys() for s in sets}
        assert len([t for t in node.nft.tables if t[1].startswith("podwire-policy")]) == 1


def test_nothing_is_left_when_the_last_policy_goes() -> None:
    cluster = RandomCluster(1, pods=10, policies=8)
    node = Node(NODES[0], (4,))
    feed_all(node.table, cluster.objects.values())
    node.programmer.program()
    for policy in [o for (kind, _, _), o in cluster.objects.items() if kind == "NetworkPolicy"]:
        feed_change(node.table, policy, None)
    node.programmer.program()
    ruleset = node.ruleset()
    assert set(ruleset.chains) == {"forward-egress", "forward-ingress", "unknown-egress", "unknown-ingress"}
    assert set(ruleset.sets) == {"generation", "egress-pods", "ingress-pods", "pod-itself"}
    assert {e.verdict for e in ruleset.sets["egress-pods"].values()} == {"accept"}
