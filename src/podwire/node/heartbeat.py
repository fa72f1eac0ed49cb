"""Registers the node, keeps its status and its lease, and follows the state of its network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from podwire.client.errors import AlreadyExists, ApiError, NotFound
from podwire.model.errors import MachineError
from podwire.model.objects import Obj, micro_timestamp, timestamp
from podwire.model.resources import LEASES, NODES
from podwire.node import nodeobject
from podwire.node.events import node_reference
from podwire.node.machine import Machine
from podwire.node.pod.context import NodeContext
from podwire.runtime.logging import get

_log = get("node")
_EAGER_S: Final = 0.02  # between looks at a network that is not ready yet
_CALM_S: Final = 5.0
_EAGER_FOR_S: Final = 30.0


class Heartbeat:
    """One node's signs of life."""

    def __init__(self, node: NodeContext, machine: Machine, ready: Callable[[], None]) -> None:
        """``ready`` is called each time the network has become ready."""
        self._node, self._machine, self._ready = node, machine, ready
        self.shown_ready = asyncio.Event()  # set once the API has had the Node as Ready, without our taint
        self._uid = ""
        self._version = ""
        self._known: Obj = {}  # the Node as the API last showed it
        self._changed = asyncio.Event()
        self._lease_made = False

    async def register(self) -> None:
        """Create or update the Node object; tries until the API takes it."""
        node = self._node
        self._version = await node.runtime.version()
        failures = 0
        while True:
            try:
                self._learn(await self._create_or_adopt())
                return
            except ApiError as error:
                failures += 1
                delay_s = min(5.0, 0.02 * 2 ** min(failures, 8))
                _log.warning("register-failed", node=node.config.name, error=str(error), again_s=delay_s)
                await node.clock.sleep(delay_s)

    async def _create_or_adopt(self) -> Obj:
        node, config = self._node, self._node.config
        fresh = nodeobject.new_node(config, self._machine, self._status({}), node.network_problem)
        try:
            created = await node.client.create(NODES, fresh)
            node.recorder.record(node_reference(config.name), "Normal", "Starting", "Starting kubelet.")
            return created
        except AlreadyExists:
            patch = {"metadata": {k: fresh["metadata"][k] for k in ("labels", "annotations")}}
            return await node.client.patch(NODES, config.name, patch)

    def observe(self, obj: Obj | None) -> None:
        """The API shows the Node like this; None: somebody deleted it."""
        if obj is None:
            self._known, self._uid, self._lease_made = {}, "", False
        else:
            self._learn(obj)
        self._changed.set()

    def _learn(self, obj: Obj) -> None:
        self._known, self._uid = obj, obj["metadata"]["uid"]

    def _status(self, old: Mapping[str, Any]) -> Obj:
        node = self._node
        return nodeobject.status(
            node.config,
            self._machine,
            self._version,
            (),
            node.network_problem,
            old,
            timestamp(node.clock.now()),
        )

    async def run(self) -> None:
        """Beat until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_network())
            group.create_task(self._keep_status())
            group.create_task(self._renew_lease())

    async def _follow_network(self) -> None:
        """Look at the network often while it comes up, calmly afterwards."""
        node = self._node
        began = node.clock.monotonic()
        while True:
            try:
                problem = await node.network.status()
            except MachineError as error:
                problem = str(error)
            if problem != node.network_problem:
                node.network_problem = problem
                reason = "NodeNotReady" if problem else "NodeReady"
                _log.info("network", node=node.config.name, problem=problem)
                node.recorder.record(
                    node_reference(node.config.name),
                    "Normal",
                    reason,
                    f"Node {node.config.name} status is now: {reason}",
                )
                self._changed.set()
                if not problem:
                    self._ready()
            if problem:
                waiting_s = node.clock.monotonic() - began
                await node.clock.sleep(_EAGER_S if waiting_s < _EAGER_FOR_S else 1.0)
            else:
                await node.clock.sleep(_CALM_S)
                began = node.clock.monotonic()

    async def _keep_status(self) -> None:
        node = self._node
        written_at = float("-inf")
        while True:
            self._changed.clear()
            try:
                if not self._known:
                    await self.register()
                due = node.clock.monotonic() - written_at >= node.config.status_every_s
                wanted = self._status(self._known.get("status") or {})
                if due or nodeobject.differs(self._known.get("status") or {}, wanted):
                    patch = {"metadata": {"uid": self._uid}, "status": nodeobject.own_part(wanted)}
                    answer = await node.client.patch(
                        NODES, node.config.name, patch, kind="strategic", subresource="status"
                    )
                    self._learn(answer)
                    written_at = node.clock.monotonic()
                if not node.network_problem:
                    await self._lift_taint()
                    self.shown_ready.set()
                pause_s = node.config.status_every_s
            except NotFound:
                self._known, pause_s = {}, 0.1
            except ApiError as error:
                _log.warning("status-failed", node=node.config.name, error=str(error))
                pause_s = 1.0
            await self._pause(pause_s)

    async def _lift_taint(self) -> None:
        """Remove our own not-ready taint. Real clusters let only their node controller do that."""
        taints = (self._known.get("spec") or {}).get("taints") or []
        key = nodeobject.NOT_READY_TAINT["key"]
        left = [t for t in taints if not (t["key"] == key and t.get("effect") == "NoSchedule")]
        if len(left) == len(taints):
            return
        version = self._known["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "spec": {"taints": left or None}}
        try:
            self._learn(await self._node.client.patch(NODES, self._node.config.name, patch))
        except ApiError as error:
            _log.debug("taint-kept", node=self._node.config.name, error=str(error))
            self._learn(await self._node.client.get(NODES, self._node.config.name))

    async def _pause(self, seconds: float) -> None:
        timer = asyncio.ensure_future(self._node.clock.sleep(seconds))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({timer, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            changed.cancel()

    async def _renew_lease(self) -> None:
        node = self._node
        while True:
            pause_s = node.config.lease_renew_s
            try:
                await self._renew_once()
            except ApiError as error:
                _log.warning("lease-failed", node=node.config.name, error=str(error))
                pause_s = 1.0
            await node.clock.sleep(pause_s)

    async def _renew_once(self) -> None:
        node = self._node
        lease = nodeobject.lease(node.config, self._uid, micro_timestamp(node.clock.now()))
        if not self._lease_made:
            self._lease_made = True
            try:
                await node.client.create(LEASES, lease)
                return
            except AlreadyExists:
                pass
            except ApiError:
                self._lease_made = False
                raise
        try:
            await node.client.patch(LEASES, node.config.name, {"spec": lease["spec"]}, "kube-node-lease")
        except NotFound:
            self._lease_made = False
            raise
