"""Classes: pods, nodes and outside addresses that no policy at hand can tell apart, numbered.

A set of classes is an int with one bit per class. Labels that no selector mentions do not count, so that a unique
label on every pod makes no class of its own. Two snapshots can share one numbering (their pods matched by key):
then bits can be compared between them, which is how ``difference`` works.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple, TypeAlias

from podwire.model.objects import Key
from podwire.model.selectors import Selector
from podwire.policy.atoms import AddressAtoms, PortAtoms, PortNames, names_mentioned
from podwire.policy.rules import BlockPeer, DomainPeer, IPAddress, NamedPort, NodePeer, PodPeer, Policy, PortRange
from podwire.policy.snapshot import Endpoint, Node, Pod, PolicySnapshot

LabelPairs: TypeAlias = tuple[tuple[str, str], ...]
_NO_BLOCKS: frozenset[int] = frozenset()
_OTHER = "\0other"  # stands for every value that no selector mentions; no label can have it
# Addresses for documentation (RFC 5737, RFC 3849): the examples that a reader knows to be outside.
_FAMILIAR = tuple(ip_address(t) for t in ("203.0.113.1", "198.51.100.1", "192.0.2.1", "2001:db8::1"))


class PodTraits(NamedTuple):
    """What policies can see of a pod."""

    namespace: str
    labels: LabelPairs
    ports: PortNames
    blocks: frozenset[int]


class NodeTraits(NamedTuple):
    """What policies can see of a node."""

    labels: LabelPairs
    blocks: frozenset[int]


class OutsideTraits(NamedTuple):
    """What policies can see of an address outside."""

    blocks: frozenset[int]


Traits: TypeAlias = PodTraits | NodeTraits | OutsideTraits


@dataclass(slots=True)
class EndClass:
    """One class. ``traits`` has one entry for each snapshot; None where its members do not exist there.

    ``pods`` and ``nodes`` are its members; a class of outside addresses has ``address`` as its example.
    """

    traits: tuple[Traits | None, ...]
    pods: list[Key] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    address: IPAddress | None = None

    @property
    def weight(self) -> int:
        """How many pods it stands for."""
        return len(self.pods)


class Vocabulary:
    """What the policies of some snapshots mention: label keys and values, ports, blocks. Of one address family."""

    def __init__(self, snapshots: Sequence[PolicySnapshot], family: int) -> None:
        rules = [r for s in snapshots for p in s.policies for r in (*p.ingress, *p.egress)]
        peers = [p for r in rules for p in r.peers or ()]
        ports = [p for r in rules for p in r.ports or ()]
        subjects = [p.subject for s in snapshots for p in s.policies]
        pod_peers = [*subjects, *(p for p in peers if isinstance(p, PodPeer))]
        self.pod_labels = _mentioned(p.pods for p in pod_peers)
        self.node_labels = _mentioned(p.nodes for p in peers if isinstance(p, NodePeer))
        blocks = [p for p in peers if isinstance(p, BlockPeer)]
        for snapshot in snapshots:
            domains = [p for p in peers if isinstance(p, DomainPeer)]
            blocks += [BlockPeer(c) for d in domains for c in resolved(snapshot, d)]
        self.family = family
        self.addresses = AddressAtoms(blocks, family)
        self.block_number = {b: n for n, b in enumerate(self.addresses.blocks)}
        self.port_names = names_mentioned(ports)
        self._names: dict[PortNames, PortNames] = {}
        pods = (pod for s in snapshots for pod in s.pods.values()) if self.port_names else ()
        self.ports = PortAtoms(ports, {self.names_of(pod) for pod in pods})

    def covers(self, policy: Policy) -> bool:
        """Return whether all that a policy mentions is in the vocabulary already, numbers of ports left aside."""
        rules = (*policy.ingress, *policy.egress)
        peers = [p for r in rules for p in r.peers or ()]
        selectors = [(p.pods, self.pod_labels) for p in (policy.subject, *peers) if isinstance(p, PodPeer)]
        selectors += [(p.nodes, self.node_labels) for p in peers if isinstance(p, NodePeer)]
        for selector, known in selectors:
            if any(r.key not in known or not known[r.key].issuperset(r.values) for r in selector.requirements):
                return False
        if any(isinstance(p, DomainPeer) or (isinstance(p, BlockPeer) and not self._has(p)) for p in peers):
            return False
        return all(p.name in self.port_names for r in rules for p in r.ports or () if isinstance(p, NamedPort))

    def refine_ports(self, policy: Policy) -> tuple[int, ...]:
        """Tell the policy's port ranges apart too; return the former atom of each atom, () when nothing changes."""
        ranges = {p for r in (*policy.ingress, *policy.egress) for p in r.ports or () if isinstance(p, PortRange)}
        if all(self.ports.has(r) for r in ranges):
            return ()
        self.ports, parents = self.ports.refined(ranges)
        return parents

    def _has(self, block: BlockPeer) -> bool:
        return block.cidr.version != self.family or (block.cidr, block.excepts) in self.block_number

    def names_of(self, pod: Pod) -> PortNames:
        """Return the pod's named ports that policies mention."""
        if not self.port_names or not pod.ports:
            return ()
        found = self._names.get(pod.ports)
        if found is None:
            found = tuple(sorted({p for p in pod.ports if p.name in self.port_names}))
            self._names[pod.ports] = found
        return found


def resolved(snapshot: PolicySnapshot, domain: DomainPeer) -> Iterator[IPv4Network | IPv6Network]:
    """Yield the addresses of a domain name as networks of one address."""
    for name, ips in snapshot.names.items():
        if domain.covers(name):
            for ip in ips:
                yield IPv4Network(ip) if isinstance(ip, IPv4Address) else IPv6Network(ip)


