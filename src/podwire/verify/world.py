"""Everything that was read, as the questions need it: pods, Services, namespaces, policies. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from podwire.model.objects import Key, labels_of
from podwire.model.selectors import from_map
from podwire.policy.snapshot import PolicySnapshot, snapshot_of
from podwire.verify.located import LIVE, Located, ObjectKey
from podwire.verify.rawpolicy import METADATA_NAME, WrittenRule, selector_of
from podwire.verify.services import Backend, Excluded, ServicePort, ServiceView, backends, read_service
from podwire.verify.workloads import PodView, pods_of

WITHOUT_POLICY = frozenset({"flannel", "kubenet", "bridge", "none"})
"""Network plugins that enforce no policy."""

ASSUMED = "(assumed)"
"""The file of what is in no manifest but in every cluster."""


@dataclass(frozen=True, slots=True)
class World:
    """One cluster, or what manifests say one would be."""

    objects: tuple[Located, ...]
    pods: tuple[PodView, ...]
    services: Mapping[Key, ServiceView]
    namespaces: Mapping[str, Mapping[str, str]]  # labels by name, of those declared and those only mentioned
    declared: frozenset[str]  # the namespaces whose labels are really known
    complete: bool  # a cluster was read, so what is not here is not there
    plugin: str = ""  # the network plugin, where it matters
    slices: tuple[Located, ...] = ()
    by_key: Mapping[ObjectKey, Located] = field(default_factory=dict)
    by_pod: Mapping[Key, PodView] = field(default_factory=dict)
    by_namespace: Mapping[str, Sequence[PodView]] = field(default_factory=dict)
    backend: str = ""  # how nodes reach each other's pods: "vxlan", "host-gw"; "" when it is not known
    snapshot: PolicySnapshot = field(default_factory=PolicySnapshot)

    @property
    def enforces(self) -> bool:
        """Whether the network plugin enforces policies."""
        return self.plugin not in WITHOUT_POLICY

    @property
    def policies(self) -> tuple[Located, ...]:
        """The NetworkPolicies."""
        return tuple(o for o in self.objects if o.object["kind"] == "NetworkPolicy")

    def knows_pods(self, namespace: str) -> bool:
        """Return whether enough was read to say that a pod is missing in this namespace."""
        return self.complete or any(not p.assumed for p in self.pods_in(namespace))

    def pods_in(self, namespace: str) -> Sequence[PodView]:
        """Return the pods of one namespace."""
        return self.by_namespace.get(namespace, ())

    def pod(self, key: Key) -> PodView | None:
        """Return the pod of this name, None when there is none."""
        return self.by_pod.get(key)

    def targets(self, policy: Located) -> list[PodView]:
        """Return the pods that a NetworkPolicy's podSelector matches."""
        selector = selector_of((policy.object.get("spec") or {}).get("podSelector"))
        if selector is None:
            return []
        return [p for p in self.pods_in(policy.key.namespace) if selector.matches(p.labels)]

    def peer_pods(self, namespace: str, peer: Mapping[str, Any]) -> list[PodView]:
        """Return the pods that a NetworkPolicy peer matches, as written in a policy of ``namespace``."""
        pods, spaces = selector_of(peer.get("podSelector")), selector_of(peer.get("namespaceSelector"))
        if pods is None or spaces is None or "ipBlock" in peer:
            return []
        if peer.get("namespaceSelector") is None:
            within = {namespace}
        else:
            within = {n for n, labels in self.namespaces.items() if spaces.matches(labels)}
        return [p for name in sorted(within) for p in self.pods_in(name) if pods.matches(p.labels)]

    def receivers(self, rule: WrittenRule) -> list[PodView]:
        """Return the pods on whose ports a rule speaks: its policy's own for ingress, the peers for egress."""
        if rule.direction == "ingress":
            return self.targets(rule.located)
        found: dict[Key, PodView] = {}
        for peer in rule.peers or ():
            found.update((p.key, p) for p in self.peer_pods(rule.located.key.namespace, peer))
        return list(found.values())

    def behind_service_port(self, pods: Sequence[PodView], protocol: str, number: int) -> tuple[str, int] | None:
        """Return (Service, pod port) when some of ``pods`` stand behind a Service's port ``number`` on another port."""
        keys = {p.key for p in pods}
        for service in self.services.values():
            for port in service.ports:
                if port.port == number and port.protocol == protocol:
                    for backend in self.backends(service, port)[0]:
                        if backend.pod is not None and backend.pod.key in keys and backend.port != number:
                            return str(service.key), backend.port
        return None

    def backends(self, service: ServiceView, port: ServicePort) -> tuple[tuple[Backend, ...], tuple[Excluded, ...]]:
        """Return who receives on a Service's port, and who is left out and why."""
        pods = self.pods_in(service.key.namespace)
        return backends(service, port, pods if service.selector else self.pods, self.slices)

    def services_of(self, pod: PodView) -> list[ServiceView]:
        """Return the Services whose selector matches a pod."""
        return [
            s for s in self.services.values()
            if s.selector and s.key.namespace == pod.key.namespace and from_map(s.selector).matches(pod.labels)
        ]  # fmt: skip


