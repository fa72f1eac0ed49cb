"""What all pod workers of a node share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podwire.client.port import Client
from podwire.model.objects import Obj
from podwire.node.config import NodeConfig
from podwire.node.events import EventType, Recorder, pod_reference
from podwire.node.network import PodNetwork
from podwire.node.pod.environment import PodFacts
from podwire.node.pod.statuses import StatusWriter
from podwire.node.runtime.port import RuntimePort
from podwire.node.volumes.objects import ObjectCache
from podwire.node.volumes.prepare import Volumes
from podwire.node.volumes.tokens import TokenSource
from podwire.runtime.clock import Clock
from podwire.runtime.logging import get

_log = get("node")


@dataclass(slots=True)
class NodeContext:
    """The node, as a pod worker sees it."""

    config: NodeConfig
    client: Client
    runtime: RuntimePort
    network: PodNetwork
    clock: Clock
    group: asyncio.TaskGroup
    recorder: Recorder
    statuses: StatusWriter
    objects: ObjectCache
    tokens: TokenSource
    volumes: Volumes
    services: Callable[[], Iterable[Obj]]
    allocatable: Mapping[str, str]
    network_problem: str = "the network is not set up yet"  # "" when it can take pods
    starting: int = 0  # pods that have not had their first status yet

    @property
    def pods_dir(self) -> Path:
        """Where pods' directories are."""
        return self.config.state_dir / "pods"

    def facts(self, pod_ips: tuple[Any, ...]) -> PodFacts:
        """Return what a pod may ask for about itself and this node."""
        return PodFacts(self.config.name, self.config.addresses, pod_ips, self.allocatable)

    def log_dir(self, pod: Mapping[str, Any]) -> Path:
        """Return where the pod's containers log."""
        meta = pod["metadata"]
        return self.config.log_dir / f"{meta.get('namespace', '')}_{meta['name']}_{meta['uid']}"

    def tell(self, pod: Mapping[str, Any], type: EventType, reason: str, message: str, field_path: str = "") -> None:
        """Record an event about a pod."""
        self.recorder.record(pod_reference(pod), type, reason, message, field_path)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work beside a pod's loop. What it raises is logged: one pod's trouble never ends the node."""
        task = self.group.create_task(_guarded(work))
        task.add_done_callback(lambda _: work.close())  # it may be cancelled before it began
        return task


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:
        _log.error("task-failed", error=repr(error))
