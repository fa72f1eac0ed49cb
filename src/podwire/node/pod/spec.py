"""Questions to a pod's spec, each answered in one place. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from podwire.model.objects import Obj, annotations_of
from podwire.model.podnetwork import HostPort
from podwire.node import quantity

Role = Literal["init", "sidecar", "main", "ephemeral"]

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"


def uid_of(pod: Mapping[str, Any]) -> str:
    """Return the pod's UID."""
    uid: str = pod["metadata"]["uid"]
    return uid


def full_name(pod: Mapping[str, Any]) -> str:
    """Return NAME_NAMESPACE(UID), as kubelet's messages name a pod."""
    meta = pod["metadata"]
    return f"{meta['name']}_{meta.get('namespace', '')}({meta['uid']})"


def restart_policy(pod: Mapping[str, Any]) -> str:
    """Return Always, OnFailure or Never."""
    policy: str = pod["spec"].get("restartPolicy") or "Always"
    return policy


def is_sidecar(container: Mapping[str, Any]) -> bool:
    """Return whether an init container is a restartable one (KEP-753)."""
    return container.get("restartPolicy") == "Always"


def init_containers(pod: Mapping[str, Any]) -> list[Obj]:
    """Return the init containers in order, sidecars among them."""
    return pod["spec"].get("initContainers") or []


def main_containers(pod: Mapping[str, Any]) -> list[Obj]:
    """Return the regular containers."""
    return pod["spec"].get("containers") or []


def ephemeral_containers(pod: Mapping[str, Any]) -> list[Obj]:
    """Return the containers that were added to the running pod (kubectl debug)."""
    return pod["spec"].get("ephemeralContainers") or []


def containers(pod: Mapping[str, Any]) -> Iterator[tuple[Role, Obj]]:
    """Yield every container with its role: init and sidecar, main, ephemeral."""
    for c in init_containers(pod):
        yield ("sidecar" if is_sidecar(c) else "init"), c
    for c in main_containers(pod):
        yield "main", c
    for c in ephemeral_containers(pod):
        yield "ephemeral", c


def field_path(role: Role, name: str) -> str:
    """Return the fieldPath that events about a container carry."""
    list_name = {
        "init": "initContainers", "sidecar": "initContainers", "main": "containers",
        "ephemeral": "ephemeralContainers",
    }[role]  # fmt: skip
    return f"spec.{list_name}{{{name}}}"


def is_host_network(pod: Mapping[str, Any]) -> bool:
    """Return whether the pod lives in the node's network namespace."""
    return bool(pod["spec"].get("hostNetwork"))


def grace_s(pod: Mapping[str, Any]) -> int:
    """Return the seconds a deleted pod gets: what the deletion says, else the spec, else 30."""
    deletion = pod["metadata"].get("deletionGracePeriodSeconds")
    if deletion is not None:
        return int(deletion)
    value = pod["spec"].get("terminationGracePeriodSeconds")
    return 30 if value is None else int(value)


def host_ports(pod: Mapping[str, Any]) -> tuple[HostPort, ...]:
    """Return what the CNI's portmap is to publish; nothing for pods of the host network."""
    if is_host_network(pod):
        return ()
    return tuple(
        HostPort(p["hostPort"], p["containerPort"], p.get("protocol", "TCP").lower(), p.get("hostIP", ""))
        for role, c in containers(pod)
        if role in ("main", "sidecar")
        for p in c.get("ports") or ()
        if p.get("hostPort")
    )


def attachment_annotations(pod: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the annotations, sorted: bandwidth limits and addresses are asked for through them."""
    return tuple(sorted(annotations_of(pod).items()))


_QOS_RESOURCES = ("cpu", "memory")


def qos_class(pod: Mapping[str, Any]) -> str:
    """Return Guaranteed, Burstable or BestEffort from the requests and limits."""
    any_set, guaranteed = False, True
    for role, c in containers(pod):
        if role == "ephemeral":
            continue
        resources = c.get("resources") or {}
        limits = resources.get("limits") or {}
        requests = resources.get("requests") or {}
        for name in _QOS_RESOURCES:
            limit, request = _positive(limits.get(name)), _positive(requests.get(name, limits.get(name)))
            any_set = any_set or bool(limit or request)
            guaranteed = guaranteed and bool(limit) and limit == request
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _positive(text: Any) -> Any:
    if text is None:
        return None
    value = quantity.parse(text)
    return value if value > 0 else None


def hostname_of(pod: Mapping[str, Any], node_hostname: str, cluster_domain: str) -> tuple[str, str]:
    """Return the host name and the FQDN ("" without a subdomain) of the pod's UTS namespace.

    Host names are cut to 63 characters without a trailing "-" or "." (a kernel and DNS limit).
    """
    spec = pod["spec"]
    if is_host_network(pod):
        return node_hostname, ""
    short = spec.get("hostname") or pod["metadata"]["name"]
    short = short[:63].rstrip("-.")
    fqdn = ""
    if spec.get("subdomain"):
        namespace = pod["metadata"].get("namespace", "")
        fqdn = f"{short}.{spec['subdomain']}.{namespace}.svc.{cluster_domain}"
    if spec.get("hostnameOverride"):
        return spec["hostnameOverride"], ""
    if fqdn and spec.get("setHostnameAsFQDN"):
        return fqdn[:64], fqdn
    return short, fqdn


def is_terminal(pod: Mapping[str, Any]) -> bool:
    """Return whether the pod's phase says that it will never run again."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
