"""What policies are judged against: pods, namespaces, nodes and the policies themselves, as frozen values.

``snapshot_of`` parses API objects at the door. A pod without an address (a manifest, a pod that is not yet
running) can be given one by ``with_addresses``, so that address blocks mean something for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import Any, NamedTuple

from podwire.model.objects import Key, key_of, labels_of
from podwire.policy.parse import POLICY_KINDS, read_policy
from podwire.policy.rules import IPAddress, IPNetwork, Policy

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_ENDED = ("Succeeded", "Failed")


class ContainerPort(NamedTuple):
    """A container port that has a name."""

    name: str
    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. ``ips`` is empty and ``node`` "" while it has none."""

    key: Key
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    ips: tuple[IPAddress, ...] = ()
    node: str = ""
    host_network: bool = False
    ports: tuple[ContainerPort, ...] = ()
    phase: str = "Running"

    @property
    def selectable(self) -> bool:
        """Whether policies may mean it: not on the host's network, and not ended (its address may be another's)."""
        return not self.host_network and self.phase not in _ENDED

    def address(self, family: int) -> IPAddress | None:
        """Return its address of family 4 or 6; None when it has none."""
        return next((ip for ip in self.ips if ip.version == family), None)


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace. Its labels always hold ``kubernetes.io/metadata.name``."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Node:
    """One node. ``addresses`` are those of its status; ``pod_cidrs`` the ranges that its pods' addresses come from."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    addresses: tuple[IPAddress, ...] = ()
    pod_cidrs: tuple[IPNetwork, ...] = ()

    @property
    def own_addresses(self) -> Iterator[IPAddress]:
        """Its addresses, and those that it bears among its pods: the overlay device's (first) and the bridge's."""
        yield from self.addresses
        for cidr in self.pod_cidrs:
            yield cidr[0]
            if cidr.num_addresses > 1:
                yield cidr[1]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a connection: a pod that policies may mean, a node, or an address outside.

    A pod on the host's network is its node. ``node`` is the node's name when this end is a node ("" when which
    one is not known), None when it is not. ``ip`` None: not known yet, no address block holds it.
    """

    ip: IPAddress | None = None
    pod: Pod | None = None
    node: str | None = None

    def __str__(self) -> str:
        if self.pod is not None:
            return f"{self.pod.key}" + (f" ({self.ip})" if self.ip else "")
        if self.node is not None:
            return f"node {self.node}" + (f" ({self.ip})" if self.ip else "")
        return str(self.ip)


@dataclass(frozen=True)
class PolicySnapshot:
    """One moment of a cluster, as far as policies go. ``names`` are DNS names with what they resolved to."""

    pods: Mapping[Key, Pod] = field(default_factory=dict, hash=False)
    namespaces: Mapping[str, Namespace] = field(default_factory=dict, hash=False)
    policies: tuple[Policy, ...] = ()
    nodes: Mapping[str, Node] = field(default_factory=dict, hash=False)
    names: Mapping[str, frozenset[IPAddress]] = field(default_factory=dict, hash=False)

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """Return a namespace's labels. One that has no object here still has its automatic label."""
        found = self.namespaces.get(name)
        return found.labels if found is not None else {NAMESPACE_NAME_LABEL: name}

    def endpoint(self, ip: IPAddress) -> Endpoint:
        """Return what has this address: a node, a pod that has not ended, or the outside."""
        if (node := self._node_by_ip.get(ip)) is not None:
            return Endpoint(ip, node=node)
        return Endpoint(ip, pod=self._pod_by_ip.get(ip))

    def pod_endpoint(self, key: Key, family: int | None = None) -> Endpoint:
        """Return the end that a pod is, with its address of this family (None: its first). Raises KeyError."""
        pod = self.pods[key]
        ip = (pod.ips[0] if pod.ips else None) if family is None else pod.address(family)
        return Endpoint(ip, node=pod.node) if pod.host_network else Endpoint(ip, pod=pod)

    def node_endpoint(self, name: str, family: int | None = None) -> Endpoint:
        """Return the end that a node is, with its first address of this family. Raises KeyError."""
        addresses = self.nodes[name].addresses
        return Endpoint(next((a for a in addresses if family in (None, a.version)), None), node=name)

    def policies_about(self, namespace: str) -> tuple[Policy, ...]:
        """Return the policies whose subject may be a pod of this namespace, in the snapshot's order."""
        found = self._policies_by_namespace.get(namespace)
        return self._policies_by_namespace[""] if found is None else found

    @cached_property
    def _policies_by_namespace(self) -> dict[str, tuple[Policy, ...]]:
        # "" holds those that speak of any namespace; they are among every other entry, too.
        names = {p.subject.namespace for p in self.policies if p.subject.namespace is not None}
        found: dict[str, list[Policy]] = {name: [] for name in ("", *names)}
        for policy in self.policies:
            own = policy.subject.namespace
            for entry in found.values() if own is None else (found[own],):
                entry.append(policy)
        return {name: tuple(entry) for name, entry in found.items()}

    @cached_property
    def _node_by_ip(self) -> dict[IPAddress, str]:
        return {ip: node.name for node in self.nodes.values() for ip in node.own_addresses}

    @cached_property
    def _pod_by_ip(self) -> dict[IPAddress, Pod]:
        return {ip: pod for pod in self.pods.values() if pod.selectable for ip in pod.ips}


