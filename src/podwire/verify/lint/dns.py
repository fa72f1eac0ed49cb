"""Rules on names: pods whose egress is held must still reach the cluster DNS, over UDP and over TCP."""

from __future__ import annotations

from collections.abc import Iterator

from podwire.model.objects import Key
from podwire.policy.snapshot import Endpoint, Pod
from podwire.verify.judge import verdict
from podwire.verify.lint.finding import Finding, Rule
from podwire.verify.located import Located
from podwire.verify.rawpolicy import policy_types, rules_of, selector_of
from podwire.verify.workloads import PodView
from podwire.verify.world import World

_DNS = "https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/"

CUT = Rule("PW005", "dns-cut", "warning", "Pods under an egress policy cannot ask the cluster DNS", _DNS)
UDP_ONLY = Rule("PW006", "dns-udp-only", "warning", "DNS is allowed over UDP only: truncated answers fail over TCP",
    "https://www.rfc-editor.org/rfc/rfc7766#section-5")  # fmt: skip

RULES = (CUT, UDP_ONLY)
_FIX = "allow UDP and TCP 53 to namespace kube-system, podSelector k8s-app: kube-dns"


def check(world: World) -> Iterator[Finding]:
    """Yield what these rules find: one finding a policy."""
    servers = dns_pods(world)
    if not servers:
        return
    for policy in world.policies:
        if "egress" not in policy_types(policy):
            continue
        clients = _clients(world, policy)
        cut, udp_only = [], []
        for name, client in clients:
            udp, tcp = (can_ask(world, client, servers, protocol) for protocol in ("UDP", "TCP"))
            if not udp:
                cut.append(name)
            elif not tcp:
                udp_only.append(name)
        where = "spec.egress" if "egress" in policy.object["spec"] else "spec.policyTypes"
        if cut:
            why = f"{_some(cut)} cannot ask the cluster DNS, so no Service is found by name"
            yield Finding(CUT, policy, where, why, _FIX)
        elif udp_only:
            why = f"{_some(udp_only)} may ask the cluster DNS over UDP 53 but not over TCP 53, which long answers need"
            yield Finding(UDP_ONLY, policy, _udp_rule(policy) or where, why, "add protocol: TCP, port: 53 beside it")


def dns_pods(world: World) -> list[PodView]:
    """Return the pods of the cluster DNS."""
    named = world.services.get(Key("kube-system", "kube-dns"))
    if named is not None and named.selector:
        selector = selector_of({"matchLabels": dict(named.selector)})
        assert selector is not None
        return [p for p in world.pods_in("kube-system") if selector.matches(p.labels)]
    return [p for p in world.pods if p.labels.get("k8s-app") == "kube-dns"]


def can_ask(world: World, client: Endpoint, servers: list[PodView], protocol: str) -> bool:
    """Return whether a client reaches every DNS pod on port 53."""
    ends = [world.snapshot.pod_endpoint(s.key) for s in servers]
    return all(verdict(world, client, end, protocol, 53).allowed for end in ends)


def _clients(world: World, policy: Located) -> list[tuple[str, Endpoint]]:
    """Return a pod of each workload that a policy holds; an imagined one where no pod is shown.

    A policy that only denies is not blamed for pods that another egress policy has rules for.
    """
    found = {p.workload: p for p in world.targets(policy) if not p.spec.get("hostNetwork") and not p.assumed}
    if found:
        if not list(rules_of(policy, "egress")):
            found = {w: p for w, p in found.items() if not _has_rules_elsewhere(world, policy, p)}
        return [(name, world.snapshot.pod_endpoint(pod.key)) for name, pod in found.items()]
    if world.knows_pods(policy.key.namespace):
        return []
    labels = ((policy.object["spec"].get("podSelector") or {}).get("matchLabels")) or {}
    imagined = Pod(Key(policy.key.namespace, "(any)"), labels)
    return [("its pods", Endpoint(pod=imagined))]


def _has_rules_elsewhere(world: World, policy: Located, pod: PodView) -> bool:
    return any(
        other is not policy and pod in world.targets(other) and list(rules_of(other, "egress"))
        for other in world.policies
        if "egress" in policy_types(other)
    )


def _udp_rule(policy: Located) -> str:
    for rule in rules_of(policy, "egress"):
        for path, port in rule.port_paths():
            if port.get("protocol") == "UDP" and port.get("port") == 53:
                return path
    return ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
