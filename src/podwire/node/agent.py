"""The node's agent: what a kubelet does.

    pods of this node, Services, ConfigMaps and Secrets in use -> one worker per pod -> runtime, network
    <- statuses, events, lease, Node status                       HTTPS endpoint for logs, exec, ...

``run`` is the one entry; ``lab`` hands it a client, a runtime, the pod network and a clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Final

from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.kernel.netns.port import NetnsPort
from podwire.model.errors import MachineError
from podwire.model.objects import Key, Obj, annotations_of, is_deleting, key_of
from podwire.model.resources import NODES, PODS, SERVICES
from podwire.node import machine as machines
from podwire.node import nodeobject
from podwire.node.config import NodeConfig
from podwire.node.events import Recorder
from podwire.node.heartbeat import Heartbeat
from podwire.node.network import PodNetwork
from podwire.node.pod import sandbox, spec
from podwire.node.pod.context import NodeContext
from podwire.node.pod.sandbox import Place
from podwire.node.pod.statuses import StatusWriter
from podwire.node.pod.worker import PodWorker
from podwire.node.runtime.port import RuntimePort
from podwire.node.runtime.values import Container
from podwire.node.volumes.objects import ObjectCache
from podwire.node.volumes.prepare import Volumes
from podwire.node.volumes.tokens import TokenSource
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get

_log = get("node")
_RELIST_S: Final = 20.0
_RESTART_S: Final = 5.0  # before a pod's worker that failed unexpectedly is begun anew


async def run(
    config: NodeConfig,
    client: Client,
    runtime: RuntimePort,
    network: PodNetwork,
    clock: Clock | None = None,
    *,
    netns: NetnsPort | None = None,
    on_ready: Callable[[], None] | None = None,
    on_start: Callable[[Agent], None] | None = None,
) -> None:
    """Be the node until cancelled. Containers go on when it ends; the next run adopts them.

    ``netns`` enters pods for port-forward (None: refused). ``on_start`` is told the agent once it knows its
    pods; ``on_ready`` is called, once, when the API shows the Node as Ready.
    """
    clock = clock or SystemClock()
    async with asyncio.TaskGroup() as group:
        agent = Agent(config, client, runtime, network, clock, group)
        await agent.start(netns)
        if on_start is not None:
            on_start(agent)
        if on_ready is not None:
            await agent.heartbeat.shown_ready.wait()
            on_ready()


class Agent:
    """The pods of one node, and everything that keeps them."""

    def __init__(
        self,
        config: NodeConfig,
        client: Client,
        runtime: RuntimePort,
        network: PodNetwork,
        clock: Clock,
        group: asyncio.TaskGroup,
    ) -> None:
        self.config, self._runtime, self._group, self._clock = config, runtime, group, clock
        self._machine = machines.observe(config.state_dir)
        self.pods = Informer(client, PODS, fields=f"spec.nodeName={config.name}", clock=clock)
        self._services = Informer(client, SERVICES, clock=clock)
        self._nodes = Informer(client, NODES, fields=f"metadata.name={config.name}", clock=clock)
        tokens = TokenSource(client, clock)
        objects = ObjectCache(client, clock, group, self._refresh)
        recorder = Recorder(client, config.name, clock, lambda: self.node.starting > 0)
        self.node = NodeContext(
            config=config,
            client=client,
            runtime=runtime,
            network=network,
            clock=clock,
            group=group,
            recorder=recorder,
            statuses=StatusWriter(client, clock),
            objects=objects,
            tokens=tokens,
            volumes=Volumes(config.state_dir / "pods", objects, tokens, clock),
            services=lambda: self._services.objects.values(),
            allocatable=nodeobject.capacity(config, self._machine),
        )
        self.heartbeat = Heartbeat(self.node, self._machine, self._poke_all)
        self.workers: dict[str, PodWorker] = {}  # by pod UID
        self._owners: dict[str, str] = {}  # sandbox id -> pod UID
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, netns: NetnsPort | None) -> None:
        """Bring the node up; its tasks run on in the group."""
        node, spawn = self.node, self._group.create_task
        node.network_problem = await self._network_problem()
        spawn(self._services.run())
        spawn(self.pods.run())
        await self.heartbeat.register()
        spawn(node.statuses.run())
        spawn(node.recorder.run())
        spawn(self.heartbeat.run())
        self._nodes.listen(lambda key, old, new: self.heartbeat.observe(new))
        spawn(self._nodes.run())
        spawn(self._follow_runtime())
        if self.config.tls_cert_pem and (self.config.bind or not self.config.dry):
            from podwire.node.server import serve

            spawn(serve(self, netns))
        await self._services.synced.wait()
        await self.pods.synced.wait()
        await self._adopt()
        self.pods.listen(self._pod_changed)
        spawn(self._relist_forever())
        _log.info("started", node=self.config.name, pods=len(self.workers))

    async def _network_problem(self) -> str:
        try:
            return await self.node.network.status()
        except MachineError as error:
            return str(error)

    # -- pods come, change and go

    def _pod_changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if old is not None and (new is None or old["metadata"]["uid"] != new["metadata"]["uid"]):
            worker = self.workers.get(spec.uid_of(old))
            if worker is not None:
                worker.vanish()
        if new is None:
            return
        worker = self.workers.get(spec.uid_of(new))
        if worker is None:
            self._begin(new, (), None)
        elif old is None or _concerns(old, new):
            worker.update(new)
        else:
            worker.pod = new

    def _begin(self, pod: Obj, found: Iterable[Container], place: Place | None) -> PodWorker:
        uid = spec.uid_of(pod)
        worker = self.workers[uid] = PodWorker(self.node, pod, found, place)
        self._tasks[uid] = self._group.create_task(self._live(worker))
        return worker

    async def _live(self, worker: PodWorker) -> None:
        """Run a worker to its end; a failure nobody foresaw costs that pod a pause, and no other."""
        while True:
            try:
                await worker.run()
                break
            except Exception as error:
                _log.error("pod-failed", pod=key_of(worker.pod), error=repr(error))
                message = f"error syncing pod, will be tried again: {error!r}"
                self.node.tell(worker.pod, "Warning", "FailedSync", message)
                await self._clock.sleep(_RESTART_S)
        self.workers.pop(worker.uid, None)
        self._tasks.pop(worker.uid, None)
        self.node.statuses.forget(worker.uid)
        self.node.objects.release(worker.uid)
        self.node.tokens.release(worker.uid)

    def _refresh(self, uid: str) -> None:
        worker = self.workers.get(uid)
        if worker is not None:
            worker.refresh()

    def _poke_all(self) -> None:
        for worker in self.workers.values():
            worker.poke()

    def worker_of(self, namespace: str, name: str) -> PodWorker | None:
        """Return the worker of a pod by name; None when the node has no such pod."""
        pod = self.pods.objects.get(Key(namespace, name))
        return self.workers.get(spec.uid_of(pod)) if pod is not None else None

    # -- what the runtime has

    async def _adopt(self) -> None:
        """Take over what an earlier agent left, and clear away what belongs to no pod any more."""
        sandboxes = {s.spec.id: s for s in await self._runtime.sandboxes()}
        containers = await self._runtime.containers()
        pods = {spec.uid_of(p): p for p in self.pods.objects.values()}
        places = dict(sandbox.recall_all(self.node.pods_dir))
        kept = {uid: p for uid, p in places.items() if uid in pods and p.sandbox_id in sandboxes}
        ids = {p.sandbox_id for p in kept.values()}
        orphans = [p for p in places.values() if p.sandbox_id not in ids]
        known = ids | {p.sandbox_id for p in orphans}
        await self._clear([*orphans, *(Place(id, None) for id in sandboxes if id not in known)], pods)
        attachments = tuple(p.attachment for p in kept.values() if p.attachment is not None)
        try:
            await self.node.network.collect_garbage(attachments)
        except MachineError as error:
            _log.warning("network-garbage", node=self.config.name, error=str(error))
        for uid, pod in pods.items():
            place = kept.get(uid)
            mine = [c for c in containers if _uid(c.spec.sandbox_id) == uid] if place else []
            worker = self._begin(pod, mine, place)
            # Not ready: it died. No addresses: the agent died between ADD's begin and its end.
            half = place is not None and place.attachment is not None and not place.ips
            if place is not None and (half or not sandboxes[place.sandbox_id].ready):
                worker.lose_sandbox()

    async def _clear(self, orphans: Iterable[Place], pods: Collection[str]) -> None:
        """Take down sandboxes that no pod lives in; a pod's directory goes only with the pod."""
        for place in orphans:
            uid = _uid(place.sandbox_id)
            try:
                await sandbox.take_down(place, self._runtime, self.node.network)
            except MachineError as error:
                _log.warning("orphan-kept", sandbox=place.sandbox_id, error=str(error))
                continue
            if uid in pods:
                sandbox.forget(self.node.volumes.directory(uid))
            else:
                self.node.volumes.tear_down(uid)

    async def _follow_runtime(self) -> None:
        while True:
            try:
                async for event in self._runtime.events():
                    self._notice(event.container)
            except MachineError as error:
                _log.warning("runtime-events", node=self.config.name, error=str(error))
            await self._clock.sleep(0.2)

    def _notice(self, container: Container) -> None:
        worker = self.workers.get(_uid(container.spec.sandbox_id))
        if worker is not None and container.spec.id in worker.records.ids():
            worker.notice(container)

    async def _relist_forever(self) -> None:
        """Compare with the runtime now and then: an event may have been lost with a connection."""
        while True:
            await self._clock.sleep(_RELIST_S)
            try:
                # Asked for before the workers are looked at: what is younger than the answer is not in it.
                places = {w.uid: w.home.place for w in self.workers.values()}
                sandboxes = {s.spec.id for s in await self._runtime.sandboxes() if s.ready}
                for container in await self._runtime.containers():
                    self._notice(container)
            except MachineError as error:
                _log.warning("relist-failed", node=self.config.name, error=str(error))
                continue
            for uid, place in places.items():
                worker = self.workers.get(uid)
                gone = place is not None and place.sandbox_id not in sandboxes
                if worker is not None and gone and worker.home.place == place:
                    worker.lose_sandbox()


def _uid(sandbox_id: str) -> str:
    """Return the pod's UID: sandbox ids are UID-ATTEMPT."""
    return sandbox_id.rpartition("-")[0]


def _concerns(old: Obj, new: Obj) -> bool:
    """Return whether a change is more than the echo of this node's own status."""
    if is_deleting(new) or old["spec"] != new["spec"] or new["spec"].get("readinessGates"):
        return True
    phase_of_others = (new.get("status") or {}).get("phase") in ("Failed", "Succeeded")
    if phase_of_others or annotations_of(old) != annotations_of(new):
        return True
    return bool(old["metadata"].get("labels") != new["metadata"].get("labels"))
