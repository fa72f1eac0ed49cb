"""What a change opens and cuts."""

from __future__ import annotations

from itertools import product

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_worlds import network_policies, worlds

from podwire.model.objects import Obj
from podwire.policy.difference import Difference, compare
from podwire.policy.matrix import Matrix
from podwire.policy.snapshot import snapshot_of

PODS = """
{kind: Pod, metadata: {namespace: a, name: web, labels: {app: web}}, status: {phase: Running, podIP: 10.244.1.5}}
---
{kind: Pod, metadata: {namespace: a, name: cli, labels: {app: cli}}, status: {phase: Running, podIP: 10.244.1.6}}
---
{kind: Pod, metadata: {namespace: b, name: cli, labels: {app: cli}}, status: {phase: Running, podIP: 10.244.1.7}}
"""


def policy(rules: str) -> str:
    return f"{{kind: NetworkPolicy, metadata: {{namespace: a, name: p}}, spec: {{podSelector: {{matchLabels: {{app: web}}}}, ingress: {rules}}}}}"


def difference(old: str, new: str) -> Difference:
    return compare(
        *(snapshot_of([o for part in (PODS, text) for o in yaml.safe_load_all(part) if o]) for text in (old, new))
    )


CLI80 = "[{from: [{podSelector: {matchLabels: {app: cli}}}], ports: [{port: 80}]}]"
TABLE = [
    ("the same", policy(CLI80), policy(CLI80), []),
    ("the same, written otherwise", policy(CLI80), policy("[{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [cli]}]}}], ports: [{port: 80, protocol: TCP}]}]"), []),
    ("a port opened", policy(CLI80), policy(CLI80.replace("port: 80", "port: 80, endPort: 81")), ["opens a/cli -> a/web on 81/TCP"]),
    ("a port cut", policy(CLI80), policy(CLI80.replace("80", "81")), ["opens a/cli -> a/web on 81/TCP", "cuts a/cli -> a/web on 80/TCP"]),
    ("isolated", "", policy(CLI80), ["cuts a/cli -> a/web on 0-79/TCP, 81-65535/TCP, UDP, SCTP, ICMP", "cuts b/cli, 203.0.113.1 -> a/web on TCP, UDP, SCTP, ICMP"]),
    ("sources that fare alike stand together", policy("[]"), policy("[{from: [{namespaceSelector: {}}], ports: [{port: 80}]}]"), ["opens a/cli, b/cli -> a/web on 80/TCP"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "lines"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_lines(old: str, new: str, lines: list[str]) -> None:
    found = difference(old, new)
    assert sorted(str(c) for c in found.changes) == sorted(lines)
    for change in found.changes:
        assert (change.before.allowed, change.after.allowed) == (not change.opened, change.opened)


def test_pods_that_come_and_go_are_named() -> None:
    gone = "{kind: Pod, metadata: {namespace: a, name: gone}}"
    new = "{kind: Pod, metadata: {namespace: a, name: new}}"
    found = difference(gone, new)
    assert ([str(k) for k in found.added], [str(k) for k in found.removed]) == (["a/new"], ["a/gone"])
    assert found.changes == ()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds(), st.lists(network_policies("p1"), max_size=1))
def test_difference_is_that_of_the_matrices(objects: list[Obj], changed: list[Obj]) -> None:
    old = snapshot_of(objects)
    kept = [o for o in objects if not (o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == "p1")]
    new = snapshot_of([*kept, *changed])
    lines = [c for c in compare(old, new, (4,)).changes if c.sources.pods and c.destinations.pods]
    before, after = Matrix(old), Matrix(new)
    pods = [p.key for p in old.pods.values() if p.selectable]
    for a, b in product(pods, pods):
        if a == b:
            continue
        ports = [p for c in lines if c.opened and a in c.sources.pods and b in c.destinations.pods for p in c.ports]
        lost = [p for c in lines if not c.opened and a in c.sources.pods and b in c.destinations.pods for p in c.ports]
        assert set(_numbers(after.between(a, b))) - set(_numbers(before.between(a, b))) == set(_numbers(ports))
        assert set(_numbers(before.between(a, b))) - set(_numbers(after.between(a, b))) == set(_numbers(lost))


def _numbers(ranges: list) -> list[tuple[str, int]]:
    """A few ports stand for all: both ends of each range and the numbers that policies use."""
    marks = (0, 1, 52, 53, 54, 79, 80, 81, 82, 442, 443, 444, 8079, 8080, 8081, 65535)
    return [(r.protocol, n) for r in ranges for n in marks if r.first <= n <= r.last]
