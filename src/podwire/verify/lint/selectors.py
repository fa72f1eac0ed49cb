"""Rules on what policies select: pods, peers, namespaces, addresses, ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any

from podwire.verify.lint.finding import POLICIES, Finding, Rule
from podwire.verify.located import Located
from podwire.verify.rawpolicy import (
    METADATA_NAME,
    WrittenRule,
    describe_selector,
    policy_types,
    rules_of,
    selector_of,
)
from podwire.verify.workloads import PodView
from podwire.verify.world import World

TARGETS_NOTHING = Rule("PW002", "policy-selects-nothing", "warning",
    "A policy's podSelector matches no pod of its namespace", POLICIES)  # fmt: skip
PEER_NOTHING = Rule("PW003", "peer-selects-nothing", "warning", "A peer's selectors match no pod", POLICIES)
NAMESPACE_LABEL = Rule("PW004", "namespace-label", "warning",
    "A namespaceSelector asks for a label that namespaces do not get by themselves",
    f"{POLICIES}#targeting-a-namespace-by-its-name")  # fmt: skip
NAMED_PORT = Rule(
    "PW010", "named-port-unknown", "warning", "A policy names a port that no pod it concerns has", POLICIES
)
POD_ADDRESSES = Rule("PW012", "ipblock-covers-pods", "note",
    "An ipBlock covers pod addresses, which change with every pod",
    f"{POLICIES}#behavior-of-to-and-from-selectors")  # fmt: skip
TWO_PEERS = Rule("PW019", "selectors-apart", "note",
    "A podSelector and a namespaceSelector stand as two peers: either alone is enough",
    f"{POLICIES}#behavior-of-to-and-from-selectors")  # fmt: skip
IGNORED_RULES = Rule("PW020", "rules-ignored", "error",
    "Rules are written for a direction that policyTypes leaves out: they do nothing", POLICIES)  # fmt: skip
HOST_NETWORK = Rule("PW021", "host-network", "warning",
    "A policy selects a pod on the host's network, where network plugins do not enforce it", POLICIES)  # fmt: skip
SERVICE_PORT = Rule("PW023", "service-port", "warning",
    "A rule allows a Service's port where the pods listen on its targetPort: policies judge after the Service",
    POLICIES)  # fmt: skip

RULES = (TARGETS_NOTHING, PEER_NOTHING, NAMESPACE_LABEL, NAMED_PORT, POD_ADDRESSES, TWO_PEERS, IGNORED_RULES,
         HOST_NETWORK, SERVICE_PORT)  # fmt: skip


def check(world: World) -> Iterator[Finding]:
    """Yield what these rules find."""
    for policy in world.policies:
        yield from _targets(world, policy)
        yield from _ignored(policy)
        for rule in rules_of(policy):
            for path, peer in rule.peer_paths():
                yield from _peer(world, policy, path, peer)
            yield from _two_peers(rule)
            yield from _ports(world, rule)


def _targets(world: World, policy: Located) -> Iterator[Finding]:
    namespace, path = policy.key.namespace, "spec.podSelector"
    raw = (policy.object.get("spec") or {}).get("podSelector")
    targets = world.targets(policy)
    if not targets and world.knows_pods(namespace) and selector_of(raw) is not None:
        words = describe_selector(raw)
        what = f"no pod in {namespace} has {words}" if words else f"there is no pod in {namespace}"
        near = _near(raw, [p for p in world.pods if p.key.namespace == namespace])
        yield Finding(
            TARGETS_NOTHING, policy, path, f"{what}, so the policy does nothing", near or "correct the labels"
        )
    hosts = [p for p in targets if p.spec.get("hostNetwork")]
    if hosts and words_matter(raw):
        yield Finding(
            HOST_NETWORK, policy, path,
            f"{hosts[0].workload} is on the host's network, where this policy does not hold",
            "filter on the node, or take the pod off the host's network",
        )  # fmt: skip


def words_matter(raw: Any) -> bool:
    """Return whether a selector names something: a policy for every pod does not mean host pods in particular."""
    return bool(raw)


def _near(raw: Any, pods: Sequence[PodView]) -> str:
    """Return a proposal for a selector that matches nothing: the same keys with a value that pods have; "" if none."""
    wanted = (raw or {}).get("matchLabels") or {} if isinstance(raw, dict) else {}
    for key, value in wanted.items():
        values = sorted({p.labels[key] for p in pods if key in p.labels})
        if values and value not in values:
            return f"{key}={value} matches no pod; pods there have {key}={', '.join(values[:4])}"
        for pod in pods:
            for other, its in pod.labels.items():
                if its == value and other != key:
                    return f"{key}={value} matches no pod; {pod.workload} has {other}={its}"
    return ""


def _ignored(policy: Located) -> Iterator[Finding]:
    kinds = policy_types(policy)
    for rule in rules_of(policy):
        if rule.direction not in kinds:
            word = rule.direction.capitalize()
            why = f"spec.policyTypes does not contain {word}, so no {rule.direction} rule of this policy counts"
            yield Finding(IGNORED_RULES, policy, rule.path, why, f"add {word} to spec.policyTypes, or delete the rules")
            return


def _peer(world: World, policy: Located, path: str, peer: Mapping[str, Any]) -> Iterator[Finding]:
    block = peer.get("ipBlock")
    if isinstance(block, dict):
        yield from _block(world, policy, path, block)
        return
    namespaces = peer.get("namespaceSelector")
    if namespaces is not None:
        mistaken = _mistaken_label(world, namespaces)
        if mistaken:
            key, value = mistaken
            yield Finding(
                NAMESPACE_LABEL, policy, f"{path}.namespaceSelector",
                f"no namespace is known to be labelled {key}={value}; the only label that every namespace gets by "
                f"itself is {METADATA_NAME}",
                f"write {METADATA_NAME}: {value}, or label it: kubectl label namespace {value} {key}={value}",
            )  # fmt: skip
            return
    if not _peer_is_judgeable(world, policy, namespaces) or world.peer_pods(policy.key.namespace, peer):
        return
    pods = describe_selector(peer.get("podSelector"))
    where = f"namespaces with {describe_selector(namespaces)}" if namespaces else "any namespace"
    where = where if namespaces is not None else f"namespace {policy.key.namespace}"
    near = _near(peer.get("podSelector"), world.pods)
    yield Finding(
        PEER_NOTHING,
        policy,
        path,
        f"no pod {f'with {pods} ' if pods else ''}is in {where}",
        near or "correct the labels",
    )


def _mistaken_label(world: World, raw: Any) -> tuple[str, str] | None:
    """Return (key, value) of a plain label that no known namespace carries, though it reads like a name."""
    if not isinstance(raw, dict):
        return None
    for key, value in (raw.get("matchLabels") or {}).items():
        named = key in ("name", "namespace", "ns") or value in world.namespaces
        if key != METADATA_NAME and named and not any(ls.get(key) == value for ls in world.namespaces.values()):
            return key, value
    return None


def _peer_is_judgeable(world: World, policy: Located, namespaces: Any) -> bool:
    """Return whether enough is known to say that a peer matches no pod."""
    if namespaces is None:
        return world.knows_pods(policy.key.namespace)
    selector = selector_of(namespaces)
    if selector is None:
        return False
    matching = [n for n, labels in world.namespaces.items() if selector.matches(labels)]
    if not matching:
        return world.complete or bool(world.declared)
    return all(world.knows_pods(n) for n in matching)


def _block(world: World, policy: Located, path: str, block: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        cidr = ip_network(block.get("cidr", ""))
        excepted = [ip_network(e) for e in block.get("except") or ()]
    except ValueError:
        return  # PW001 says so
    hit = next(
        (
            p for p in world.pods
            if p.ip and (a := ip_address(p.ip)) in cidr and not any(a in e for e in excepted) and not p.assumed
            and not p.spec.get("hostNetwork")
        ),
        None,
    )  # fmt: skip
    if hit is None:
        return
    guess = " (podwire's default pod network; yours may differ)" if hit.stand_in else ""
    yield Finding(
        POD_ADDRESSES, policy, f"{path}.ipBlock.cidr",
        f"{cidr} contains pod addresses{guess}, such as {hit.ip} of {hit.workload}: pods match it, too",
        "name pods with podSelector and namespaceSelector, and leave the pod network out with `except`",
    )  # fmt: skip


def _two_peers(rule: WrittenRule) -> Iterator[Finding]:
    paths = list(rule.peer_paths())
    for (_, before), (path, after) in pairwise(paths):
        kinds = {tuple(sorted(before)), tuple(sorted(after))}
        if kinds == {("namespaceSelector",), ("podSelector",)}:
            yield Finding(
                TWO_PEERS, rule.located, path,
                "podSelector and namespaceSelector are two peers (two dashes): either alone lets traffic pass",
                "if both must hold, write them as one peer: drop the dash before the second",
            )  # fmt: skip


def _ports(world: World, rule: WrittenRule) -> Iterator[Finding]:
    for path, port in rule.port_paths():
        wanted, protocol = port.get("port"), port.get("protocol") or "TCP"
        pods = world.receivers(rule)
        if wanted is None or not pods:
            continue
        have = {(name, proto) for pod in pods for name, proto, _ in pod.ports()}
        numbers = {n for pod in pods for _, proto, n in pod.ports() if proto == protocol}
        if isinstance(wanted, str) and (wanted, protocol) not in have:
            known = ", ".join(sorted(f"{n} ({p})" for n, p in have if n)) or "none has a name"
            yield Finding(
                NAMED_PORT, rule.located, f"{path}.port",
                f"no pod that receives this traffic has a {protocol} port named {wanted!r}",
                f"ports there: {known}; name one of them, or write the number",
            )  # fmt: skip
        elif isinstance(wanted, int) and numbers and wanted not in numbers and not port.get("endPort"):
            target = world.behind_service_port(pods, protocol, wanted)
            if target:
                service, number = target
                yield Finding(
                    SERVICE_PORT, rule.located, f"{path}.port",
                    f"{wanted} is the port of Service {service}; policies see {number}, where its pods listen",
                    f"write port: {number}",
                )  # fmt: skip