def build(objects: Iterable[Located], *, plugin: str = "") -> World:
    """Return the world that these objects make.

    Namespaces that objects only mention get the label that every namespace has. From files alone, a cluster DNS
    is assumed where none is shown: policies are judged against it.
    """
    everything = tuple(objects)
    complete = any(o.file == LIVE for o in everything)
    if not complete:
        everything += tuple(_assumed_dns(everything))
    pods = tuple(_mark(p) for p in pods_of(everything))
    declared = {o.key.name: labels_of(o.object) for o in everything if o.object["kind"] == "Namespace"}
    mentioned = {o.key.namespace for o in everything if o.key.namespace} | {"default", "kube-system"}
    namespaces = {name: {**declared.get(name, {}), METADATA_NAME: name} for name in sorted(mentioned | set(declared))}
    services = {Key(o.key.namespace, o.key.name): read_service(o) for o in everything if o.object["kind"] == "Service"}
    return World(
        objects=everything,
        pods=pods,
        services=services,
        namespaces=namespaces,
        declared=frozenset(declared),
        complete=complete,
        plugin=plugin,
        slices=tuple(o for o in everything if o.object["kind"] == "EndpointSlice"),
        by_key={o.key: o for o in everything},
        by_pod={p.key: p for p in pods},
        by_namespace=_by_namespace(pods),
        backend=_backend(everything),
        snapshot=_snapshot(everything, pods, namespaces),
    )


def _by_namespace(pods: Iterable[PodView]) -> dict[str, list[PodView]]:
    found: dict[str, list[PodView]] = {}
    for pod in pods:
        found.setdefault(pod.key.namespace, []).append(pod)
    return found


def _backend(objects: Iterable[Located]) -> str:
    """Return flannel's backend as its ConfigMap names it; "" when there is none."""
    for located in objects:
        text = (located.object.get("data") or {}).get("net-conf.json") if located.key.kind == "ConfigMap" else None
        if text:
            try:
                return str((json.loads(text).get("Backend") or {}).get("Type") or "")
            except (ValueError, AttributeError):
                return ""
    return ""


def _snapshot(
    objects: Sequence[Located], pods: Sequence[PodView], namespaces: Mapping[str, Mapping[str, str]]
) -> PolicySnapshot:
    """Return what policies are judged against: stand-ins count as pods, mentioned namespaces as namespaces."""
    spaces = [{"kind": "Namespace", "metadata": {"name": n, "labels": ls}} for n, ls in namespaces.items()]
    others = [o.object for o in objects if o.object["kind"] not in ("Pod", "Namespace")]
    return snapshot_of([*spaces, *(p.object for p in pods), *others])


def _mark(pod: PodView) -> PodView:
    return replace(pod, assumed=True) if pod.located.file == ASSUMED else pod


def _assumed_dns(objects: Sequence[Located]) -> list[Located]:
    """Return kubeadm's cluster DNS, unless the objects bring one."""
    labels = {"k8s-app": "kube-dns"}
    for o in objects:
        named = o.object["kind"] == "Service" and o.key.name == "kube-dns"
        if named or (o.key.namespace == "kube-system" and labels_of(o.object).get("k8s-app") == "kube-dns"):
            return []
    ports = [("dns", "UDP", 53), ("dns-tcp", "TCP", 53), ("metrics", "TCP", 9153)]
    container = {"name": "coredns", "ports": [{"name": n, "protocol": p, "containerPort": c} for n, p, c in ports]}
    meta = {"name": "kube-dns", "namespace": "kube-system"}
    return [
        Located(
            {
                "apiVersion": "v1", "kind": "Service", "metadata": {**meta, "labels": labels},
                "spec": {"selector": labels, "clusterIP": "10.96.0.10",
                         "ports": [{"name": n, "protocol": p, "port": c} for n, p, c in ports]},
            }, ASSUMED),
        Located(
            {
                "apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "name": "coredns", "labels": labels},
                "spec": {"containers": [container]}, "status": {"podIP": "10.244.255.53"},
            }, ASSUMED),
    ]  # fmt: skip
