"""What people call things, and what they mean: pods, workloads, Services, namespaces, addresses, DNS names. Pure.

    web  deploy/web  svc/web  pod/web-0  prod/web  prod/deploy/web  ns/prod  10.244.1.7  web.prod  web.prod.svc
    web.prod.svc.cluster.local  api.example.com  internet

With a port: ``svc/web:80``, ``web:http``, ``10.0.0.1:53/UDP``, ``[fd00::1]:443``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_address

from podwire.model.errors import BadInput, Problem
from podwire.model.objects import Key
from podwire.policy.rules import BlockPeer
from podwire.verify.services import ServiceView
from podwire.verify.workloads import SHORT, PodView
from podwire.verify.world import World

_OUTSIDE = ("198.51.100.1", "192.0.2.1", "203.0.113.1", "198.18.0.1")
"""Addresses that stand for somebody outside the cluster: for documentation and benchmarks (RFC 5737, RFC 2544)."""

_KINDS = {
    "pod": "Pod", "po": "Pod", "pods": "Pod", "deploy": "Deployment", "deployment": "Deployment",
    "deployments": "Deployment", "sts": "StatefulSet", "statefulset": "StatefulSet", "ds": "DaemonSet",
    "daemonset": "DaemonSet", "rs": "ReplicaSet", "replicaset": "ReplicaSet", "job": "Job", "jobs": "Job",
    "cj": "CronJob", "cronjob": "CronJob", "svc": "Service", "service": "Service", "services": "Service",
    "ns": "Namespace", "namespace": "Namespace", "namespaces": "Namespace", "rc": "ReplicationController",
    "node": "Node", "no": "Node",
}  # fmt: skip
PROTOCOLS = ("TCP", "UDP", "SCTP")


@dataclass(frozen=True, slots=True)
class Party:
    """One end of a question: some pods, or a Service before them, or an address that is no pod's."""

    name: str  # as shown: "deploy/web in prod"
    pods: tuple[PodView, ...] = ()
    service: ServiceView | None = None
    ip: str = ""  # of a party that is no pod
    dns_name: str = ""  # by which it was asked for


@dataclass(frozen=True, slots=True)
class Destination:
    """A party and a port of it. ``port`` 0: not said. ``port_name``: when it was given by name."""

    party: Party
    port: int
    port_name: str
    protocol: str  # "" when not said


def parse_destination(world: World, text: str, namespace: str) -> Destination:
    """Return what B:PORT[/PROTO] means. Raises BadInput."""
    head, slash, protocol = text.rpartition("/")
    if slash and protocol.upper() in PROTOCOLS:
        text = head
    else:
        protocol = ""
    m = re.fullmatch(r"\[([^\]]+)\](?::([^:/]+))?|(.+?)(?::([^:/]+))?", text)
    if m is None:
        raise _bad(text, "write NAME:PORT or NAME:PORT/PROTOCOL")
    name, port = m[1] or m[3], m[2] or m[4] or ""
    if m[3] and _is_ip(text):  # an IPv6 address without brackets has no port
        name, port = text, ""
    number = int(port) if port.isdigit() else 0
    if port.isdigit() and not 0 < number < 65536:
        raise _bad(text, f"{port} is no port (1-65535)")
    party = parse_party(world, name, namespace, as_server=True)
    return Destination(party, number, "" if number else port, protocol.upper())


def parse_party(world: World, text: str, namespace: str, *, as_server: bool = False) -> Party:
    """Return what a name means. A bare name is looked for in ``namespace``, then in all others.

    A server is rather a Service, a client rather a workload or a pod. Raises BadInput for names that mean
    nothing, or two things.
    """
    if text in ("internet", "world", "external"):
        return Party("the internet", ip=outside_address(world))
    if _is_ip(text):
        return _address(world, str(ip_address(text)))
    parts = text.split("/")
    if len(parts) == 3 and parts[1].lower() in _KINDS:
        return _of_kind(world, _KINDS[parts[1].lower()], parts[2], parts[0])
    if len(parts) == 2 and parts[0].lower() in _KINDS:
        return _of_kind(world, _KINDS[parts[0].lower()], parts[1], namespace)
    if len(parts) == 2:
        return _named(world, parts[1], parts[0], as_server, elsewhere=False)
    if len(parts) == 1 and "." in text:
        return _dns_name(world, text)
    if len(parts) == 1:
        return _named(world, text, namespace, as_server, elsewhere=True)
    raise _bad(text, "write NAME, KIND/NAME, NAMESPACE/NAME or NAMESPACE/KIND/NAME")


def outside_address(world: World) -> str:
    """Return an address that is nobody's in the cluster, if possible one that no policy speaks of in particular."""
    blocks = {
        peer
        for policy in world.snapshot.policies
        for rule in (*policy.ingress, *policy.egress)
        for peer in rule.peers or ()
        if isinstance(peer, BlockPeer) and peer.cidr.prefixlen
    }
    return min(_OUTSIDE, key=lambda text: sum(ip_address(text) in b.cidr for b in blocks))


def _bad(text: str, why: str) -> BadInput:
    return BadInput(Problem(text, "", why))


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _address(world: World, ip: str) -> Party:
    found = world.snapshot.endpoint(ip_address(ip)).pod
    pod = world.pod(found.key) if found is not None else None
    if pod is not None:
        return Party(f"{ip} ({pod.workload} in {pod.key.namespace})", (pod,))
    for service in world.services.values():
        if ip in service.ips:
            return Party(f"{ip} (svc/{service.key.name} in {service.key.namespace})", _behind(world, service), service)
    return Party(ip, ip=ip)


