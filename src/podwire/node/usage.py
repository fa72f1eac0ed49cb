"""Resource use of the node's containers: /stats/summary and /metrics/resource."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podwire.model.objects import Obj, key_of, timestamp
from podwire.node.pod import spec
from podwire.node.pod.status import moment
from podwire.node.runtime.values import ContainerUsage

if TYPE_CHECKING:
    from podwire.node.agent import Agent


@dataclass(frozen=True, slots=True)
class PodUse:
    """One pod's containers that run."""

    pod: Obj
    containers: tuple[tuple[str, float, ContainerUsage], ...]  # name, started at, use


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the whole node. The machine's totals are those of every node on it."""

    node: str
    at: str
    at_ms: int
    cpu_ns: int
    memory_bytes: int
    pods: tuple[PodUse, ...]


async def observe(agent: Agent) -> Sample:
    """Return what everything uses now."""
    used = {u.id: u for u in await agent.node.runtime.usage()}
    pods = []
    for worker in agent.workers.values():
        running = [(c.spec.name, c.started_at, used[c.spec.id]) for c in worker.records.running() if c.spec.id in used]
        if running:
            pods.append(PodUse(worker.pod, tuple(running)))
    now = agent.node.clock.now()
    cpu_ns = sum(u.cpu_ns for u in used.values()) + time.process_time_ns()
    memory = sum(u.memory_bytes for u in used.values()) + _own_bytes()
    return Sample(agent.config.name, timestamp(now), int(now.timestamp() * 1000), cpu_ns, memory, tuple(pods))


def _own_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def summary(sample: Sample) -> Obj:
    """Return stats.k8s.io's Summary, as much of it as is known here."""
    pods = []
    for use in sample.pods:
        key = key_of(use.pod)
        containers = [
            {"name": n, "startTime": moment(t), **_stats(u.cpu_ns, u.memory_bytes, sample.at)}
            for n, t, u in use.containers
        ]
        total = _stats(
            sum(u.cpu_ns for _, _, u in use.containers),
            sum(u.memory_bytes for _, _, u in use.containers),
            sample.at,
        )
        reference = {"name": key.name, "namespace": key.namespace, "uid": spec.uid_of(use.pod)}
        begun = (use.pod.get("status") or {}).get("startTime")
        processes = {"process_count": sum(u.processes for _, _, u in use.containers)}
        pods.append(
            {
                "podRef": reference,
                "startTime": begun,
                "containers": containers,
                "process_stats": processes,
                **total,
            }
        )
    node = {"nodeName": sample.node, **_stats(sample.cpu_ns, sample.memory_bytes, sample.at)}
    return {"node": node, "pods": pods}


def _stats(cpu_ns: int, memory_bytes: int, at: str) -> dict[str, Any]:
    return {
        "cpu": {"time": at, "usageCoreNanoSeconds": cpu_ns},
        "memory": {
            "time": at,
            "workingSetBytes": memory_bytes,
            "rssBytes": memory_bytes,
            "usageBytes": memory_bytes,
        },
    }


def metrics(sample: Sample) -> str:
    """Return the same in Prometheus' text form, with the kubelet's metric names."""
    lines: list[str] = []

    def family(name: str, kind: str, text: str, rows: list[tuple[str, float]]) -> None:
        lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}"))
        lines.extend(f"{name}{labels} {value} {sample.at_ms}" for labels, value in rows)

    family("node_cpu_usage_seconds_total", "counter", "CPU time of the node", [("", sample.cpu_ns / 1e9)])
    family("node_memory_working_set_bytes", "gauge", "Memory of the node", [("", sample.memory_bytes)])
    rows = [(_labels(p.pod, name), u) for p in sample.pods for name, _, u in p.containers]
    cpu = [(labels, u.cpu_ns / 1e9) for labels, u in rows]
    memory = [(labels, float(u.memory_bytes)) for labels, u in rows]
    family("container_cpu_usage_seconds_total", "counter", "CPU time of the container", cpu)
    family("container_memory_working_set_bytes", "gauge", "Memory of the container", memory)
    cpu = [(_labels(p.pod), sum(u.cpu_ns for *_, u in p.containers) / 1e9) for p in sample.pods]
    memory = [(_labels(p.pod), float(sum(u.memory_bytes for *_, u in p.containers))) for p in sample.pods]
    family("pod_cpu_usage_seconds_total", "counter", "CPU time of the pod", cpu)
    family("pod_memory_working_set_bytes", "gauge", "Memory of the pod", memory)
    return "\n".join(lines) + "\n"


def _labels(pod: Obj, container: str = "") -> str:
    key = key_of(pod)
    pairs = {"container": container} if container else {}
    pairs |= {"namespace": key.namespace, "pod": key.name}
    return "{" + ",".join(f'{k}="{v}"' for k, v in pairs.items()) + "}"
