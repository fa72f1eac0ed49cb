"""The nodes and what runs on them, as the scheduler believes: what it saw, and what it just decided. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from podwire.controllers.scheduler.filters import count_domains, refuse_alone, refuse_resources, refuse_together
from podwire.controllers.scheduler.scores import score
from podwire.controllers.scheduler.values import NodeState, PodFacts

NO_PREEMPTION = "preemption: not done by this scheduler."


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a pod goes; ``node`` "" with the reason why nowhere."""

    node: str
    message: str = ""


class Cluster:
    """Nodes by name, pods by uid. Changed only by its owner, between decisions."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeState] = {}
        self.namespace_labels: dict[str, Mapping[str, str]] = {}
        self._homes: dict[str, str] = {}  # pod uid -> node name
        self._homeless: dict[str, dict[str, PodFacts]] = {}  # node not seen yet -> its pods
        self._guarded: dict[str, PodFacts] = {}  # pods with required anti-affinity

    def set_node(self, node: NodeState) -> None:
        """Add a node or replace what is known of it; its pods stay."""
        old = self.nodes.get(node.name)
        pods = old.pods if old is not None else self._homeless.pop(node.name, {})
        for pod in pods.values():
            node.add(pod)
        self.nodes[node.name] = node

    def remove_node(self, name: str) -> None:
        """Forget a node; its pods are remembered in case it returns."""
        old = self.nodes.pop(name, None)
        if old is not None and old.pods:
            self._homeless[name] = old.pods

    def home_of(self, uid: str) -> str:
        """Return the node on which a pod is counted; "" for none."""
        return self._homes.get(uid, "")

    def place(self, pod: PodFacts, node_name: str) -> None:
        """Count ``pod`` on a node, moving it if it was counted elsewhere."""
        self.remove(pod.uid)
        self._homes[pod.uid] = node_name
        if pod.anti_affinity:
            self._guarded[pod.uid] = pod
        node = self.nodes.get(node_name)
        if node is not None:
            node.add(pod)
        else:
            self._homeless.setdefault(node_name, {})[pod.uid] = pod

    def remove(self, uid: str) -> bool:
        """Count a pod out; return whether it was in."""
        name = self._homes.pop(uid, None)
        self._guarded.pop(uid, None)
        if name is None:
            return False
        node = self.nodes.get(name)
        if node is not None:
            node.remove(uid)
        elif name in self._homeless:
            self._homeless[name].pop(uid, None)
            if not self._homeless[name]:
                del self._homeless[name]
        return True

    def choose(self, pod: PodFacts) -> Placement:
        """Return the best node for ``pod``, or why there is none. Ties go to the emptier, then by name."""
        if not self.nodes:
            return Placement("", "no nodes available to schedule pods")
        nodes = list(self.nodes.values())
        reasons: Counter[str] = Counter()
        fitting = self._fitting(pod, nodes, reasons)
        if not fitting:
            return Placement("", explain(len(nodes), reasons))
        if len(fitting) == 1:
            return Placement(fitting[0].name)
        totals = score(pod, fitting, self.namespace_labels)
        best = min(range(len(fitting)), key=lambda i: (-totals[i], len(fitting[i].pods), fitting[i].name))
        return Placement(fitting[best].name)

    def _fitting(self, pod: PodFacts, nodes: list[NodeState], reasons: Counter[str]) -> list[NodeState]:
        domains = None
        if pod.affinity or pod.anti_affinity or self._guarded or any(c.hard for c in pod.spreads):
            guarded = [
                (self.nodes[home], p) for uid, p in self._guarded.items() if (home := self._homes[uid]) in self.nodes
            ]
            domains = count_domains(pod, nodes, guarded, self.namespace_labels)
        fitting = []
        for node in nodes:
            reason = refuse_alone(pod, node)
            if reason is not None:
                reasons[reason] += 1
                continue
            lacking = refuse_resources(pod, node)
            if lacking:
                reasons.update(lacking)
                continue
            if domains is not None and (reason := refuse_together(pod, node, domains)) is not None:
                reasons[reason] += 1
                continue
            fitting.append(node)
        return fitting


def explain(nodes: int, reasons: Counter[str]) -> str:
    """Return kube-scheduler's sentence: "0/3 nodes are available: 3 Insufficient cpu. ..."."""
    parts = ", ".join(sorted(f"{n} {reason}" for reason, n in reasons.items()))
    return f"0/{nodes} nodes are available: {parts}. {NO_PREEMPTION}"
