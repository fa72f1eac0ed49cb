"""Pods and nodes as the scheduler sees them, parsed at the door. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from podwire.controllers.scheduler.quantity import parse_milli, parse_whole
from podwire.model.objects import Obj, controller_of, labels_of
from podwire.model.selectors import Requirement, Selector, from_label_selector
from podwire.model.tolerations import Taint, Toleration, parse_taint, parse_toleration

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
NOTHING = Selector((Requirement("", "In", ("",)),))
DEFAULT_CPU_MILLI, DEFAULT_MEMORY = 100, 200 * 1024 * 1024  # what a pod without requests weighs in scores


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """One nodeSelectorTerm: expressions over labels, and over fields (metadata.name)."""

    labels: tuple[tuple[str, str, tuple[str, ...]], ...]
    names: tuple[tuple[str, str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class PodTerm:
    """One (anti-)affinity term: pods that match, in these namespaces, in the same ``topology`` domain."""

    selector: Selector
    topology: str
    namespaces: frozenset[str]
    namespace_selector: Selector | None
    weight: int = 0

    def matches(self, pod: PodFacts, namespace_labels: Mapping[str, Mapping[str, str]]) -> bool:
        """Return whether ``pod`` is one that the term speaks of."""
        if pod.namespace not in self.namespaces:
            chosen = self.namespace_selector
            if chosen is None or not chosen.matches(namespace_labels.get(pod.namespace, {})):
                return False
        return self.selector.matches(pod.labels)


@dataclass(frozen=True, slots=True)
class Spread:
    """One topologySpreadConstraint."""

    max_skew: int
    topology: str
    hard: bool
    selector: Selector
    min_domains: int
    honor_affinity: bool
    honor_taints: bool


@dataclass(frozen=True, slots=True)
class PodFacts:
    """All that placing a pod depends on."""

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    requests: Mapping[str, int]  # cpu in milli, everything else whole
    weight: tuple[int, int]  # cpu in milli and memory in bytes for scoring
    node_selector: Mapping[str, str]
    node_terms: tuple[NodeTerm, ...] | None
    node_preferences: tuple[tuple[int, NodeTerm], ...]
    tolerations: tuple[Toleration, ...]
    ports: frozenset[tuple[str, str, int]]  # address ("0.0.0.0" for all), protocol, number
    affinity: tuple[PodTerm, ...]
    anti_affinity: tuple[PodTerm, ...]
    affinity_preferences: tuple[PodTerm, ...]  # weight < 0: rather not
    spreads: tuple[Spread, ...]
    peers: tuple[str, object]  # pods of one controller (or with equal labels) are peers
    priority: int
    deleting: bool


@dataclass(slots=True)
class NodeState:
    """A node with what runs on it. The scheduler's own; changes as pods are assumed."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    unschedulable: bool
    allocatable: Mapping[str, int]
    pods: dict[str, PodFacts] = field(default_factory=dict)
    requested: dict[str, int] = field(default_factory=dict)
    weight: list[int] = field(default_factory=lambda: [0, 0])
    peers: dict[tuple[str, object], int] = field(default_factory=dict)

    def add(self, pod: PodFacts) -> None:
        """Count a pod in; a pod that is counted already is replaced."""
        self.remove(pod.uid)
        self.pods[pod.uid] = pod
        self._count(pod, 1)

    def remove(self, uid: str) -> None:
        """Count a pod out, if it is in."""
        pod = self.pods.pop(uid, None)
        if pod is not None:
            self._count(pod, -1)

    def _count(self, pod: PodFacts, sign: int) -> None:
        for name, amount in pod.requests.items():
            self.requested[name] = self.requested.get(name, 0) + sign * amount
        self.weight[0] += sign * pod.weight[0]
        self.weight[1] += sign * pod.weight[1]
        self.peers[pod.peers] = self.peers.get(pod.peers, 0) + sign
        if not self.peers[pod.peers]:
            del self.peers[pod.peers]


