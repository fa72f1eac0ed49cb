"""Which nodes want a daemon pod, which pods go, and what the status says. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from podwire.controllers.deployments.values import scaled
from podwire.controllers.pods.state import created_at, is_available, is_finished, node_of, phase
from podwire.controllers.pods.template import pod_of
from podwire.controllers.revisions.plan import HASH_LABEL
from podwire.controllers.scheduler.filters import matches_node_affinity
from podwire.controllers.scheduler.values import NodeState, parse_node, parse_pod
from podwire.model.objects import Obj, annotations_of, is_deleting, is_ready, labels_of
from podwire.model.tolerations import untolerated

GENERATION_LABEL = "pod-template-generation"
DEPRECATED_GENERATION = "deprecated.daemonset.template.generation"
_ALWAYS_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
_NETWORK = ("node.kubernetes.io/network-unavailable", "NoSchedule")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


@dataclass(frozen=True, slots=True)
class DaemonPlan:
    """The nodes to make a pod for, and the pods to delete; ``failed`` are deleted after having failed."""

    create: tuple[str, ...]
    delete: tuple[Obj, ...]
    failed: tuple[Obj, ...] = ()


def target_of(pod: Obj) -> str:
    """Return the node that a daemon pod is for: where it runs, else where its affinity sends it."""
    if node_of(pod):
        return node_of(pod)
    affinity = ((pod.get("spec") or {}).get("affinity") or {}).get("nodeAffinity") or {}
    for term in (affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and len(field.get("values") or ()) == 1:
                return str(field["values"][0])
    return ""


def daemon_pod(owner: Obj, node: str, name: str, revision: str) -> Obj:
    """Return the pod for one node: bound to it by affinity, tolerating what nodes suffer from."""
    pod = pod_of(owner, owner["spec"]["template"], name, owner["metadata"]["name"] + "-")
    labels = pod["metadata"]["labels"]
    if revision:
        labels[HASH_LABEL] = revision
    generation = annotations_of(owner).get(DEPRECATED_GENERATION)
    labels[GENERATION_LABEL] = generation or str(owner["metadata"].get("generation", 1))
    spec = pod["spec"]
    tolerations = list(spec.get("tolerations") or ())
    wanted = [*_ALWAYS_TOLERATED, *([_NETWORK] if spec.get("hostNetwork") else [])]
    for key, effect in wanted:
        new = {"key": key, "operator": "Exists", "effect": effect}
        if new not in tolerations:
            tolerations.append(new)
    spec["tolerations"] = tolerations
    if node:
        _pin(spec, node)
    return pod


def _pin(spec: Obj, node: str) -> None:
    """Narrow the pod's node affinity to one node; alternatives of its own stay alternatives."""
    affinity = spec.setdefault("affinity", {})
    node_affinity = affinity.setdefault("nodeAffinity", {})
    only = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    terms = (node_affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    node_affinity[_REQUIRED] = {"nodeSelectorTerms": [{**t, "matchFields": only} for t in terms]}


def eligibility(owner: Obj, nodes: Mapping[str, Obj]) -> dict[str, tuple[bool, bool]]:
    """Return for each node whether a daemon pod should run there, and whether a running one may stay."""
    sample = daemon_pod(owner, "", "sample", "")
    sample["metadata"]["uid"] = ""
    facts = parse_pod(sample)
    verdicts = {}
    for name, raw in nodes.items():
        node: NodeState = parse_node(raw)
        named = (owner["spec"]["template"].get("spec") or {}).get("nodeName") or ""
        if (named and named != name) or not matches_node_affinity(facts, node):
            verdicts[name] = (False, False)
            continue
        stays = untolerated(node.taints, facts.tolerations, ("NoExecute",)) is None
        comes = stays and untolerated(node.taints, facts.tolerations, ("NoSchedule",)) is None
        verdicts[name] = (comes, stays)
    return verdicts


def pods_by_node(pods: Sequence[Obj]) -> dict[str, list[Obj]]:
    """Return the daemon pods by the node they are for, oldest first."""
    groups: dict[str, list[Obj]] = {}
    for pod in sorted(pods, key=lambda p: (created_at(p), p["metadata"]["name"])):
        groups.setdefault(target_of(pod), []).append(pod)
    return groups


def plan_presence(
    pods: Sequence[Obj], verdicts: Mapping[str, tuple[bool, bool]], revision: str, surging: bool
) -> DaemonPlan:
    """Return what makes every eligible node have one pod and every other none.

    Finished pods go, and are made anew. Of several on one node the oldest stays; with ``surging`` one of
    the newest revision may stand beside it.
    """
    create: list[str] = []
    delete: list[Obj] = []
    failed: list[Obj] = []
    groups = pods_by_node(pods)
    for node, (comes, stays) in verdicts.items():
        here = groups.pop(node, [])
        living = [p for p in here if not is_deleting(p)]
        finished = [p for p in living if is_finished(p)]
        running = [p for p in living if not is_finished(p)]
        if not stays:
            delete += living
            continue
        failed += [p for p in finished if phase(p) == "Failed"]
        delete += [p for p in finished if phase(p) != "Failed"]
        if comes and not here:
            create.append(node)
        new = [p for p in running if labels_of(p).get(HASH_LABEL) == revision]
        old = [p for p in running if labels_of(p).get(HASH_LABEL) != revision]
        if surging and new and old:
            delete += [*old[1:], *new[1:]]
        else:
            delete += _prefer_bound(running)[1:]
    for node, here in groups.items():
        if node:  # the node is gone, or the pod cannot be told to belong to any
            delete += [p for p in here if not is_deleting(p)]
    return DaemonPlan(tuple(create), tuple(delete), tuple(failed))


def _prefer_bound(pods: Sequence[Obj]) -> list[Obj]:
    return sorted(pods, key=lambda p: not node_of(p))


def plan_update(
    owner: Obj, pods: Sequence[Obj], verdicts: Mapping[str, tuple[bool, bool]], revision: str, now: datetime
) -> DaemonPlan:
    """Return the next step of a rolling update: old pods to delete, nodes that get a second, newer pod.

    At most maxUnavailable nodes are without an available pod because of it; with maxSurge the new pod
    becomes available before the old one goes.
    """
    strategy = owner["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return DaemonPlan((), ())
    rolling = strategy.get("rollingUpdate") or {}
    wanted = sum(comes for comes, _ in verdicts.values())
    surge = scaled(rolling.get("maxSurge") or 0, wanted, up=True)
    unavailable = scaled(rolling.get("maxUnavailable", 1), wanted, up=True)
    wait_s = owner["spec"].get("minReadySeconds") or 0
    groups = pods_by_node(pods)
    nodes = []
    for node, (comes, _) in verdicts.items():
        here = [p for p in groups.get(node, []) if comes and not is_finished(p)]
        new = [p for p in here if labels_of(p).get(HASH_LABEL) == revision]
        old = [p for p in here if labels_of(p).get(HASH_LABEL) != revision]
        serves = any(is_available(p, wait_s, now) and not is_deleting(p) for p in here)
        renewed = any(is_available(p, wait_s, now) for p in new)
        if comes:
            nodes.append(_NodePods(node, new, old, serves, renewed))
    return _surge(nodes, surge) if surge else _replace(nodes, unavailable or 1)


@dataclass(frozen=True, slots=True)
class _NodePods:
    """The daemon pods of one node amid an update."""

    node: str
    new: list[Obj]
    old: list[Obj]
    serves: bool  # one that is available stays
    renewed: bool  # a new one is available

    @property
    def stale(self) -> list[Obj]:
        return [p for p in self.old if not is_deleting(p)]


def _replace(nodes: Sequence[_NodePods], unavailable: int) -> DaemonPlan:
    """Return the old pods to delete. Where none serves, replacing it costs nothing."""
    useless = [p for n in nodes if not n.serves for p in n.stale]
    serving = [p for n in nodes if n.serves for p in n.stale]
    budget = max(0, unavailable - sum(not n.serves for n in nodes))
    return DaemonPlan((), (*useless, *serving[:budget]))


def _surge(nodes: Sequence[_NodePods], surge: int) -> DaemonPlan:
    """Return the nodes that get a new pod beside the old one, and the old ones that are done."""
    done = [p for n in nodes if n.renewed or (not n.serves and not n.new) for p in n.stale]
    under_way = sum(bool(n.old and n.new and not n.renewed) for n in nodes)
    waiting = [n.node for n in nodes if n.serves and n.old and not n.new and len(n.stale) == len(n.old)]
    return DaemonPlan(tuple(waiting[: max(0, surge - under_way)]), tuple(done))


def plan_status(
    owner: Obj,
    pods: Sequence[Obj],
    verdicts: Mapping[str, tuple[bool, bool]],
    revision: str,
    collisions: int,
    now: datetime,
) -> Obj:
    """Return the status."""
    wait_s = owner["spec"].get("minReadySeconds") or 0
    groups = pods_by_node(pods)
    desired = current = misscheduled = ready = available = updated = 0
    for node, (comes, _) in verdicts.items():
        here = groups.get(node, [])
        desired += comes
        if here and not comes:
            misscheduled += 1
        if not here or not comes:
            continue
        current += 1
        ready += any(is_ready(p) for p in here)
        available += any(is_available(p, wait_s, now) for p in here)
        updated += any(labels_of(p).get(HASH_LABEL) == revision for p in here)
    status: Obj = {
        "currentNumberScheduled": current,
        "numberMisscheduled": misscheduled,
        "desiredNumberScheduled": desired,
        "numberReady": ready,
        "observedGeneration": owner["metadata"].get("generation", 0),
        "updatedNumberScheduled": updated,
        "numberAvailable": available,
        "numberUnavailable": desired - available,
    }
    for name in ("updatedNumberScheduled", "numberAvailable", "numberUnavailable"):
        if not status[name]:
            del status[name]
    if collisions:
        status["collisionCount"] = collisions
    conditions = (owner.get("status") or {}).get("conditions")
    return {**status, "conditions": conditions} if conditions else status
