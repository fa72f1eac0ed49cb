"""A pod's sandbox and its place in the network: made, found again after the agent's restart, taken down.

``pods/UID/sandbox.json`` says what CNI was told, so that CNI DEL can be told the same whatever happens
to the pod's object, the agent or the machine in between. It is written before ADD is asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from podwire.model.errors import MachineError
from podwire.model.objects import Obj
from podwire.model.podnetwork import Attachment, HostPort
from podwire.node.config import Address
from podwire.node.network import PodNetwork
from podwire.node.pod import spec
from podwire.node.runtime.port import RuntimePort
from podwire.node.runtime.values import SandboxSpec

_FILE = "sandbox.json"


@dataclass(frozen=True, slots=True)
class Place:
    """A sandbox with its network. ``attachment`` None: it lives in the node's network."""

    sandbox_id: str
    attachment: Attachment | None
    ips: tuple[Address, ...] = ()


def remember(pod_dir: Path, place: Place) -> None:
    """Write the place down, atomically."""
    pod_dir.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"sandbox_id": place.sandbox_id, "ips": [str(a) for a in place.ips]}
    if place.attachment is not None:
        record["attachment"] = asdict(place.attachment) | {"netns": str(place.attachment.netns)}
    temporary = pod_dir / (_FILE + ".new")
    temporary.write_text(json.dumps(record))
    os.rename(temporary, pod_dir / _FILE)


def recall(pod_dir: Path) -> Place | None:
    """Return the place that was written down; None when there is none or it cannot be read."""
    try:
        record = json.loads((pod_dir / _FILE).read_text())
        told = record.get("attachment")
        attachment = None
        if told is not None:
            attachment = Attachment(
                told["sandbox_id"],
                Path(told["netns"]),
                told["namespace"],
                told["name"],
                told["uid"],
                tuple(HostPort(**p) for p in told["host_ports"]),
                tuple((k, v) for k, v in told["annotations"]),
            )
        return Place(record["sandbox_id"], attachment, tuple(ip_address(a) for a in record["ips"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget(pod_dir: Path) -> None:
    """Strike the place out: its sandbox is gone."""
    (pod_dir / _FILE).unlink(missing_ok=True)


def recall_all(pods_dir: Path) -> Iterator[tuple[str, Place]]:
    """Yield (pod UID, place) of every pod that left a trace on this node."""
    if not pods_dir.is_dir():
        return
    for directory in sorted(pods_dir.iterdir()):
        place = recall(directory)
        if place is not None:
            yield directory.name, place


def sandbox_spec(pod: Obj, attempt: int, hostname: str) -> SandboxSpec:
    """Return what the runtime is asked for."""
    meta, pod_spec = pod["metadata"], pod["spec"]
    sysctls = (pod_spec.get("securityContext") or {}).get("sysctls") or ()
    return SandboxSpec(
        id=f"{meta['uid']}-{attempt}",
        pod_uid=meta["uid"],
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        hostname=hostname,
        host_network=spec.is_host_network(pod),
        host_pid=bool(pod_spec.get("hostPID")),
        host_ipc=bool(pod_spec.get("hostIPC")),
        share_process_namespace=bool(pod_spec.get("shareProcessNamespace")),
        sysctls={s["name"]: str(s["value"]) for s in sysctls},
    )


async def make(
    pod: Obj, attempt: int, hostname: str, pod_dir: Path, runtime: RuntimePort, network: PodNetwork
) -> Place:
    """Make a sandbox and attach it. Half-done work is undone. Raises MachineError."""
    wanted = sandbox_spec(pod, attempt, hostname)
    sandbox = await runtime.run_sandbox(wanted)
    if wanted.host_network:
        place = Place(wanted.id, None)
        remember(pod_dir, place)
        return place
    meta = pod["metadata"]
    attachment = Attachment(
        wanted.id,
        sandbox.netns,
        wanted.namespace,
        wanted.name,
        meta["uid"],
        spec.host_ports(pod),
        spec.attachment_annotations(pod),
    )
    place = Place(wanted.id, attachment)
    remember(pod_dir, place)
    try:
        ips = await network.add(attachment)
    except MachineError:
        await take_down(place, runtime, network)
        raise
    place = replace(place, ips=tuple(ips))
    remember(pod_dir, place)
    return place


async def take_down(place: Place, runtime: RuntimePort, network: PodNetwork, *, keep: bool = False) -> None:
    """Detach and stop the sandbox; unless ``keep``, forget it with its containers. Raises MachineError."""
    if place.attachment is not None:
        await network.delete(place.attachment)
    await runtime.stop_sandbox(place.sandbox_id)
    if not keep:
        await runtime.remove_sandbox(place.sandbox_id)