def parse_node(node: Obj) -> NodeState:
    """Return the node without pods."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    amounts = status.get("allocatable") or status.get("capacity") or {}
    return NodeState(
        name=node["metadata"]["name"],
        labels=labels_of(node),
        taints=tuple(parse_taint(t) for t in spec.get("taints") or ()),
        unschedulable=bool(spec.get("unschedulable")),
        allocatable={k: _amount(k, v) for k, v in amounts.items()},
    )


def _amount(resource: str, quantity: Any) -> int:
    return parse_milli(quantity) if resource == "cpu" else parse_whole(quantity)


def pod_requests(spec: Mapping[str, Any]) -> dict[str, int]:
    """Return the effective requests: the larger of containers together and any init step, plus overhead.

    A native sidecar (init container with restartPolicy Always) counts with the containers and with every
    init container after it (KEP-753).
    """
    running: dict[str, int] = {}
    for container in spec.get("containers") or ():
        _add(running, _requests(container))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        own = _requests(container)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, own)
            own = dict(sidecars)
        else:
            own = dict(own)
            _add(own, sidecars)
        for name, amount in own.items():
            peak[name] = max(peak.get(name, 0), amount)
    _add(running, sidecars)
    for name, amount in peak.items():
        running[name] = max(running.get(name, 0), amount)
    _add(running, {k: _amount(k, v) for k, v in (spec.get("overhead") or {}).items()})
    running["pods"] = 1
    return running


def _requests(container: Mapping[str, Any]) -> Mapping[str, int]:
    resources = container.get("resources") or {}
    # A limit without a request is the request; the API server's default says the same.
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {k: _amount(k, v) for k, v in amounts.items()}


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def parse_pod(pod: Obj) -> PodFacts:
    """Return the facts of a pod. A selector that Kubernetes would refuse matches nothing."""
    spec, meta = pod.get("spec") or {}, pod["metadata"]
    affinity = spec.get("affinity") or {}
    near, apart = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
    requests = pod_requests(spec)
    labels = labels_of(pod)
    ref = controller_of(pod)
    peers = (meta.get("namespace", ""), ref["uid"] if ref else tuple(sorted(labels.items())))
    required, preferred = _node_affinity(affinity.get("nodeAffinity") or {})
    return PodFacts(
        uid=meta["uid"],
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        labels=labels,
        requests=requests,
        weight=(requests.get("cpu") or DEFAULT_CPU_MILLI, requests.get("memory") or DEFAULT_MEMORY),
        node_selector=spec.get("nodeSelector") or {},
        node_terms=required,
        node_preferences=preferred,
        tolerations=tuple(parse_toleration(t) for t in spec.get("tolerations") or ()),
        ports=host_ports(spec),
        affinity=_pod_terms(pod, near.get(_REQUIRED)),
        anti_affinity=_pod_terms(pod, apart.get(_REQUIRED)),
        affinity_preferences=(
            *_weighted_terms(pod, near.get(_PREFERRED), 1),
            *_weighted_terms(pod, apart.get(_PREFERRED), -1),
        ),
        spreads=tuple(_spread(pod, c) for c in spec.get("topologySpreadConstraints") or ()),
        peers=peers,
        priority=spec.get("priority") or 0,
        deleting="deletionTimestamp" in meta,
    )


_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def host_ports(spec: Mapping[str, Any]) -> frozenset[tuple[str, str, int]]:
    """Return the host ports that a pod takes; with hostNetwork every container port is one."""
    shared = bool(spec.get("hostNetwork"))
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    return frozenset(
        (p.get("hostIP") or "0.0.0.0", p.get("protocol") or "TCP", number)
        for c in [*(spec.get("containers") or ()), *sidecars]
        for p in c.get("ports") or ()
        if (number := p.get("hostPort") or (p["containerPort"] if shared else 0))
    )


def _node_affinity(
    affinity: Mapping[str, Any],
) -> tuple[tuple[NodeTerm, ...] | None, tuple[tuple[int, NodeTerm], ...]]:
    required = affinity.get(_REQUIRED)
    terms = None
    if required is not None:
        terms = tuple(node_term(t) for t in required.get("nodeSelectorTerms") or ())
    preferred = tuple((p["weight"], node_term(p["preference"])) for p in affinity.get(_PREFERRED) or ())
    return terms, preferred


def node_term(term: Mapping[str, Any]) -> NodeTerm:
    """Return one nodeSelectorTerm."""

    def parts(name: str) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        return tuple((e["key"], e["operator"], tuple(e.get("values") or ())) for e in term.get(name) or ())

    return NodeTerm(parts("matchExpressions"), parts("matchFields"))


def _selector(selector: Mapping[str, Any] | None) -> Selector:
    if selector is None:
        return NOTHING
    try:
        return from_label_selector(selector)
    except ValueError:
        return NOTHING


def _pod_terms(pod: Obj, terms: Any) -> tuple[PodTerm, ...]:
    return tuple(_pod_term(pod, t, 0) for t in terms or ())


def _weighted_terms(pod: Obj, terms: Any, sign: int) -> tuple[PodTerm, ...]:
    return tuple(_pod_term(pod, t["podAffinityTerm"], sign * t["weight"]) for t in terms or ())


def _pod_term(pod: Obj, term: Mapping[str, Any], weight: int) -> PodTerm:
    names = frozenset(term.get("namespaces") or ())
    chosen = term.get("namespaceSelector")
    if not names and chosen is None:
        names = frozenset({pod["metadata"].get("namespace", "")})
    selector = _selector(term.get("labelSelector"))
    selector = _with_label_keys(pod, selector, term.get("matchLabelKeys"), "In")
    selector = _with_label_keys(pod, selector, term.get("mismatchLabelKeys"), "NotIn")
    return PodTerm(selector, term["topologyKey"], names, None if chosen is None else _selector(chosen), weight)


def _with_label_keys(pod: Obj, selector: Selector, keys: Any, operator: str) -> Selector:
    """Return the selector with the pod's own values of ``keys`` required (KEP-3633, KEP-3243)."""
    own = labels_of(pod)
    more = tuple(Requirement(k, operator, (own[k],)) for k in keys or () if k in own)  # type: ignore[arg-type]
    return Selector((*selector.requirements, *more)) if more else selector


def _spread(pod: Obj, c: Mapping[str, Any]) -> Spread:
    selector = _selector(c.get("labelSelector"))
    return Spread(
        max_skew=c["maxSkew"],
        topology=c["topologyKey"],
        hard=c.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule",
        selector=_with_label_keys(pod, selector, c.get("matchLabelKeys"), "In"),
        min_domains=c.get("minDomains") or 1,
        honor_affinity=c.get("nodeAffinityPolicy", "Honor") == "Honor",
        honor_taints=c.get("nodeTaintsPolicy", "Ignore") == "Honor",
    )


def is_gated(pod: Obj) -> bool:
    """Return whether scheduling gates hold the pod back (KEP-3521)."""
    return bool((pod.get("spec") or {}).get("schedulingGates"))
