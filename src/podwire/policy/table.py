"""What the kernel's table should hold, kept up to date one change at a time. Pure: no kernel, no clock.

Tell it of pods, namespaces, nodes and policies; ``changed`` then names the chains, sets and elements that may
differ from before. Only what local pods need is held: a chain lives while a pod's verdict leads to it, a set while
a rule looks into it. So a node's table grows with what its pods are under, not with the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from podwire.kernel.nft.port import Element, FilterRule, SetKind
from podwire.model.objects import Key
from podwire.policy import plan
from podwire.policy.desired import AddressSet, ChainPlan, NodeSet, PodSet, PodVerdict, PortSet, pod_set_name
from podwire.policy.match import PodIndex, SelectorIndex
from podwire.policy.rules import DIRECTIONS, Direction, IPAddress, Policy
from podwire.policy.snapshot import Namespace, Node, Pod
from podwire.wire.nffilter import InNetwork

DISPATCH = {"egress": "egress-pods", "ingress": "ingress-pods"}
ITSELF = "pod-itself"
UNKNOWN = {"egress": "unknown-egress", "ingress": "unknown-ingress"}


@dataclass(slots=True)
class Changed:
    """Names of what may differ since it was last asked: chains, sets, and elements by set."""

    chains: set[str] = field(default_factory=set)
    sets: set[str] = field(default_factory=set)
    elements: dict[str, set[bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class _Held:
    plan: ChainPlan
    users: int = 0


class PolicyTable:
    """The wanted state of one node. ``chains``, ``sets`` and ``element`` are read by the programmer."""

    def __init__(self, node: str, versions: Sequence[int]) -> None:
        self._node, self.versions = node, tuple(versions)
        self._pods = PodIndex()
        self._local = PodIndex()
        self._local.namespaces = self._pods.namespaces
        self._nodes: dict[str, Node] = {}
        self.policies: dict[str, Policy] = {}
        self._subjects: SelectorIndex[str] = SelectorIndex()
        self._peers: SelectorIndex[str] = SelectorIndex()
        self._chains: dict[str, _Held] = {}
        self._verdicts: dict[str, PodVerdict] = {}
        self._set_users: dict[AddressSet, int] = {}
        self.sets: dict[str, SetKind] = {}
        self._owners: dict[str, dict[bytes, dict[str, None]]] = {}
        self._gives: dict[tuple[str, str], dict[tuple[str, bytes], None]] = {}
        self._admitted: dict[Key, tuple[str, tuple[IPAddress, ...]]] = {}
        self._dispatch: dict[Key, tuple[PodVerdict, PodVerdict]] = {}
        self._under: dict[str, dict[Key, None]] = {}
        self._leads: dict[Key, dict[tuple[str, bytes], Element]] = {}
        maps = (name + _six(v) for v in self.versions for name in DISPATCH.values())
        self._claims: dict[str, dict[bytes, dict[Key, Element]]] = {name: {} for name in maps}
        self._chain_ids: dict[str, str] = {}
        self._changed = Changed()
        self._unknown: dict[str, tuple[FilterRule, ...]] = dict.fromkeys(UNKNOWN.values(), ())

    # --- what the programmer reads

    def take_changed(self) -> Changed:
        """Return what may differ since the last call."""
        changed, self._changed = self._changed, Changed()
        return changed

    def chain(self, name: str) -> ChainPlan | None:
        """Return a wanted chain; None: it must not be there."""
        if name in self._unknown:
            return ChainPlan(name, self._unknown[name])
        held = self._chains.get(name)
        return held.plan if held is not None else None

    def chain_names(self) -> Iterator[str]:
        """Yield the names of all wanted chains."""
        yield from self._unknown
        yield from self._chains

    def element(self, set: str, key: bytes) -> Element | None:
        """Return the wanted element of a set or map with this key; None: there is to be none."""
        if set in self._claims:
            claims = self._claims[set].get(key)
            return self._strongest(claims) if claims else None
        owners = self._owners.get(set, {}).get(key)
        return Element(key, comment=next(iter(owners))) if owners else None

    def element_keys(self, set: str) -> Iterable[bytes]:
        """Return the keys of all wanted elements of a set or map."""
        if set in self._claims:
            return self._claims[set]
        return self._owners.get(set, ())

    def dispatch_maps(self) -> Iterable[str]:
        """Return the names of the sets that the skeleton declares and this table fills."""
        for v in self.versions:
            yield from (f"{name}{_six(v)}" for name in (*DISPATCH.values(), ITSELF))

    def count(self) -> tuple[int, int, int]:
        """Return how many local pods, chains and sets there are."""
        return len(self._dispatch), len(self._chains), len(self.sets)

    def verdicts_of(self, key: Key) -> tuple[PodVerdict, PodVerdict] | None:
        """Return the egress and ingress verdict of a local pod; None when it is not known here."""
        return self._dispatch.get(key)

    def pod(self, key: Key) -> Pod | None:
        """Return a pod as it is known."""
        return self._pods.pods.get(key)

    # --- what the agent tells

    def set_pod(self, key: Key, pod: Pod | None) -> None:
        """A pod is as given, or gone (None)."""
        if pod is None:
            self._pods.drop(key)
        else:
            self._pods.put(pod)
        self._refresh_pod(key)

    def set_namespace(self, name: str, namespace: Namespace | None) -> None:
        """A namespace has these labels, or is gone (None)."""
        if namespace is None:
            self._pods.namespaces.pop(name, None)
        elif self._pods.namespaces.get(name) == namespace.labels:
            return
        else:
            self._pods.namespaces[name] = namespace.labels
        for key in self._pods.in_namespace(name):
            self._refresh_pod(key)

    def set_node(self, name: str, node: Node | None) -> None:
        """A node is as given, or gone (None)."""
        if node is not None and self._nodes.get(name) == node:
            return
        if node is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = node
        for wanted in self._set_users:
            if isinstance(wanted, NodeSet):
                self._refresh_node(wanted, name)
        if name == self._node:
            self._close_unknown(node)

    def set_policy(self, id: str, policy: Policy | None) -> None:
        """A policy is as given, or gone (None)."""
        affected = dict(self._under.get(id, {}))
        if policy is None:
            self.policies.pop(id, None)
            self._subjects.remove(id)
        else:
            self.policies[id] = policy
            self._subjects.add(id, policy.subject)
            for direction in DIRECTIONS:
                self._chain_ids[plan.policy_chain(policy, direction)] = id
            affected |= {pod.key: None for pod in self._local.find(policy.subject)}
            self._replan(id)
        for key in affected:
            self._redispatch(key)

    def admit(self, sandbox: str, key: Key, ips: tuple[IPAddress, ...]) -> None:
        """A sandbox on this node has these addresses, before the API knows."""
        self._admitted[key] = (sandbox, ips)
        self._refresh_pod(key)

    def release(self, sandbox: str) -> None:
        """A sandbox is gone."""
        for key in [k for k, (id, _) in self._admitted.items() if id == sandbox]:
            del self._admitted[key]
            self._refresh_pod(key)

    # --- pods

    def _ips(self, pod: Pod) -> tuple[IPAddress, ...]:
        admitted = self._admitted.get(pod.key)
        return admitted[1] if admitted is not None else pod.ips

    def _refresh_pod(self, key: Key) -> None:
        pod = self._pods.pods.get(key)
        given: dict[tuple[str, bytes], None] = {}
        if pod is not None and pod.selectable:
            ips = self._ips(pod)
            packed = [(ip.version, ip.packed) for ip in ips]
            for digits in self._peers.find(pod, self._pods.labels_of_namespace(key.namespace)):
                for version, raw in packed:
                    given[pod_set_name(digits, version), raw] = None
            for named in pod.ports:
                port_set = PortSet(named.name, named.protocol)
                if port_set in self._set_users:
                    given.update(((port_set.name(ip.version), _port_key(ip, named.number)), None) for ip in ips)
        self._give("pod", str(key), given)
        self._redispatch(key)

    def _give(self, kind: str, owner: str, given: Mapping[tuple[str, bytes], None]) -> None:
        """Let an owner's elements be these and no others."""
        had = self._gives.get((kind, owner), {})
        for name, raw in had.keys() - given.keys():
            self._withdraw(name, raw, owner)
        for name, raw in given.keys() - had.keys():
            self._put(name, raw, owner)
        if given:
            self._gives[kind, owner] = dict(given)
        else:
            self._gives.pop((kind, owner), None)

    def _put(self, name: str, raw: bytes, owner: str) -> None:
        self._owners.setdefault(name, {}).setdefault(raw, {})[owner] = None
        self._changed.elements.setdefault(name, set()).add(raw)

    def _withdraw(self, name: str, raw: bytes, owner: str) -> None:
        owners = self._owners.get(name, {}).get(raw)
        if owners is None:
            return
        owners.pop(owner, None)
        if not owners:
            del self._owners[name][raw]
        self._changed.elements.setdefault(name, set()).add(raw)

    def _is_local(self, pod: Pod | None) -> bool:
        return pod is not None and pod.selectable and pod.node == self._node and bool(self._ips(pod))

    def _redispatch(self, key: Key) -> None:
        """Decide again what speaks for a pod, and let its addresses lead there."""
        pod = self._pods.pods.get(key)
        old = self._dispatch.pop(key, None)
        new = None
        if pod is not None and self._is_local(pod):
            new = self._dispatch[key] = self._judge(pod)
            self._local.put(pod)
        elif old is not None:
            self._local.drop(key)
        else:
            return
        for verdict in new or ():
            self._use_verdict(key, verdict)
        self._lead(key, self._ips(pod) if pod is not None and new else (), new)
        for verdict in old or ():
            self._leave_verdict(key, verdict, new)

    def _judge(self, pod: Pod) -> tuple[PodVerdict, PodVerdict]:
        """Return which policies speak for a pod's egress and ingress, each tier in its order."""
        found = self._subjects.find(pod, self._pods.labels_of_namespace(pod.key.namespace))
        selecting = sorted((self.policies[i] for i in found), key=lambda p: p.order)
        return _verdict("egress", selecting), _verdict("ingress", selecting)

    def _lead(self, key: Key, ips: tuple[IPAddress, ...], verdicts: tuple[PodVerdict, PodVerdict] | None) -> None:
        """Let the pod's addresses lead to its verdicts, and nothing else of it."""
        wanted: dict[tuple[str, bytes], Element] = {}
        for ip in ips:
            for verdict in verdicts or ():
                word = "accept" if verdict.is_open else f"goto {verdict.chain}"
                name = DISPATCH[verdict.direction] + _six(ip.version)
                wanted[name, ip.packed] = Element(ip.packed, verdict=word, comment=str(key))
        had = self._leads.pop(key, {})
        for name, raw in had.keys() - wanted.keys():
            claims = self._claims[name][raw]
            del claims[key]
            if not claims:
                del self._claims[name][raw]
            self._changed.elements.setdefault(name, set()).add(raw)
        for (name, raw), element in wanted.items():
            self._claims[name].setdefault(raw, {})[key] = element
            self._changed.elements.setdefault(name, set()).add(raw)
        if wanted:
            self._leads[key] = wanted
        self._give("itself", str(key), {(ITSELF + _six(ip.version), ip.packed * 2): None for ip in ips})

    def _strongest(self, claims: Mapping[Key, Element]) -> Element:
        """Return the element of an address that several pods claim: that of a sandbox that is here, else the last."""
        here = [element for key, element in claims.items() if key in self._admitted]
        return (here or list(claims.values()))[-1]

    # --- chains

    def _use_verdict(self, key: Key, verdict: PodVerdict) -> None:
        for id in verdict.ids:
            self._under.setdefault(id, {})[key] = None
        if not verdict.is_open:
            self._verdicts[verdict.chain] = verdict
            self._use(verdict.chain)

    def _leave_verdict(self, key: Key, verdict: PodVerdict, new: tuple[PodVerdict, PodVerdict] | None) -> None:
        kept = {id for v in new or () for id in v.ids}
        for id in verdict.ids:
            if id not in kept and id in self._under:
                self._under[id].pop(key, None)
                if not self._under[id]:
                    del self._under[id]
        if not verdict.is_open:
            self._leave(verdict.chain)

    def _use(self, name: str) -> None:
        if name not in self._chains:
            self._chains[name] = _Held(ChainPlan(name, ()))
            self._set_plan(name, self._plan(name))
        self._chains[name].users += 1

    def _leave(self, name: str) -> None:
        held = self._chains[name]
        held.users -= 1
        if not held.users:
            self._set_plan(name, ChainPlan(name, ()))
            del self._chains[name]
            self._verdicts.pop(name, None)

    def _plan(self, name: str) -> ChainPlan:
        verdict = self._verdicts.get(name)
        if verdict is not None:
            return plan.plan_verdict(verdict, self.policies, self.versions)
        direction: Direction = "ingress" if name.startswith("ingress/") else "egress"
        return plan.plan_policy(self.policies[self._chain_ids[name]], direction, self.versions)

    def _replan(self, id: str) -> None:
        """A policy's text changed: plan the chains again that hold it."""
        for direction in DIRECTIONS:
            name = plan.policy_chain(self.policies[id], direction)
            if name in self._chains:
                self._set_plan(name, self._plan(name))
        for name, verdict in list(self._verdicts.items()):
            if id in verdict.ids:
                self._set_plan(name, self._plan(name))

    def _set_plan(self, name: str, new: ChainPlan) -> None:
        """Put a plan in place of a chain's former one: new references first, so that what both use stays."""
        old = self._chains[name].plan
        self._chains[name].plan = new
        self._changed.chains.add(name)
        for wanted in new.sets:
            self._use_set(wanted)
        own, old_own = {p.name for p in new.parts}, {p.name for p in old.parts}
        for part in new.parts:
            self._hold_part(part)
        for target in _targets(new) - own:
            self._use(target)
        for target in _targets(old) - old_own:
            self._leave(target)
        for part_name in old_own:
            self._leave(part_name)
        for wanted in old.sets:
            self._leave_set(wanted)

    def _hold_part(self, part: ChainPlan) -> None:
        """Use a chain that comes with its plan; it may be shared, or be there with another plan."""
        if part.name not in self._chains:
            self._chains[part.name] = _Held(ChainPlan(part.name, ()))
        self._chains[part.name].users += 1
        if self._chains[part.name].plan != part:
            self._set_plan(part.name, part)

    # --- sets

    def _use_set(self, wanted: AddressSet) -> None:
        users = self._set_users.get(wanted, 0)
        self._set_users[wanted] = users + 1
        if users:
            return
        for v in self.versions:
            self.sets[wanted.name(v)] = wanted.kind(v)
            self._changed.sets.add(wanted.name(v))
        match wanted:
            case PodSet(peer):
                self._peers.add(wanted.digits, peer)
                for pod in self._pods.find(peer):
                    self._add_given(pod, [(wanted.name(ip.version), ip.packed) for ip in self._ips(pod)])
            case NodeSet():
                for name in self._nodes:
                    self._refresh_node(wanted, name)
            case PortSet():
                for pod in self._pods.pods.values():
                    numbers = [p.number for p in pod.ports if PortSet(p.name, p.protocol) == wanted]
                    if pod.selectable and numbers:
                        ips = self._ips(pod)
                        self._add_given(
                            pod, [(wanted.name(ip.version), _port_key(ip, n)) for n in numbers for ip in ips]
                        )

    def _add_given(self, pod: Pod, keys: Iterable[tuple[str, bytes]]) -> None:
        owner = str(pod.key)
        for name, raw in keys:
            if name in self.sets:
                self._gives.setdefault(("pod", owner), {})[name, raw] = None
                self._put(name, raw, owner)

    def _refresh_node(self, wanted: NodeSet, name: str) -> None:
        node = self._nodes.get(name)
        given: dict[tuple[str, bytes], None] = {}
        if node is not None and wanted.nodes.matches(node.labels):
            given = {(wanted.name(ip.version), ip.packed): None for ip in node.addresses}
        self._give(_node_kind(wanted), name, given)

    def _leave_set(self, wanted: AddressSet) -> None:
        self._set_users[wanted] -= 1
        if self._set_users[wanted]:
            return
        del self._set_users[wanted]
        if isinstance(wanted, PodSet):
            self._peers.remove(wanted.digits)
        kind = _node_kind(wanted) if isinstance(wanted, NodeSet) else "pod"
        for v in self.versions:
            name = wanted.name(v)
            for raw, owners in self._owners.pop(name, {}).items():
                for owner in owners:
                    self._forget_given(kind, owner, (name, raw))
            del self.sets[name]
            self._changed.sets.add(name)
            self._changed.elements.pop(name, None)

    def _forget_given(self, kind: str, owner: str, key: tuple[str, bytes]) -> None:
        given = self._gives.get((kind, owner))
        if given is not None:
            given.pop(key, None)
            if not given:
                del self._gives[kind, owner]

    # --- addresses of this node's range that no pod is known to have

    def _close_unknown(self, node: Node | None) -> None:
        said = "this node knows no pod with this address"
        for direction, where in (("egress", "saddr"), ("ingress", "daddr")):
            cidrs = node.pod_cidrs if node is not None else ()
            rules = tuple(FilterRule((InNetwork(where, c),), "drop", said) for c in cidrs)  # type: ignore[arg-type]
            if self._unknown[UNKNOWN[direction]] != rules:
                self._unknown[UNKNOWN[direction]] = rules
                self._changed.chains.add(UNKNOWN[direction])


def _six(version: int) -> str:
    return "6" if version == 6 else ""


def _port_key(ip: IPAddress, port: int) -> bytes:
    return ip.packed + port.to_bytes(2, "big") + b"\0\0"


def _node_kind(wanted: NodeSet) -> str:
    return f"node in {wanted.name(4)}"


def _targets(chain: ChainPlan) -> set[str]:
    return {r.verdict.partition(" ")[2] for r in chain.rules if " " in r.verdict}


def _verdict(direction: Direction, selecting: Sequence[Policy]) -> PodVerdict:
    speaks = {
        tier: tuple(plan.policy_id(p) for p in selecting if p.tier == tier and p.rules(direction))
        for tier in ("Admin", "Baseline")
    }
    isolating = tuple(plan.policy_id(p) for p in selecting if direction in p.isolates)
    # Baseline speaks only where no NetworkPolicy isolates.
    return PodVerdict(direction, speaks["Admin"], isolating, () if isolating else speaks["Baseline"])
