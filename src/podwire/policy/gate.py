"""A pod network behind the policies: ADD is done when the pod's policies are in force.

Wraps whatever the node would otherwise be given (structurally the node's ``PodNetwork``). Before ADD returns no
container of the pod runs; packets from and to its address are dropped until the agent knows the pod.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from podwire.model.podnetwork import Attachment
from podwire.policy.agent import PolicyAgent


class _PodNetwork(Protocol):
    async def status(self) -> str: ...
    async def add(self, attachment: Attachment) -> tuple[IPv4Address | IPv6Address, ...]: ...
    async def delete(self, attachment: Attachment) -> None: ...
    async def check(self, attachment: Attachment) -> None: ...
    async def collect_garbage(self, alive: tuple[Attachment, ...]) -> None: ...


class PolicyGate:
    """ADD, DEL, CHECK, GC and STATUS of a network whose pods are under policies."""

    def __init__(self, network: _PodNetwork, agent: PolicyAgent) -> None:
        self._network, self._agent = network, agent

    async def status(self) -> str:
        """Return "" when the network can take pods, else why not."""
        return "policies are not in force yet" if not self._agent.synced.is_set() else await self._network.status()

    async def add(self, attachment: Attachment) -> tuple[IPv4Address | IPv6Address, ...]:
        """Attach the sandbox, put its policies in force, and return its addresses. Raises MachineError."""
        ips = await self._network.add(attachment)
        await self._agent.admit(attachment, ips)
        return ips

    async def delete(self, attachment: Attachment) -> None:
        """Detach it, and close its addresses."""
        await self._network.delete(attachment)
        self._agent.release(attachment)

    async def check(self, attachment: Attachment) -> None:
        """Raise MachineError when the attachment is not as ADD left it."""
        await self._network.check(attachment)

    async def collect_garbage(self, alive: tuple[Attachment, ...]) -> None:
        """Give back everything held for sandboxes that are not among ``alive``."""
        await self._network.collect_garbage(alive)
