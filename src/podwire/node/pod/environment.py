"""A container's environment, command and arguments. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podwire.model.objects import Obj, annotations_of, labels_of
from podwire.node import quantity
from podwire.node.config import Address

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


class ConfigError(Exception):
    """A container's configuration cannot be made: reason CreateContainerConfigError, and this message."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What only the node knows of a pod, and what fieldRef and resourceFieldRef may ask for."""

    node_name: str
    host_ips: tuple[Address, ...]
    pod_ips: tuple[Address, ...]
    allocatable: Mapping[str, str]


GetObject = Callable[[str, str], Obj | None]
"""("ConfigMap" or "Secret", name) -> the object in the pod's namespace, or None."""


def expand(text: str, values: Mapping[str, str]) -> str:
    """Return ``text`` with $(NAME) replaced; unknown names stay as written, $$ gives one $."""

    def replace(m: re.Match[str]) -> str:
        if m[1] is None:
            return "$"
        return values.get(m[1], m[0])

    return _REFERENCE.sub(replace, text)


def field_value(pod: Mapping[str, Any], path: str, facts: PodFacts) -> str:
    """Return what a fieldRef shows. Raises ConfigError for a path that is none."""
    meta, spec = pod["metadata"], pod["spec"]
    m = re.fullmatch(r"metadata\.(labels|annotations)\['(.*)'\]", path)
    if m:
        return dict(labels_of(pod) if m[1] == "labels" else annotations_of(pod)).get(m[2], "")
    if path in ("metadata.labels", "metadata.annotations"):
        pairs = labels_of(pod) if path.endswith("labels") else annotations_of(pod)
        return "\n".join(f"{k}={_quoted(v)}" for k, v in sorted(pairs.items()))
    simple = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta.get("namespace", ""),
        "metadata.uid": meta["uid"],
        "spec.nodeName": facts.node_name,
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": str(facts.host_ips[0]) if facts.host_ips else "",
        "status.hostIPs": ",".join(map(str, facts.host_ips)),
        "status.podIP": str(facts.pod_ips[0]) if facts.pod_ips else "",
        "status.podIPs": ",".join(map(str, facts.pod_ips)),
    }
    if path not in simple:
        raise ConfigError(f"unsupported fieldPath: {path}")
    value: str = simple[path]
    return value


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def resource_value(
    pod: Mapping[str, Any], container: Mapping[str, Any], ref: Mapping[str, Any], facts: PodFacts
) -> str:
    """Return what a resourceFieldRef shows; a limit that is not set is the node's allocatable."""
    owner = container
    if ref.get("containerName"):
        spec = pod["spec"]
        everyone = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
        found = [c for c in everyone if c["name"] == ref["containerName"]]
        if not found:
            raise ConfigError(f"container {ref['containerName']} not found")
        owner = found[0]
    side, _, name = ref["resource"].partition(".")
    value = ((owner.get("resources") or {}).get(side) or {}).get(name)
    if value is None:
        value = facts.allocatable.get(name, "0") if side == "limits" else "0"
    return quantity.divide(value, ref.get("divisor") or "1")


def service_variables(services: Iterable[Mapping[str, Any]], namespace: str, links: bool) -> dict[str, str]:
    """Return the variables of the Services of ``namespace`` (if ``links``) and of default/kubernetes.

    Headless and ExternalName Services have none.
    """
    values: dict[str, str] = {}
    for service in sorted(services, key=lambda s: s["metadata"]["name"]):
        meta, spec = service["metadata"], service["spec"]
        master = meta["name"] == "kubernetes" and meta.get("namespace") == "default"
        if not master and not (links and meta.get("namespace") == namespace):
            continue
        if spec.get("clusterIP") in (None, "", "None") or not spec.get("ports"):
            continue
        if master and meta.get("namespace") != namespace and _has_own(services, namespace, links):
            continue  # a Service "kubernetes" of the pod's own namespace wins
        values |= _of_service(meta["name"], spec["clusterIP"], spec["ports"])
    return values


def _has_own(services: Iterable[Mapping[str, Any]], namespace: str, links: bool) -> bool:
    return links and any(
        s["metadata"]["name"] == "kubernetes" and s["metadata"].get("namespace") == namespace for s in services
    )


def _of_service(name: str, ip: str, ports: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    prefix = name.upper().replace("-", "_")
    host = f"[{ip}]" if ":" in ip else ip
    values = {f"{prefix}_SERVICE_HOST": ip, f"{prefix}_SERVICE_PORT": str(ports[0]["port"])}
    for port in ports:
        if port.get("name"):
            values[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
    for number, port in enumerate(ports):
        protocol = (port.get("protocol") or "TCP").lower()
        url = f"{protocol}://{host}:{port['port']}"
        if number == 0:
            values[f"{prefix}_PORT"] = url
        stem = f"{prefix}_PORT_{port['port']}_{protocol.upper()}"
        values |= {
            stem: url,
            f"{stem}_PROTO": protocol,
            f"{stem}_PORT": str(port["port"]),
            f"{stem}_ADDR": ip,
        }
    return values


def environment(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    services: Mapping[str, str],
    get: GetObject,
    facts: PodFacts,
) -> dict[str, str]:
    """Return the container's variables: envFrom, then env in order, then Services not named yet.

    Raises ConfigError with kubelet's words when something that is not optional is missing.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        result |= _env_from(source, get)
    for entry in container.get("env") or ():
        value = _env_value(pod, container, entry, get, facts, {**services, **result})
        if value is not None:
            result[entry["name"]] = value
    return {**services, **result}


def _env_from(source: Mapping[str, Any], get: GetObject) -> dict[str, str]:
    prefix = source.get("prefix") or ""
    kind = "ConfigMap" if "configMapRef" in source else "Secret"
    ref = source.get("configMapRef") or source.get("secretRef") or {}
    found = get(kind, ref.get("name", ""))
    if found is None:
        if ref.get("optional"):
            return {}
        raise ConfigError(f'{kind.lower()} "{ref.get("name", "")}" not found')
    pairs = {prefix + k: v for k, v in text_values(found).items()}
    return {k: v for k, v in pairs.items() if _NAME.fullmatch(k)}


def text_values(obj: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries of a ConfigMap or a Secret as text."""
    if obj.get("kind") != "Secret":
        return dict(obj.get("data") or {})
    import base64

    return {k: base64.b64decode(v).decode("utf-8", "replace") for k, v in (obj.get("data") or {}).items()}


def _env_value(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    entry: Mapping[str, Any],
    get: GetObject,
    facts: PodFacts,
    known: Mapping[str, str],
) -> str | None:
    """Return one variable's value; None when an optional source has none."""
    source = entry.get("valueFrom")
    if not source:
        return expand(entry.get("value") or "", known)
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"], facts)
    if "resourceFieldRef" in source:
        return resource_value(pod, container, source["resourceFieldRef"], facts)
    for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if field not in source:
            continue
        ref = source[field]
        found = get(kind, ref["name"])
        values = text_values(found) if found is not None else {}
        if ref["key"] in values:
            return values[ref["key"]]
        if ref.get("optional"):
            return None
        if found is None:
            raise ConfigError(f'{kind.lower()} "{ref["name"]}" not found')
        where = f"{pod['metadata'].get('namespace', '')}/{ref['name']}"
        raise ConfigError(f"couldn't find key {ref['key']} in {kind} {where}")
    raise ConfigError(f"env {entry['name']}: valueFrom names no source that this node knows")
