"""A cluster under test: a lab of the test's own, real packets, and the model's word beside them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from podwire.model.errors import BadInput, MachineError, Problem
from podwire.testing.sentences import Network, Reach

if TYPE_CHECKING:
    from podwire.client.http import HttpClient
    from podwire.verify.answer import Answer
    from podwire.verify.names import Destination
    from podwire.verify.workloads import PodView
    from podwire.verify.world import World

T = TypeVar("T")
_EXPECTED_S = 0.4
"""How long a packet that the model calls denied is waited for."""
_SETTLE_S = 5.0
"""How long packets may differ from the model, for changes to take effect."""


@dataclass(frozen=True, slots=True)
class LiveCluster(Network):
    """A running lab. Everything goes through its API, so what holds here holds on any cluster."""

    name: str
    home: Path

    @classmethod
    def up(cls, home: Path, *, nodes: int = 1, name: str = "pytest") -> LiveCluster:
        """Bring a cluster up with its state in ``home``. Raises MachineError with the command's words."""
        live = cls(name, home)
        live._podwire("up", "--quiet", "--nodes", str(nodes), "--name", name)
        return live

    def down(self) -> None:
        """End the cluster and forget it."""
        self._podwire("down", "--name", self.name)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's way in, for kubectl and clients."""
        return self.home / self.name / "kubeconfig"

    def _podwire(self, *words: str) -> None:
        environment = {**os.environ, "PODWIRE_HOME": str(self.home)}
        command = [sys.executable, "-m", "podwire", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise MachineError("testing", words[0], f"the cluster {self.name}", done.stderr.strip())

    def apply(self, *sources: str, ready_s: float = 30.0) -> None:
        """Apply files, directories or YAML text, and wait until every pod is ready. Raises BadInput, MachineError."""
        from podwire.lab import manifests
        from podwire.verify import sources as texts

        found = []
        for source in sources:
            located = texts.parse("<test>", source) if "\n" in source else texts.read([source])
            found += [manifests.Manifest(str(o.place()), o.object) for o in located]
        manifests.apply(self.kubeconfig, found, lambda _: None)
        self.wait_ready(ready_s)

    def wait_ready(self, limit_s: float = 30.0) -> None:
        """Return when every workload has its pods and every pod is ready. Raises MachineError after ``limit_s``."""
        end = time.monotonic() + limit_s
        while waiting := self._unready():
            if time.monotonic() > end:
                raise MachineError("testing", "wait for", ", ".join(waiting), f"not ready after {limit_s:.0f} s")
            time.sleep(0.05)

    def _unready(self) -> list[str]:
        from podwire.model.objects import is_deleting, is_ready

        world = self.world()
        waiting = [
            str(p.key) for p in world.pods
            if not is_ready(p.object) and not is_deleting(p.object)
            and (p.object.get("status") or {}).get("phase") != "Succeeded"
        ]  # fmt: skip
        for located in world.objects:
            obj = located.object
            if obj["kind"] in ("Deployment", "StatefulSet"):
                wanted = (obj.get("spec") or {}).get("replicas", 1)
                if ((obj.get("status") or {}).get("readyReplicas") or 0) < wanted:
                    waiting.append(str(located.key))
        return waiting

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        """Delete an object of a kind that `podwire why` reads: Pod, NetworkPolicy, Deployment ... Raises BadInput."""
        resource = _resource(kind)
        self._ask(lambda client: client.delete(resource, name, namespace if resource.namespaced else ""))

    def label(self, kind: str, name: str, namespace: str = "default", **labels: str | None) -> None:
        """Set labels of an object, or take them away (None). Underscores in names stay. Raises BadInput."""
        resource = _resource(kind)
        patch = {"metadata": {"labels": labels}}
        self._ask(lambda client: client.patch(resource, name, patch, namespace if resource.namespaced else ""))

    def world(self) -> World:
        """Return what the cluster holds now."""
        from podwire.verify import live, world

        return world.build(live.read(self.kubeconfig))

    def reach(self, source: str, destination: str, namespace: str) -> Reach:
        """Send packets and return whether they arrived.

        The model's answer tells how long to wait for packets that it calls denied, and stands in the text. Where
        packets and model differ they are tried again for some seconds, as changes take a moment; then the packets win.
        """
        from podwire.verify.answer import render
        from podwire.verify.names import parse_destination, parse_party

        end = time.monotonic() + _SETTLE_S
        while True:
            world = self.world()
            answer = self.why(source, destination, namespace)
            client = parse_party(world, source, namespace)
            if not client.pods:
                raise BadInput(Problem(source, "", "packets can only be sent from a pod; use the `manifests` fixture"))
            wanted = parse_destination(world, destination, client.pods[0].key.namespace)
            arrived, words = self._probe(client.pods, wanted, answer)
            if arrived == answer.allowed or time.monotonic() > end:
                differs = "" if arrived == answer.allowed else "\nTHE MODEL DIFFERS FROM THE PACKETS"
                return Reach(arrived, f"packets: {words}{differs}\n{render(answer)}")

    def _probe(self, pods: tuple[PodView, ...], wanted: Destination, answer: Answer) -> tuple[bool, str]:
        """Try from every pod; return whether all arrived, and the first that did not."""
        limit_s = 3.0 if answer.allowed else _EXPECTED_S
        for target, port, protocol in _targets(wanted):
            for pod in pods:
                words = self._ask(partial(_try, pod=pod, host=target, port=port, protocol=protocol, limit_s=limit_s))
                if words:
                    return False, f"{pod.key} -> {target}:{port}/{protocol}: {words}"
        return True, f"{pods[0].key} connected"

    def _ask(self, act: Callable[[HttpClient], Awaitable[T]]) -> T:
        """Run one conversation with the API. Raises MachineError with the server's words."""
        from podwire.client.errors import ApiError
        from podwire.client.http import HttpClient, from_kubeconfig

        async def conversation() -> T:
            client = HttpClient(from_kubeconfig(self.kubeconfig), user_agent="podwire/testing")
            try:
                return await act(client)
            finally:
                await client.close()

        try:
            return asyncio.run(conversation())
        except ApiError as error:
            raise MachineError("testing", "ask", "the cluster", error.message) from None


def _resource(kind: str) -> Any:
    from podwire.verify import live

    for resource in (*live.NEEDED, *live.WELCOME):
        if resource.kind == kind:
            return resource
    raise BadInput(Problem(kind, "", f"write one of {', '.join(r.kind for r in (*live.NEEDED, *live.WELCOME))}"))


def _targets(wanted: Destination) -> list[tuple[str, int, str]]:
    """Return (host, port, protocol) of what to try: a Service by its name or address, every pod by its own."""
    from podwire.verify.why import port_of, service_port

    party = wanted.party
    if party.service is not None:
        port = service_port(party.service, wanted)
        name = f"{party.service.key.name}.{party.service.key.namespace}.svc.cluster.local"
        host = party.dns_name or (party.service.ips[0] if party.service.ips else name)
        return [(host, port.port if port else wanted.port, port.protocol if port else wanted.protocol or "TCP")]
    if not party.pods:
        return [(party.ip, wanted.port, wanted.protocol or "TCP")]
    found = []
    for pod in party.pods:
        protocol, number = port_of(wanted, pod)
        found.append((pod.ip, number, protocol))
    return found


async def _try(client: HttpClient, pod: PodView, host: str, port: int, protocol: str, limit_s: float) -> str:
    """Connect from inside a pod; return "" when it came about, else what happened."""
    device = f"/dev/{protocol.lower()}/{host}/{port}"
    talk = "echo hostname >&3; read -r -n 1 -u 3" if protocol == "UDP" else "true"
    script = f"exec 3<>{device} && {talk}"
    words = ["timeout", f"{limit_s:.1f}", "bash", "-c", script]
    code, error = await client.execute(pod.key.name, pod.key.namespace, words)
    if code == 0:
        return ""
    return "no answer" if code == 124 else error.strip().splitlines()[-1] if error.strip() else f"exit code {code}"
