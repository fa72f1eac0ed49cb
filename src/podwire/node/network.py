"""What a node asks of the pod network: the CNI, seen from the container runtime's side.

The rooms ``node`` and ``cni`` are strangers; ``lab`` hands one to the other.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from podwire.model.podnetwork import Attachment, HostPort

__all__ = ["Attachment", "HostPort", "PodNetwork"]


class PodNetwork(Protocol):
    """ADD, DEL, CHECK, GC and STATUS of the node's CNI configuration.

    Errors: ``model.errors.MachineError`` (room "cni") with the plugin's own code and message.
    """

    async def status(self) -> str:
        """Return "" when the network can take pods, else why not (node condition NetworkUnavailable)."""
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
