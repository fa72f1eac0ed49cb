"""What the model costs: full reachability of two large clusters, and one change at a time.

The clusters are made up here, and nothing touches a kernel. Times are those of the processor, so that a busy
machine does not count against them; parsing is left out, as it is done once at the door.
"""

from __future__ import annotations

import random
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from podwire.model.errors import MachineError
from podwire.model.objects import Key
from podwire.model.selectors import Selector, from_map
from podwire.policy import bench_kernel
from podwire.policy.matrix import Matrix
from podwire.policy.recheck import Recheck
from podwire.policy.rules import BlockPeer, Direction, NamedPort, Peer, PodPeer, Policy, Port, PortRange, Rule
from podwire.policy.snapshot import ContainerPort, Namespace, Pod, PolicySnapshot

_NUMBERS = (80, 443, 8080, 8443, 9090, 5432, 6379, 3306, 9092, 2379, 27017, 11211)
_BOTH: frozenset[Direction] = frozenset(("ingress", "egress"))
_INGRESS: frozenset[Direction] = frozenset(("ingress",))


def measure(say: Callable[[str], None]) -> dict[str, float | None]:
    """Return the figures that ``explain`` explains; those of the kernel are None where it may not be used."""
    return {**measure_model(say), **_measure_kernel(say)}


def _measure_kernel(say: Callable[[str], None]) -> dict[str, float | None]:
    try:
        return bench_kernel.measure(say)
    except (MachineError, PermissionError) as refused:
        say(f"no figures of the kernel: {refused}")
        return dict.fromkeys(bench_kernel.explain())