def _mentioned(selectors: Iterable[Selector]) -> dict[str, frozenset[str]]:
    """Return the values that selectors mention, by key; a key with none is asked only for its presence."""
    found: dict[str, set[str]] = {}
    for requirement in {r for s in set(selectors) for r in s.requirements}:
        found.setdefault(requirement.key, set()).update(requirement.values)
    return {key: frozenset(found[key]) for key in sorted(found)}


def reduce_labels(labels: Mapping[str, str], mentioned: Mapping[str, frozenset[str]]) -> LabelPairs:
    """Return the labels as far as selectors can tell: unmentioned keys gone, unmentioned values alike."""
    # In the order of ``mentioned``, which is sorted: equal labels give equal pairs, however they were ordered.
    keys = mentioned if len(mentioned) <= 4 * len(labels) else sorted(k for k in labels if k in mentioned)
    pairs = []
    for key in keys:
        value = labels.get(key)
        if value is not None:
            pairs.append((key, value if value in mentioned[key] else _OTHER))
    return tuple(pairs)


class Classes:
    """The classes of one or more snapshots, for one address family."""

    def __init__(self, snapshots: Sequence[PolicySnapshot], family: int = 4) -> None:
        self.snapshots, self.family = tuple(snapshots), family
        self.vocabulary = Vocabulary(snapshots, family)
        self.all: list[EndClass] = []
        self.of_pod: dict[Key, int] = {}
        self.of_node: dict[str, int] = {}
        self._of_blocks: dict[frozenset[int], int] = {}
        self._index: dict[tuple[Traits | None, ...], int] = {}
        self._add_pods()
        self.pod_classes = len(self.all)
        self._add_nodes()
        self._add_outside()

    def __len__(self) -> int:
        return len(self.all)

    def _class(self, traits: tuple[Traits | None, ...]) -> int:
        number = self._index.setdefault(traits, len(self.all))
        if number == len(self.all):
            self.all.append(EndClass(traits))
        return number

    def _add_pods(self) -> None:
        readers = [(_TraitsReader(self.vocabulary, self.family), s.pods) for s in self.snapshots]
        keys = self.snapshots[0].pods if len(readers) == 1 else {k: None for s in self.snapshots for k in s.pods}
        for key in keys:
            traits = tuple(reader.read(pods.get(key)) for reader, pods in readers)
            if any(traits):
                self.of_pod[key] = number = self._class(traits)
                self.all[number].pods.append(key)

    def _add_nodes(self) -> None:
        for name in {n: None for s in self.snapshots for n in s.nodes}:
            traits = tuple(self._node_traits(s.nodes.get(name)) for s in self.snapshots)
            if any(traits):
                self.of_node[name] = number = self._class(traits)
                self.all[number].nodes.append(name)

    def _node_traits(self, node: Node | None) -> NodeTraits | None:
        first = first_address(node, self.family) if node is not None else None
        if node is None or first is None:
            return None
        return NodeTraits(reduce_labels(node.labels, self.vocabulary.node_labels), self.vocabulary.addresses.of(first))

    def _add_outside(self) -> None:
        taken = {int(ip) for s in self.snapshots for n in s.nodes.values() for ip in n.own_addresses}
        taken.update(int(ip) for s in self.snapshots for pod in s.pods.values() for ip in pod.ips)
        familiar = [int(ip) for ip in _FAMILIAR if ip.version == self.family]
        make = IPv4Address if self.family == 4 else IPv6Address
        for address, blocks in self.vocabulary.addresses.examples(taken, familiar):
            number = self._class((OutsideTraits(blocks),) * len(self.snapshots))
            self.all[number].address = make(address)
            self._of_blocks[blocks] = number

    def of_changed(self, pod: Pod) -> int | None:
        """Return the class that a pod with these labels belongs to (one snapshot only); None when there is none yet."""
        traits = _TraitsReader(self.vocabulary, self.family).read(pod)
        return self._index.get((traits,))

    def of_end(self, end: Endpoint) -> int | None:
        """Return the class of one end of a connection; None when no class stands for it.

        That is so for a node seen by another address than its first, and for addresses of the other family.
        """
        if end.pod is not None:
            return self.of_pod.get(end.pod.key) if end.ip == end.pod.address(self.family) else None
        if end.node is not None:
            node = next((s.nodes[end.node] for s in self.snapshots if end.node in s.nodes), None)
            known = node is not None and end.ip is not None and end.ip == first_address(node, self.family)
            return self.of_node.get(end.node) if known else None
        if end.ip is None or end.ip.version != self.family:
            return None
        return self._of_blocks.get(self.vocabulary.addresses.of(end.ip))


def first_address(node: Node, family: int) -> IPAddress | None:
    """Return a node's first address of this family; None when it has none."""
    return next((a for a in node.addresses if a.version == family), None)


class _TraitsReader:
    """Reads pods' traits; traits that are equal are one object."""

    def __init__(self, vocabulary: Vocabulary, family: int) -> None:
        self._words, self._family = vocabulary, family
        self._blocks = bool(vocabulary.addresses.blocks)
        self._read: dict[PodTraits, PodTraits] = {}

    def read(self, pod: Pod | None) -> PodTraits | None:
        """Return the traits; None for a pod that policies cannot mean."""
        if pod is None or not pod.selectable:
            return None
        words = self._words
        blocks = words.addresses.of(pod.address(self._family)) if self._blocks else _NO_BLOCKS
        traits = PodTraits(pod.key.namespace, reduce_labels(pod.labels, words.pod_labels), words.names_of(pod), blocks)
        return self._read.setdefault(traits, traits)
