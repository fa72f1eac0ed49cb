"""Workloads and their pods: who owns a pod, and which pods a workload stands for when there are none. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from podwire.model.objects import Key, Obj, controller_of, key_of, labels_of
from podwire.verify.located import LIVE, Located, ObjectKey, field_of

TEMPLATES: Mapping[str, str] = {
    "Deployment": "spec.template", "StatefulSet": "spec.template", "DaemonSet": "spec.template",
    "ReplicaSet": "spec.template", "ReplicationController": "spec.template", "Job": "spec.template",
    "CronJob": "spec.jobTemplate.spec.template",
}  # fmt: skip
"""Where a workload keeps its pods' template."""

FIRST_STAND_IN = IPv4Address("10.244.0.2")
"""Stand-ins get addresses from here on, so that an ipBlock can be judged for them: podwire's own pod network."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod, real or standing for a workload's, with what it belongs to."""

    object: Obj
    owner: ObjectKey  # the topmost workload; the pod itself when nothing owns it
    located: Located  # where to point: the pod's own text, or its workload's
    prefix: str = ""  # what leads from the located object to the pod's fields: "spec.template."
    stand_in: bool = False
    assumed: bool = False  # in no manifest, but in every cluster: the cluster DNS

    @property
    def key(self) -> Key:
        """The pod's namespace and name."""
        return key_of(self.object)

    @property
    def labels(self) -> Mapping[str, str]:
        """The pod's labels."""
        return labels_of(self.object)

    @property
    def ip(self) -> str:
        """The pod's first address; "" when it has none."""
        return (self.object.get("status") or {}).get("podIP") or ""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The pod's spec."""
        return self.object.get("spec") or {}

    @property
    def workload(self) -> str:
        """The owner as people type it: "deploy/web", "pod/box"."""
        return f"{SHORT.get(self.owner.kind, self.owner.kind.lower())}/{self.owner.name}"

    def ports(self) -> Iterator[tuple[str, str, int]]:
        """Yield (name, protocol, number) of every port that a container declares; the name may be ""."""
        for container in (*(self.spec.get("initContainers") or ()), *(self.spec.get("containers") or ())):
            if container in (self.spec.get("initContainers") or ()) and container.get("restartPolicy") != "Always":
                continue
            for port in container.get("ports") or ():
                number = port.get("containerPort")
                if isinstance(number, int):
                    yield port.get("name") or "", port.get("protocol") or "TCP", number


SHORT = {
    "Deployment": "deploy", "StatefulSet": "sts", "DaemonSet": "ds", "ReplicaSet": "rs", "Job": "job",
    "CronJob": "cj", "Pod": "pod", "ReplicationController": "rc",
}  # fmt: skip
"""kubectl's short names."""


def pods_of(objects: Sequence[Located]) -> tuple[PodView, ...]:
    """Return every pod, and for each workload written in files that has none, stand-ins for its pods."""
    workloads = {w.key: w for w in objects if w.object["kind"] in TEMPLATES}
    pods = [_real(located, workloads) for located in objects if located.object["kind"] == "Pod"]
    owned = {pod.owner for pod in pods}
    taken = {pod.ip for pod in pods}
    addresses = (a for a in map(str, _counting(FIRST_STAND_IN)) if a not in taken)
    for key, workload in workloads.items():
        if workload.file != LIVE and key not in owned and _top(workload.object, workloads) == key:
            pods += _stand_ins(workload, addresses)
    return tuple(_addressed(pod, addresses) for pod in pods)


def _counting(first: IPv4Address) -> Iterator[IPv4Address]:
    number = int(first)
    while True:
        if number & 0xFF not in (0, 1, 255):
            yield IPv4Address(number)
        number += 1


def _real(located: Located, workloads: Mapping[ObjectKey, Located]) -> PodView:
    owner = _top(located.object, workloads)
    view = PodView(located.object, owner, located)
    workload = workloads.get(owner)
    if workload is None or workload.file == LIVE or located.file != LIVE:
        return view
    # A changed workload rolls its pods over: judge them as they will be, under the names that they have.
    template = field_of(workload.object, TEMPLATES[workload.object["kind"]]) or {}
    meta = {**located.object["metadata"], "labels": labels_of({"metadata": template.get("metadata") or {}})}
    spec = {**(template.get("spec") or {}), "nodeName": (located.object.get("spec") or {}).get("nodeName")}
    return replace(view, object={**located.object, "metadata": meta, "spec": spec})


def _top(obj: Mapping[str, Any], workloads: Mapping[ObjectKey, Located]) -> ObjectKey:
    """Return the topmost controller of an object; the object's own key when it has none."""
    meta = obj["metadata"]
    own = ObjectKey(obj["apiVersion"].rpartition("/")[0], obj["kind"], meta.get("namespace", ""), meta["name"])
    ref = controller_of(obj)
    if ref is None or ref["kind"] == "Node":  # a static pod's mirror is nobody's
        return own
    group = ref.get("apiVersion", "").rpartition("/")[0]
    parent = ObjectKey(group, ref["kind"], own.namespace, ref["name"])
    above = workloads.get(parent)
    if above is not None:
        return _top(above.object, workloads)
    hashed = (obj["metadata"].get("labels") or {}).get("pod-template-hash", "")
    if parent.kind == "ReplicaSet" and hashed and parent.name.endswith(f"-{hashed}"):
        return ObjectKey("apps", "Deployment", own.namespace, parent.name.removesuffix(f"-{hashed}"))
    return parent


def _stand_ins(workload: Located, addresses: Iterator[str]) -> Iterator[PodView]:
    """Yield up to two pods of a workload: two show whether its pods reach one another."""
    kind, key = workload.object["kind"], workload.key
    path = TEMPLATES[kind]
    template = field_of(workload.object, path) or {}
    wanted = field_of(workload.object, "spec.replicas")
    count = 2 if kind in ("DaemonSet",) else 1 if kind in ("Job", "CronJob") else min(wanted or 1, 2)
    meta = template.get("metadata") or {}
    for index in range(count):
        pod: Obj = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{key.name}-{index}",
                "namespace": key.namespace,
                "labels": dict(meta.get("labels") or {}),
                "annotations": dict(meta.get("annotations") or {}),
            },
            "spec": template.get("spec") or {},
            "status": {"podIP": next(addresses)},
        }
        yield PodView(pod, key, workload, f"{path}.", stand_in=True)


def _addressed(pod: PodView, addresses: Iterator[str]) -> PodView:
    """Give a pod from a file an address; a cluster's pod without one has not started."""
    if pod.ip or pod.located.file == LIVE:
        return pod
    status = {**(pod.object.get("status") or {}), "podIP": next(addresses)}
    return replace(pod, object={**pod.object, "status": status})


def by_workload(pods: Iterable[PodView]) -> dict[ObjectKey, list[PodView]]:
    """Return pods by their topmost workload, in the order in which they came."""
    found: dict[ObjectKey, list[PodView]] = {}
    for pod in pods:
        found.setdefault(pod.owner, []).append(pod)
    return found
