"""The Node object as a kubelet writes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from podwire.model.objects import Obj, with_condition
from podwire.node.config import DRY_ANNOTATION, KUBELET_VERSION, NodeConfig
from podwire.node.machine import Machine

NOT_READY_TAINT: Obj = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}


def node_labels(config: NodeConfig, machine: Machine) -> dict[str, str]:
    """Return the labels that the node gives itself."""
    common = {"kubernetes.io/arch": machine.architecture, "kubernetes.io/os": "linux"}
    beta = {"beta.kubernetes.io/arch": machine.architecture, "beta.kubernetes.io/os": "linux"}
    return {**common, **beta, "kubernetes.io/hostname": config.name, **config.labels}


def node_annotations(config: NodeConfig) -> dict[str, str]:
    """Return the annotations; a node that runs nothing says so."""
    return dict(config.annotations) | ({DRY_ANNOTATION: "true"} if config.dry else {})


def new_node(config: NodeConfig, machine: Machine, status: Obj, problem: str) -> Obj:
    """Return the object to create; tainted for as long as its network has a problem."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": config.name,
            "labels": node_labels(config, machine),
            "annotations": node_annotations(config),
        },
        "spec": {"taints": [*map(dict, config.taints), *([NOT_READY_TAINT] if problem else [])]},
        "status": status,
    }


def capacity(config: NodeConfig, machine: Machine) -> dict[str, str]:
    """Return capacity, which is allocatable too: nothing is set aside for the system."""
    return {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory_bytes >> 10}Ki",
        "ephemeral-storage": f"{machine.disk_bytes >> 10}Ki",
        "hugepages-2Mi": "0",
        "pods": str(config.max_pods),
    }


def status(
    config: NodeConfig,
    machine: Machine,
    runtime_version: str,
    images: Sequence[str],
    problem: str,
    old: Mapping[str, Any],
    now: str,
) -> Obj:
    """Return the status; ``problem`` is why the network is not ready, "" when it is."""
    addresses = [{"type": "InternalIP", "address": str(a)} for a in config.addresses]
    resources = capacity(config, machine)
    return {
        "addresses": [*addresses, {"type": "Hostname", "address": config.name}],
        "capacity": resources,
        "allocatable": dict(resources),
        "conditions": _conditions(problem, old.get("conditions") or [], now),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
        "nodeInfo": {
            "architecture": machine.architecture,
            "bootID": machine.boot_id,
            "containerRuntimeVersion": runtime_version,
            "kernelVersion": machine.kernel,
            "kubeProxyVersion": "",
            "kubeletVersion": KUBELET_VERSION,
            "machineID": machine.machine_id,
            "operatingSystem": "linux",
            "osImage": machine.os_image,
            "systemUUID": machine.machine_id,
        },
        "images": [{"names": [name], "sizeBytes": 0} for name in images],
    }


def _conditions(problem: str, old: Sequence[Obj], now: str) -> list[Obj]:
    well = {
        "MemoryPressure": ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        "DiskPressure": ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        "PIDPressure": ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    }
    fresh = [_condition(t, "False", reason, message, now) for t, (reason, message) in well.items()]
    if problem:
        why = f"container runtime network not ready: {problem}"
        fresh.append(_condition("Ready", "False", "KubeletNotReady", why, now))
    else:
        fresh.append(_condition("Ready", "True", "KubeletReady", "kubelet is posting ready status", now))
    conditions = list(old)
    for c in fresh:
        conditions = with_condition(conditions, c, now)
    return conditions


def _condition(type: str, status: str, reason: str, message: str, now: str) -> Obj:
    return {
        "type": type,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
    }


def own_part(status: Obj) -> Obj:
    """Return what a kubelet writes of a status: conditions of others are theirs."""
    own = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    return status | {"conditions": [c for c in status["conditions"] if c["type"] in own]}


def differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether two statuses differ in more than their heartbeats."""
    return _without_times(old) != _without_times(new)


def _without_times(status: Mapping[str, Any]) -> Obj:
    told = [{k: c.get(k) for k in ("type", "status", "reason", "message")} for c in status.get("conditions") or ()]
    own = ("addresses", "capacity", "allocatable", "nodeInfo", "daemonEndpoints")
    return {k: status.get(k) for k in own} | {"conditions": sorted(told, key=lambda c: str(c["type"]))}


def lease(config: NodeConfig, node_uid: str, now: str) -> Obj:
    """Return the node's Lease in kube-node-lease, renewed now (metav1.MicroTime)."""
    meta: Obj = {"name": config.name, "namespace": "kube-node-lease"}
    if node_uid:
        meta["ownerReferences"] = [{"apiVersion": "v1", "kind": "Node", "name": config.name, "uid": node_uid}]
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": meta,
        "spec": {
            "holderIdentity": config.name,
            "leaseDurationSeconds": config.lease_duration_s,
            "renewTime": now,
        },
    }
