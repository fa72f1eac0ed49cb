"""Where a pod lives on the node: its directory, sandbox, addresses, volumes and text files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from podwire.model.errors import MachineError
from podwire.model.objects import Obj, key_of
from podwire.node.config import Address
from podwire.node.pod import files, sandbox, spec
from podwire.node.pod.context import NodeContext
from podwire.node.pod.launch import Ground
from podwire.node.pod.sandbox import Place
from podwire.node.volumes.payload import VolumeError, references


class Home:
    """Made step by step; every step may be repeated."""

    def __init__(self, node: NodeContext, uid: str, place: Place | None) -> None:
        """``place``: what an earlier agent left."""
        self._node, self._uid = node, uid
        self.directory = node.volumes.directory(uid)
        self.place = place  # the sandbox that is there
        self._left: Place | None = None  # the sandbox that was, of a pod that is done
        self._volumes: dict[str, Path] = {}
        self._services: list[Obj] = []
        self.stale = True  # volumes have to be looked at again

    @property
    def sandbox_id(self) -> str:
        """The sandbox whose containers count, even when the pod is done; "" before the first."""
        shown = self.place or self._left
        return shown.sandbox_id if shown else ""

    def addresses(self, pod: Obj) -> tuple[Address, ...]:
        """Return the pod's addresses; a finished pod shows those that it had."""
        if spec.is_host_network(pod):
            return self._node.config.addresses if self.sandbox_id else ()
        shown = self.place or self._left
        return shown.ips if shown else ()

    def ground(self, pod: Obj) -> Ground:
        """Return what the pod's containers have in common."""
        namespace = pod["metadata"].get("namespace", "")
        return Ground(
            self.sandbox_id,
            self.directory,
            self._node.log_dir(pod),
            self._volumes,
            self._services,
            lambda kind, name: self._node.objects.peek(kind, namespace, name),
            self._node.facts(self.addresses(pod)),
        )

    async def prepare(self, pod: Obj, attempts: Iterable[str]) -> None:
        """Bring up the sandbox and the volumes. Raises MachineError and VolumeError, and tells why.

        ``attempts``: sandbox ids of the pod's known containers, none of which is used again.
        """
        node = self._node
        self._services = list(node.services())
        wanted = references(pod)
        try:
            if wanted:
                await node.objects.load(self._uid, pod["metadata"].get("namespace", ""), wanted)
            if self.place is None:
                await self._move_in(pod, attempts)
            if self.stale or (node.tokens.refresh_in_s(self._uid) or 2.0) <= 1.0:
                self.stale = False  # before, not after: it may become so again meanwhile
                self._volumes = await node.volumes.set_up(pod, node.facts(self.addresses(pod)))
        except VolumeError as error:
            self.stale = True
            node.tell(pod, "Warning", "FailedMount", str(error))
            raise

    async def _move_in(self, pod: Obj, attempts: Iterable[str]) -> None:
        """Make the sandbox. Volumes may need the API (tokens), it needs the kernel: both at once."""
        node = self._node
        early = asyncio.ensure_future(node.volumes.set_up(pod, node.facts(())))
        try:
            await self._make_sandbox(pod, attempts)
        finally:
            volumes = (await asyncio.gather(early, return_exceptions=True))[0]
        # Failures are met again, and told, by whoever sets the volumes up next.
        if isinstance(volumes, dict) and "downwardAPI" not in str(pod["spec"].get("volumes") or ""):
            self._volumes, self.stale = volumes, False

    async def _make_sandbox(self, pod: Obj, attempts: Iterable[str]) -> None:
        node = self._node
        if node.network_problem and not spec.is_host_network(pod):
            why = f"container runtime network not ready: {node.network_problem}"
            node.tell(pod, "Warning", "NetworkNotReady", f"network is not ready: {why}")
            raise MachineError("node", "start pod", str(key_of(pod)), why)
        config = node.config
        hostname, fqdn = spec.hostname_of(pod, config.name, config.cluster_domain)
        attempt = self._next_attempt(attempts)
        try:
            place = await sandbox.make(pod, attempt, hostname, self.directory, node.runtime, node.network)
        except MachineError as error:
            node.tell(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            raise
        self._write_files(pod, place, hostname, fqdn)
        self.place = place

    def _next_attempt(self, known: Iterable[str]) -> int:
        old = sandbox.recall(self.directory)
        tails = [id.rpartition("-")[2] for id in [*known, *([old.sandbox_id] if old else [])]]
        return max((int(t) for t in tails if t.isdigit()), default=-1) + 1

    def _write_files(self, pod: Obj, place: Place, hostname: str, fqdn: str) -> None:
        config = self._node.config
        if spec.is_host_network(pod):
            text = files.host_network_hosts(pod, _read(config.hosts_file))
        else:
            text = files.hosts(pod, place.ips, hostname, fqdn)
        (self.directory / "etc-hosts").write_text(text)
        resolv = files.resolv_conf(pod, config.cluster_dns, config.cluster_domain, _read(config.resolv_conf))
        (self.directory / "resolv.conf").write_text(resolv)

    async def leave(self) -> None:
        """Give back network and sandbox of a pod that is done; its containers' records stay."""
        if self.place is not None:
            await sandbox.take_down(self.place, self._node.runtime, self._node.network, keep=True)
            self._left, self.place = self.place, None

    async def move_out(self) -> None:
        """Take the sandbox down, for another one to be made."""
        place = self.place or self._left or sandbox.recall(self.directory)
        if place is not None:
            await sandbox.take_down(place, self._node.runtime, self._node.network)
        self.place = self._left = None

    async def demolish(self) -> None:
        """Leave nothing: no sandbox, no volume, no directory."""
        await self.move_out()
        self._node.volumes.tear_down(self._uid)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