def _behind(world: World, service: ServiceView) -> tuple[PodView, ...]:
    found: dict[Key, PodView] = {}
    for port in service.ports:
        found.update((b.pod.key, b.pod) for b in world.backends(service, port)[0] if b.pod is not None)
    return tuple(found.values())


def _of_kind(world: World, kind: str, name: str, namespace: str) -> Party:
    if kind == "Namespace":
        pods = tuple(p for p in world.pods if p.key.namespace == name)
        if not pods:
            known = sorted({p.key.namespace for p in world.pods})
            raise _bad(f"ns/{name}", f"no pod is in it; there are pods in: {', '.join(known) or 'no namespace'}")
        return Party(f"namespace {name}", pods)
    if kind == "Service":
        service = world.services.get(Key(namespace, name))
        if service is None:
            raise _unknown(f"svc/{name}", namespace, [k.name for k in world.services if k.namespace == namespace])
        return Party(f"svc/{name} in {namespace}", _behind(world, service), service)
    if kind == "Node":
        return _node(world, name)
    pods = _pods_named(world, kind, name, namespace)
    if not pods:
        known = [p.owner.name if kind != "Pod" else p.key.name for p in world.pods if p.key.namespace == namespace]
        raise _unknown(f"{SHORT.get(kind, kind)}/{name}", namespace, known)
    return Party(f"{SHORT.get(kind, kind)}/{name} in {namespace}", pods)


def _node(world: World, name: str) -> Party:
    for located in world.objects:
        if located.object["kind"] == "Node" and located.key.name == name:
            for address in (located.object.get("status") or {}).get("addresses") or ():
                if address.get("type") == "InternalIP":
                    return Party(f"node {name}", ip=address["address"])
    raise _bad(f"node/{name}", "no such node, or it has no InternalIP")


def _pods_named(world: World, kind: str, name: str, namespace: str) -> tuple[PodView, ...]:
    if kind == "Pod":
        pod = world.pod(Key(namespace, name))
        return (pod,) if pod is not None else ()

    def fits(pod: PodView) -> bool:
        return pod.owner.kind == kind and pod.owner.name == name

    return tuple(p for p in world.pods_in(namespace) if fits(p))


def _unknown(what: str, namespace: str, known: Sequence[str]) -> BadInput:
    names = sorted(set(known))
    near = get_close_matches(what.rpartition("/")[2], names, 3)
    hint = f"; did you mean {', '.join(near)}?" if near else f"; there are: {', '.join(names[:8])}" if names else ""
    return _bad(what, f"not found in namespace {namespace}{hint}")


def _named(world: World, name: str, namespace: str, as_server: bool, *, elsewhere: bool) -> Party:
    found = _candidates(world, name, namespace, as_server)
    if found:
        return found[0]
    others = [n for n in world.namespaces if n != namespace] if elsewhere else []
    parties = [p[0] for n in others if (p := _candidates(world, name, n, as_server))]
    if len(parties) == 1:
        return parties[0]
    if parties:
        raise _bad(name, f"is ambiguous: {', '.join(p.name for p in parties)}; write NAMESPACE/{name}")
    known = [p.owner.name for p in world.pods] + [k.name for k in world.services]
    raise _unknown(name, namespace, known)


def _candidates(world: World, name: str, namespace: str, as_server: bool) -> list[Party]:
    """Return what a bare name may mean in a namespace, the likeliest first."""
    service = world.services.get(Key(namespace, name))
    services = [Party(f"svc/{name} in {namespace}", _behind(world, service), service)] if service else []
    pods = _pods_named(world, "Pod", name, namespace)
    found = [Party(f"pod/{name} in {namespace}", pods)] if pods else []
    owners = {p.owner for p in world.pods_in(namespace) if p.owner.name == name}
    for owner in sorted(owners):
        if owner.kind != "Pod":
            found.append(_of_kind(world, owner.kind, name, namespace))
    labelled = tuple(
        p for p in world.pods_in(namespace)
        if name in (p.labels.get("app"), p.labels.get("app.kubernetes.io/name"))
    )  # fmt: skip
    if labelled:
        found.append(Party(f"pods labelled {name} in {namespace}", labelled))
    return services + found if as_server else found + services


def _dns_name(world: World, text: str) -> Party:
    """Return what a DNS name leads to: Services as CoreDNS serves them, pods behind headless ones, or the outside."""
    name = text.rstrip(".")
    short = re.sub(r"\.svc(\.cluster\.local)?$", "", name)
    parts = short.split(".")
    inside = short != name
    if len(parts) == 2:
        service = world.services.get(Key(parts[1], parts[0]))
        if service is not None:
            shown = f"{text} (svc/{parts[0]} in {parts[1]})"
            return Party(shown, _behind(world, service), service, dns_name=text)
        if inside or parts[1] in world.namespaces:
            raise _unknown(f"svc/{parts[0]}", parts[1], [k.name for k in world.services if k.namespace == parts[1]])
    if len(parts) == 3 and (Key(parts[2], parts[1]) in world.services):
        pods = tuple(
            p for p in world.pods
            if p.key.namespace == parts[2] and parts[0] in (p.spec.get("hostname"), p.key.name)
        )  # fmt: skip
        if pods:
            return Party(f"{text} (pod/{pods[0].key.name} in {parts[2]})", pods, dns_name=text)
    if inside:
        raise _bad(text, "no Service of the cluster has this name")
    return Party(f"{text} (outside the cluster)", ip=outside_address(world), dns_name=text)
