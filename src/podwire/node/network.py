"""What a node asks of the pod network: the CNI, seen from the container runtime's side.

The rooms ``node`` and ``cni`` are strangers; ``lab`` hands one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HostPort:
    """One ``ports[].hostPort``. ``host_ip`` "" means every address of the node."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's place in the network: what identifies it to CNI."""

    sandbox_id: str
    netns: Path
    namespace: str
    name: str
    uid: str
    host_ports: tuple[HostPort, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()


class PodNetwork(Protocol):
    """ADD, DEL, CHECK, GC and STATUS of the node's CNI configuration.

    Errors: ``model.errors.MachineError`` (room "cni") with the plugin's own code and message.
    """

    async def status(self) -> str:
        """Return "" when the network can take pods, else why not (node condition NetworkUnavailable / Ready)."""
        ...

    async def add(self, attachment: Attachment) -> tuple[IPv4Address | IPv6Address, ...]:
        """Attach the sandbox; return the pod's addresses, the primary one first."""
        ...

    async def delete(self, attachment: Attachment) -> None:
        """Detach it; also right after a failed or half-done add, and when the netns is gone."""
        ...

    async def check(self, attachment: Attachment) -> None:
        """Raise MachineError when the attachment is not as ADD left it."""
        ...

    async def collect_garbage(self, alive: tuple[Attachment, ...]) -> None:
        """Give back everything held for sandboxes that are not among ``alive``."""
        ...
