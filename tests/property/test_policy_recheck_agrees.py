"""Changes taken in one by one tell the same difference as comparing the cluster before and after."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_worlds import labels, network_policies, worlds

from podwire.model.objects import Key, Obj
from podwire.policy.matrix import Matrix
from podwire.policy.parse import read_policy
from podwire.policy.recheck import Area, Recheck
from podwire.policy.rules import PortRange
from podwire.policy.snapshot import PolicySnapshot, snapshot_of

_MARKS = [
    (p, n)
    for p in ("TCP", "UDP", "SCTP", "ICMP")
    for n in (0, 1, 52, 53, 54, 79, 80, 81, 82, 442, 443, 444, 8080, 65535)
]


def _marks(ranges: tuple[PortRange, ...]) -> set[tuple[str, int]]:
    return {(p, n) for p, n in _MARKS for r in ranges if r.protocol == p and r.first <= n <= r.last}


def _table(snapshot: PolicySnapshot) -> dict[tuple[Key, Key], set[tuple[str, int]]]:
    matrix = Matrix(snapshot)
    pods = [p.key for p in snapshot.pods.values() if p.selectable]
    return {(a, b): _marks(matrix.between(a, b)) for a, b in product(pods, pods) if a != b}


def _told(areas: tuple[Area, ...], opened: bool) -> dict[tuple[Key, Key], set[tuple[str, int]]]:
    found: dict[tuple[Key, Key], set[tuple[str, int]]] = {}
    for area in areas:
        if area.opened == opened:
            sources, destinations = area.ends()
            for a, b in product(sources.pods, destinations.pods):
                if a != b:
                    found.setdefault((a, b), set()).update(_marks(area.intervals()))
    return {pair: ports for pair, ports in found.items() if ports}


def _expected(before: dict, after: dict) -> dict:
    return {pair: after[pair] - before[pair] for pair in after if pair in before and after[pair] - before[pair]}


changes = st.lists(
    st.one_of(
        st.tuples(st.just("policy"), network_policies("p0")),
        st.tuples(st.just("policy"), network_policies("p1")),
        st.tuples(st.just("remove"), st.integers(0, 3)),
        st.tuples(st.just("pod"), st.tuples(st.integers(0, 7), labels)),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds(), changes)
def test_each_change_tells_its_difference(objects: list[Obj], steps: list) -> None:
    recheck = Recheck(snapshot_of(objects))
    for what, value in steps:
        before = _table(recheck.snapshot)
        if what == "policy":
            areas = recheck.change_policy(read_policy(value))
        elif what == "remove":
            policies = recheck.snapshot.policies
            if not policies:
                continue
            gone = policies[value % len(policies)]
            areas = recheck.remove_policy(gone.kind, gone.key)
        else:
            pods = list(recheck.snapshot.pods.values())
            areas = recheck.change_pod(replace(pods[value[0] % len(pods)], labels=value[1]))
        after = _table(recheck.snapshot)
        assert _told(areas, True) == _expected(before, after)
        assert _told(areas, False) == _expected(after, before)