def snapshot_of(
    objects: Iterable[Mapping[str, Any]], names: Mapping[str, frozenset[IPAddress]] = _NOTHING
) -> PolicySnapshot:
    """Return the snapshot of API objects; kinds that policies do not look at are passed over.

    A policy that cannot be read denies all to its pods and carries its problems.
    """
    pods: dict[Key, Pod] = {}
    namespaces: dict[str, Namespace] = {}
    nodes: dict[str, Node] = {}
    policies: dict[tuple[str, Key], Policy] = {}
    for obj in objects:
        kind = obj.get("kind")
        if kind == "Pod":
            pod = parse_pod(obj)
            pods[pod.key] = pod
        elif kind == "Namespace":
            namespace = parse_namespace(obj)
            namespaces[namespace.name] = namespace
        elif kind == "Node":
            node = parse_node(obj)
            nodes[node.name] = node
        elif kind in POLICY_KINDS:
            policies[(kind, key_of(obj))] = read_policy(obj)
    return PolicySnapshot(pods, namespaces, tuple(policies.values()), nodes, names)


def parse_pod(obj: Mapping[str, Any]) -> Pod:
    """Return a Pod. Sidecars (init containers that restart always) count for its named ports."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    texts = [e.get("ip") for e in status.get("podIPs") or ()] or [status.get("podIP")]
    return Pod(
        key_of(obj),
        labels_of(obj),
        tuple(ip_address(t) for t in texts if t),
        spec.get("nodeName") or "",
        bool(spec.get("hostNetwork")),
        tuple(_named_ports(spec)),
        status.get("phase") or "Pending",
    )


def _named_ports(spec: Mapping[str, Any]) -> Iterator[ContainerPort]:
    sidecars = (c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always")
    for container in (*sidecars, *(spec.get("containers") or ())):
        for port in container.get("ports") or ():
            if port.get("name") and port.get("containerPort"):
                yield ContainerPort(port["name"], port.get("protocol") or "TCP", port["containerPort"])


def parse_namespace(obj: Mapping[str, Any]) -> Namespace:
    """Return a Namespace; the label that the API server adds is added here too, for objects out of files."""
    name = key_of(obj).name
    return Namespace(name, {**labels_of(obj), NAMESPACE_NAME_LABEL: name})


def parse_node(obj: Mapping[str, Any]) -> Node:
    """Return a Node. Addresses that are host names are left out."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    addresses = []
    for entry in status.get("addresses") or ():
        if entry.get("type") in ("InternalIP", "ExternalIP"):
            addresses.append(ip_address(entry["address"]))
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    return Node(key_of(obj).name, labels_of(obj), tuple(addresses), tuple(ip_network(c) for c in cidrs))


def with_addresses(
    snapshot: PolicySnapshot,
    cidrs: Sequence[IPNetwork] = (IPv4Network("10.244.0.0/16"),),
) -> PolicySnapshot:
    """Return the snapshot with an address for every pod: those without get free ones of each range, in key order."""
    taken = {ip for pod in snapshot.pods.values() for ip in pod.ips}
    taken.update(ip for node in snapshot.nodes.values() for ip in node.own_addresses)
    free = [_free(cidr, taken) for cidr in cidrs]
    pods = dict(snapshot.pods)
    for key in sorted(pods):
        if not pods[key].ips:
            ips = tuple(ip for source in free if (ip := next(source, None)) is not None)
            pods[key] = dataclasses.replace(pods[key], ips=ips)
    return dataclasses.replace(snapshot, pods=pods)


def _free(cidr: IPv4Network | IPv6Network, taken: set[IPAddress]) -> Iterator[IPAddress]:
    # The first 256 addresses are left out: nodes bear some of them.
    offset = min(256, cidr.num_addresses // 2)
    for n in range(offset, cidr.num_addresses):
        if cidr[n] not in taken:
            yield cidr[n]
