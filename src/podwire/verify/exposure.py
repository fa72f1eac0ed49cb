"""How open each workload is to those who are not there yet: the outside, and namespaces yet unknown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from podwire.model.objects import Key
from podwire.model.selectors import Requirement, Selector
from podwire.policy.matrix import Matrix
from podwire.policy.rules import PodPeer
from podwire.policy.snapshot import NAMESPACE_NAME_LABEL
from podwire.verify.grid import OUTSIDE, Grid, grid, ports_word, with_strangers
from podwire.verify.sources import of_kind
from podwire.verify.world import World

NEW_NAMESPACE = "(new namespace)"


@dataclass(frozen=True, slots=True)
class Exposure:
    """What strangers reach on one workload, and what it reaches of theirs."""

    workload: str
    from_outside: str  # ports
    to_outside: str
    from_unknown: str  # ports for a pod without labels in a namespace without labels
    to_unknown: str
    labelled: Mapping[str, str]  # ports by the labels that would open them: {"team=a": "80/TCP"}
    ways_in: tuple[str, ...]  # Services, Ingresses and Gateways that lead to it from outside


def exposure(world: World) -> tuple[Exposure, ...]:
    """Return the exposure of every workload, in the order of the matrix."""
    strangers = {NEW_NAMESPACE: {NAMESPACE_NAME_LABEL: NEW_NAMESPACE}} | dict(_invited(world))
    table = grid(world)
    snapshot = world.snapshot if world.enforces else replace(world.snapshot, policies=())
    matrix = Matrix(with_strangers(snapshot, strangers))
    found = []
    for line in table.lines:
        if not line.pods:
            continue
        keys = [p.key for p in line.pods if p.key in matrix.classes.of_pod]
        unknown = _between(matrix, Key(NEW_NAMESPACE, "any"), keys)
        labelled = {name: _between(matrix, Key(name, "any"), keys) for name in strangers if name != NEW_NAMESPACE}
        found.append(
            Exposure(
                line.name,
                _word(table, OUTSIDE, line.name),
                _word(table, line.name, OUTSIDE),
                unknown,
                _onto(matrix, keys, Key(NEW_NAMESPACE, "any")),
                {name: ports for name, ports in labelled.items() if ports not in ("-", unknown)},
                tuple(_ways_in(world, {p.key for p in line.pods})),
            )
        )
    return tuple(found)


def _word(table: Grid, source: str, destination: str) -> str:
    cell = table.cells.get((source, destination))
    return cell.word if cell is not None else "-"


def _between(matrix: Matrix, src: Key, targets: list[Key]) -> str:
    words = sorted({ports_word(matrix.between(src, dst)) for dst in targets})
    return words[0] if len(words) == 1 else "~" + " | ".join(words) if words else "all"


def _onto(matrix: Matrix, sources: list[Key], dst: Key) -> str:
    words = sorted({ports_word(matrix.between(src, dst)) for src in sources})
    return words[0] if len(words) == 1 else "~" + " | ".join(words) if words else "all"


def _invited(world: World) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield namespaces that rules wait for: labels that some namespaceSelector asks and no namespace has."""
    selectors = {
        peer.namespaces
        for policy in world.snapshot.policies
        for rule in (*policy.ingress, *policy.egress)
        for peer in rule.peers or ()
        if isinstance(peer, PodPeer) and peer.namespace is None and peer.namespaces.requirements
    }
    for selector in sorted(selectors, key=repr):
        if any(selector.matches(ns.labels) for ns in world.snapshot.namespaces.values()):
            continue
        labels = _satisfying(selector)
        if labels is not None and selector.matches(labels):
            yield ",".join(f"{k}={v}" for k, v in sorted(labels.items())), labels


def _satisfying(selector: Selector) -> dict[str, str] | None:
    labels: dict[str, str] = {}
    for r in selector.requirements:
        if r.operator in ("In", "Exists"):
            labels[r.key] = _value(r)
    return labels or None


def _value(requirement: Requirement) -> str:
    return requirement.values[0] if requirement.values else "any"


def _ways_in(world: World, pods: set[Key]) -> Iterator[str]:
    """Yield what leads to some pods from outside: "NodePort 30080", "Ingress shop.example.com/ -> svc/web:80"."""
    leading = {
        service.key
        for service in world.services.values()
        if any(b.pod is not None and b.pod.key in pods for p in service.ports for b in world.backends(service, p)[0])
    }
    for key in sorted(leading):
        service = world.services[key]
        if service.is_open_outside:
            ports = ", ".join(f"{p.port}{f':{p.node_port}' if p.node_port else ''}/{p.protocol}" for p in service.ports)
            yield f"{service.type} svc/{key.name} {ports}"
    for ingress in of_kind(world.objects, "Ingress"):
        for host, path, backend in _routes(ingress.object):
            name = (backend.get("service") or {}).get("name")
            if Key(ingress.key.namespace, name or "") in leading:
                yield f"Ingress {ingress.key.name}: {host or '*'}{path} -> svc/{name}"
    for http in of_kind(world.objects, "HTTPRoute", "TCPRoute", "UDPRoute", "TLSRoute", "GRPCRoute"):
        for rule in (http.object.get("spec") or {}).get("rules") or ():
            for ref in rule.get("backendRefs") or ():
                target = Key(ref.get("namespace") or http.key.namespace, ref.get("name") or "")
                if ref.get("kind", "Service") == "Service" and target in leading:
                    yield f"{http.key.kind} {http.key.name} -> svc/{target.name}"


def _routes(obj: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (host, path, backend) of an Ingress."""
    spec = obj.get("spec") or {}
    if spec.get("defaultBackend"):
        yield "", "/", spec["defaultBackend"]
    for rule in spec.get("rules") or ():
        for entry in (rule.get("http") or {}).get("paths") or ():
            yield rule.get("host") or "", entry.get("path") or "/", entry.get("backend") or {}
