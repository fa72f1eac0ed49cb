"""The pod network of a node, as its container runtime asks for it: the conflist in force, run as a chain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from podwire.cni.confdir import ConfigDirectory
from podwire.cni.invoke import DEFAULT_PATH, InProcess, Invoker, RuntimeConf
from podwire.cni.resultcache import ResultCache
from podwire.cni.spec import TRY_AGAIN_LATER, CniError, Result
from podwire.model.errors import MachineError
from podwire.model.podnetwork import Attachment, HostPort

IFNAME = "eth0"
_INGRESS_BANDWIDTH = "kubernetes.io/ingress-bandwidth"
_EGRESS_BANDWIDTH = "kubernetes.io/egress-bandwidth"


class CniNetwork:
    """ADD, DEL, CHECK, GC and STATUS for pods (structurally the node's ``PodNetwork``).

    Errors: MachineError (room "cni") with the plugin's code, message and details. Code 11 means that
    the same call may succeed later.
    """

    def __init__(
        self,
        *,
        config_directory: Path = Path("/etc/cni/net.d"),
        cache_directory: Path = Path("/var/lib/podwire/cni"),
        path: Sequence[Path] = DEFAULT_PATH,
        in_process: Mapping[str, InProcess] | None = None,
    ) -> None:
        """``in_process`` maps plugin types to callables: ``{"podwire-cni": plugin.run}``."""
        self._configs = ConfigDirectory(config_directory)
        self._invoker = Invoker(ResultCache(cache_directory), path=path, in_process=in_process)
        self._busy: dict[str, asyncio.Lock] = {}
        self._added: set[str] = set()  # sandboxes whose ADD began in this process and that had no DEL yet

    async def status(self) -> str:
        """Return "" when the network can take pods, else why not."""
        try:
            await self._invoker.status(self._configs.current())
        except CniError as error:
            return str(error)
        return ""

    async def add(self, attachment: Attachment) -> tuple[IPv4Address | IPv6Address, ...]:
        """Attach the sandbox; return the pod's addresses as the result lists them, the primary one first.

        After a failure the caller calls ``delete`` and may then try again.
        """
        async with self._speaking("ADD", attachment):
            network = self._configs.current()
            self._added.add(attachment.sandbox_id)
            result = await self._invoker.add(network, runtime_conf(attachment))
            return pod_addresses(result)

    async def delete(self, attachment: Attachment) -> None:
        """Detach it; also after a failed or half-done add, twice, and when the netns is gone."""
        async with self._speaking("DEL", attachment):
            try:
                network = self._configs.current()
            except CniError:
                network = None  # the cache knows what the ADD ran with
            self._added.discard(attachment.sandbox_id)
            await self._invoker.delete(network, runtime_conf(attachment))

    async def check(self, attachment: Attachment) -> None:
        """Raise MachineError when the attachment is not as ADD left it."""
        async with self._speaking("CHECK", attachment):
            await self._invoker.check(self._configs.current(), runtime_conf(attachment))

    async def collect_garbage(self, alive: tuple[Attachment, ...]) -> None:
        """Give back everything held for sandboxes that are not among ``alive``.

        Call it when the agent starts, with the sandboxes that it found. Sandboxes that were added since
        then are kept even when the caller's list is older than they.
        """
        living = {a.sandbox_id for a in alive} | self._added
        try:
            await self._invoker.collect_garbage(self._configs.current(), [(id, IFNAME) for id in living])
        except CniError as error:
            raise _say("GC", f"{len(alive)} attachments", error) from error

    @asynccontextmanager
    async def _speaking(self, act: str, attachment: Attachment) -> AsyncIterator[None]:
        # "The container runtime must not invoke parallel operations for the same container."
        lock = self._busy.setdefault(attachment.sandbox_id, asyncio.Lock())
        try:
            async with lock:
                yield
        except CniError as error:
            raise _say(act, f"pod {attachment.namespace}/{attachment.name}", error) from error
        finally:
            if act == "DEL" and not lock.locked():
                self._busy.pop(attachment.sandbox_id, None)


def _say(act: str, what: str, error: CniError) -> MachineError:
    hint = "it may work later" if error.code == TRY_AGAIN_LATER else ""
    return MachineError("cni", act, what, f"{error} (code {error.code})", hint)


def runtime_conf(attachment: Attachment) -> RuntimeConf:
    """Return what every plugin is told of a pod: CNI_ARGS as a kubelet's runtime sets them, capabilities."""
    args = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": attachment.namespace,
        "K8S_POD_NAME": attachment.name,
        "K8S_POD_INFRA_CONTAINER_ID": attachment.sandbox_id,
        "K8S_POD_UID": attachment.uid,
    }
    capabilities: dict[str, Any] = {"io.kubernetes.cri.pod-annotations": dict(attachment.annotations)}
    if attachment.host_ports:
        capabilities["portMappings"] = [_render_port(p) for p in attachment.host_ports]
    bandwidth = parse_bandwidth(dict(attachment.annotations))
    if bandwidth:
        capabilities["bandwidth"] = bandwidth
    return RuntimeConf(attachment.sandbox_id, str(attachment.netns), IFNAME, args, capabilities)


def _render_port(port: HostPort) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol.lower(),
    }
    if port.host_ip:
        rendered["hostIP"] = port.host_ip
    return rendered


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def parse_bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    """Return the bandwidth capability (bits a second) that a pod's annotations ask for; else empty.

    An annotation that is no quantity is left out, as the pod's own validation has to speak of it.
    """
    limits: dict[str, int] = {}
    for annotation, direction in ((_INGRESS_BANDWIDTH, "ingress"), (_EGRESS_BANDWIDTH, "egress")):
        text = annotations.get(annotation, "")
        digits = text.rstrip("kKMGTi")
        if digits.isdigit() and text[len(digits) :] in _UNITS:
            limits[f"{direction}Rate"] = int(digits) * _UNITS[text[len(digits) :]]
            # The bucket of the reference runtime: as large as the plugin accepts (bits, uint32).
            limits[f"{direction}Burst"] = 2**31 - 1
    return limits


def pod_addresses(result: Result) -> tuple[IPv4Address | IPv6Address, ...]:
    """Return the addresses that the result gives to an interface inside a sandbox, in its order.

    An address that names no interface is the pod's too.
    """
    inside = [
        ip.address.ip
        for ip in result.ips
        if ip.interface is None or ip.interface >= len(result.interfaces) or result.interfaces[ip.interface].sandbox
    ]
    return tuple(dict.fromkeys(inside))