def measure_model(say: Callable[[str], None]) -> dict[str, float | None]:
    """Return ``matrix_s``, ``matrix_rss_mb``, ``matrix_unique_s``, ``recheck_p50_ms`` and ``recheck_p99_ms``."""
    figures: dict[str, float | None] = {}
    say("full reachability: 100,000 pods in 2,000 classes under 10,000 policies")
    figures["matrix_s"] = _timed(large_cluster(random.Random(1)))
    figures["matrix_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say("full reachability: 10,000 pods that are all different under 1,000 policies")
    figures["matrix_unique_s"] = _timed(unique_cluster(random.Random(2)))
    say("one changed policy or pod at a time, among 10,000 pods and 1,000 policies")
    took = sorted(_rechecks(random.Random(3), 200))
    figures["recheck_p50_ms"] = statistics.median(took) * 1000
    figures["recheck_p99_ms"] = took[int(len(took) * 0.99)] * 1000
    return figures


def explain() -> dict[str, str]:
    """Return what each figure means."""
    return {
        "matrix_s": "processor seconds for the reachability of 100,000 pods under 10,000 policies, all ports",
        "matrix_rss_mb": "largest memory of the process while it did that, the cluster included",
        "matrix_unique_s": "the same for 10,000 pods that policies can all tell apart, under 1,000 policies",
        "recheck_p50_ms": "one changed policy or pod label, with its exact difference: median",
        "recheck_p99_ms": "the same, 99th percentile",
    } | bench_kernel.explain()


def _timed(snapshot: PolicySnapshot) -> float:
    start = time.process_time()
    matrix = Matrix(snapshot)
    matrix.solve()
    matrix.reach()
    return time.process_time() - start


def _rechecks(chance: random.Random, count: int) -> list[float]:
    """Return the seconds that each of some changes took."""
    snapshot = large_cluster(chance, pods=10_000, classes=2_000, policies=1_000)
    recheck = Recheck(snapshot)
    pods, policies = list(snapshot.pods), list(snapshot.policies)
    took = []
    for n in range(count):
        start = time.process_time()
        if n % 2:
            pod = snapshot.pods[chance.choice(pods)]
            other = snapshot.pods[chance.choice(pods)]
            recheck.change_pod(replace(pod, labels={**pod.labels, "app": other.labels["app"]}))
        else:
            old = chance.choice(policies)
            made = _policy(chance, old.key.namespace, n, [f"app-{k}" for k in range(20)])
            if n % 20 == 0:  # a port that no policy used before
                port = PortRange("TCP", 10_000 + n, 10_000 + n)
                made = replace(made, ingress=(replace(made.ingress[0], ports=(port,)),))
            recheck.change_policy(replace(made, key=old.key))
        took.append(time.process_time() - start)
    return took


def large_cluster(
    chance: random.Random, pods: int = 100_000, classes: int = 2_000, policies: int = 10_000
) -> PolicySnapshot:
    """Return a cluster of ``classes`` applications in a hundred namespaces, each with many equal pods."""
    names = [f"ns-{n}" for n in range(100)]
    namespaces = {n: {"team": f"team-{k % 20}", "stage": ("prod", "test")[k % 2]} for k, n in enumerate(names)}
    kinds = []
    for n in range(classes):
        labels = {"app": f"app-{n // len(names)}", "tier": ("front", "back", "data")[n % 3], "version": f"v{n % 4}"}
        kinds.append((names[n % len(names)], labels, (ContainerPort("http", "TCP", (8080, 80)[n % 2]),)))
    made = {}
    for n in range(pods):
        namespace, labels, ports = kinds[n % classes]
        key = Key(namespace, f"pod-{n}")
        own = {**labels, "pod-name": key.name}  # a label that no policy mentions
        made[key] = Pod(key, own, (IPv4Address(0x0A000000 + n),), f"node-{n % 100}", ports=ports)
    apps = [f"app-{n}" for n in range(classes // len(names))]
    return _cluster(made, namespaces, [_policy(chance, names[n % len(names)], n, apps) for n in range(policies)])


def _policy(chance: random.Random, namespace: str, number: int, apps: list[str]) -> Policy:
    """Return a policy such as people write: an application, who may use it, whom it uses."""

    def app() -> Selector:
        return from_map({"app": chance.choice(apps)})

    peers: list[Peer] = [
        PodPeer(namespace, pods=app()),
        PodPeer(None, from_map({"team": f"team-{chance.randrange(20)}"}), app()),
    ]
    if number % 7 == 0:
        peers.append(PodPeer(None, from_map({"stage": "prod"})))
    if number % 11 == 0:
        peers.append(BlockPeer(IPv4Network(f"203.0.{chance.randrange(50)}.0/24")))
    return _made(chance, namespace, number, PodPeer(namespace, pods=app()), peers)


def unique_cluster(chance: random.Random, pods: int = 10_000, policies: int = 1_000) -> PolicySnapshot:
    """Return a cluster in which policies can tell every pod from every other, by ten labels of five values."""
    names = [f"ns-{n}" for n in range(20)]
    made = {}
    for n in range(pods):
        key = Key(names[n % len(names)], f"pod-{n}")
        labels = {f"key-{k}": f"value-{chance.randrange(5)}" for k in range(10)}
        made[key] = Pod(key, labels, (IPv4Address(0x0A000000 + n),), f"node-{n % 100}")

    def pick() -> Selector:
        return from_map({f"key-{k}": f"value-{chance.randrange(5)}" for k in chance.sample(range(10), 2)})

    found = []
    for n in range(policies):
        namespace = chance.choice(names)
        peers: list[Peer] = [PodPeer(namespace, pods=pick()), PodPeer(None, pods=pick())]
        found.append(_made(chance, namespace, n, PodPeer(namespace, pods=pick()), peers))
    return _cluster(made, {n: {} for n in names}, found)


def _made(chance: random.Random, namespace: str, number: int, subject: PodPeer, peers: list[Peer]) -> Policy:
    ports: list[Port] = [PortRange("TCP", n, n) for n in chance.sample(_NUMBERS, 2)]
    if number % 5 == 0:
        ports.append(NamedPort("http", "TCP"))
    if number % 13 == 0:
        ports.append(PortRange("TCP", 30000, 32767))
    ingress = Rule("spec.ingress[0]", "Accept", tuple(peers), tuple(ports))
    key = Key(namespace, f"policy-{number}")
    if number % 3:
        return Policy("NetworkPolicy", key, "NetworkPolicy", subject, (ingress,), (), _INGRESS)
    dns = Rule("spec.egress[0]", "Accept", None, (PortRange("UDP", 53, 53), PortRange("TCP", 53, 53)))
    egress = Rule("spec.egress[1]", "Accept", tuple(peers), tuple(ports[:1]))
    return Policy("NetworkPolicy", key, "NetworkPolicy", subject, (ingress,), (dns, egress), _BOTH)


def _cluster(pods: dict[Key, Pod], namespaces: dict[str, dict[str, str]], policies: list[Policy]) -> PolicySnapshot:
    known = {n: Namespace(n, {**labels, "kubernetes.io/metadata.name": n}) for n, labels in namespaces.items()}
    return PolicySnapshot(pods, known, tuple(policies))
