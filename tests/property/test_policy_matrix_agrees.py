"""The fast engine says what the reference says, about every packet of random clusters."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import product

from hypothesis import HealthCheck, given, settings
from policy_worlds import NUMBERS, worlds

from podwire.model.objects import Obj
from podwire.policy.evaluate import Packet, evaluate
from podwire.policy.matrix import Matrix
from podwire.policy.snapshot import Endpoint, PolicySnapshot, snapshot_of

OUTSIDE = ("203.0.113.9", "198.51.100.1", "10.244.1.7", "10.9.9.9", "192.168.71.99", "10.244.2.0", "2001:db8::9")


def ends(snapshot: PolicySnapshot, family: int) -> list[Endpoint]:
    found = [snapshot.pod_endpoint(key, family) for key, pod in snapshot.pods.items() if pod.phase == "Running"]
    found += [snapshot.node_endpoint(name, family) for name in snapshot.nodes]
    found += [snapshot.endpoint(ip_address(t)) for t in OUTSIDE if ip_address(t).version == family]
    return [e for e in found if e.ip is not None]


def ports() -> list[tuple[str, int]]:
    return [*product(("TCP", "UDP", "SCTP"), (*NUMBERS, 60, 65535)), ("ICMP", 0)]


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds())
def test_matrix_says_what_evaluate_says(objects: list[Obj]) -> None:
    snapshot = snapshot_of(objects)
    for family in (4, 6):
        matrix = Matrix(snapshot, family)
        every = ends(snapshot, family)
        for src, dst in product(every, every):
            for protocol, port in ports():
                packet = Packet(src, dst, protocol, port)
                verdict = evaluate(snapshot, packet)
                assert matrix.reaches(packet) == verdict.allowed, f"{packet}: {verdict}"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds())
def test_totals_are_those_of_all_pairs(objects: list[Obj]) -> None:
    snapshot = snapshot_of(objects)
    matrix = Matrix(snapshot)
    pods = [pod.key for pod in snapshot.pods.values() if pod.selectable]
    masks = {
        (a, b): matrix.allowed(matrix.classes.of_pod[a], matrix.classes.of_pod[b])
        for a, b in product(pods, pods)
        if a != b
    }
    reach = matrix.reach()
    assert reach.pairs == len(masks)
    assert reach.open == sum(m == matrix.ports.everything for m in masks.values())
    assert reach.shut == sum(m == 0 for m in masks.values())
