"""A pod network that only keeps the books: addresses out of the node's podCIDRs, no links, no packets."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from podwire.client.errors import ApiError
from podwire.client.port import Client
from podwire.model.errors import MachineError
from podwire.model.podnetwork import Attachment
from podwire.model.resources import NODES
from podwire.node.config import Address


class FakeNetwork:
    """``node.network.PodNetwork`` of the dry kernel."""

    def __init__(
        self, client: Client | None = None, node: str = "", *, cidrs: Sequence[str] = ("10.244.0.0/24",)
    ) -> None:
        """With a client, the podCIDRs are those of the Node object; it is not ready before it has them."""
        self._client, self._node = client, node
        self._cidrs = () if client is not None else tuple(cidrs)
        self._held: dict[str, tuple[Address, ...]] = {}
        self._last: dict[str, int] = {}
        self.problem = ""  # set by tests: why the network is not ready
        self.refusal = ""  # set by tests: why ADD fails

    async def status(self) -> str:
        """Return "" when there is a podCIDR."""
        if not self._cidrs and self._client is not None:
            try:
                spec = (await self._client.get(NODES, self._node)).get("spec") or {}
            except ApiError as error:
                return f"the node's podCIDR is not known: {error.message}"
            self._cidrs = tuple(spec.get("podCIDRs") or ())
        return self.problem or ("" if self._cidrs else "the node has no podCIDR yet")

    async def add(self, attachment: Attachment) -> tuple[Address, ...]:
        """Return an address of each podCIDR; the same again for the same sandbox."""
        if self.refusal:
            raise MachineError("cni", "add", attachment.sandbox_id, self.refusal)
        if attachment.sandbox_id not in self._held:
            networks = [ip_network(c) for c in self._cidrs]
            self._held[attachment.sandbox_id] = tuple(self._next(n) for n in networks)
        return self._held[attachment.sandbox_id]

    async def delete(self, attachment: Attachment) -> None:
        """Give the addresses back."""
        self._held.pop(attachment.sandbox_id, None)

    async def check(self, attachment: Attachment) -> None:
        """Raise MachineError when nothing is held for the sandbox."""
        if attachment.sandbox_id not in self._held:
            raise MachineError("cni", "check", attachment.sandbox_id, "no such attachment")

    async def collect_garbage(self, alive: tuple[Attachment, ...]) -> None:
        """Give back what no sandbox alive holds."""
        ids = {a.sandbox_id for a in alive}
        self._held = {id: ips for id, ips in self._held.items() if id in ids}

    @property
    def held(self) -> dict[str, tuple[Address, ...]]:
        """The addresses in use, by sandbox."""
        return dict(self._held)

    def _next(self, network: IPv4Network | IPv6Network) -> Address:
        """Return the next free address, round robin; .0, .1 (the bridge) and the last are not given."""
        taken = {a for ips in self._held.values() for a in ips}
        usable = min(network.num_addresses - 3, 1 << 16)
        for step in range(1, usable + 1):
            offset = (self._last.get(str(network), 0) + step - 1) % usable + 1
            candidate: Address = network.network_address + 1 + offset
            if candidate not in taken:
                self._last[str(network)] = offset
                return candidate
        raise MachineError("cni", "add", str(network), "no free address", "delete pods or widen the podCIDR")
