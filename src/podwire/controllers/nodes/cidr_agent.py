"""The loop that gives every node its pod CIDRs."""

from __future__ import annotations

from podwire.controllers.config import ControllersConfig
from podwire.controllers.nodes.cidrs import CidrPool, Network, parse_cidrs, preferred_number
from podwire.controllers.shared import Shared
from podwire.controllers.workload import keyed_loop
from podwire.model.objects import Key, Obj
from podwire.model.resources import NODES

COMPONENT = "cidrAllocator"
RETRY_S = 30.0


def pools_of(config: ControllersConfig) -> tuple[CidrPool, ...]:
    """Return one pool per cluster CIDR. Raises ValueError when a mask does not fit."""
    return tuple(
        CidrPool(c, config.node_mask_ipv4 if c.version == 4 else config.node_mask_ipv6, config.service_cidrs)
        for c in config.cluster_cidrs
    )


class NodeCidrs:
    """Allocates one subnet per family to each node; one worker, so that nobody is given the same."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._nodes = shared.informer(NODES)
        self._pools = pools_of(shared.config)
        self._held: dict[Key, tuple[Network, ...]] = {}
        self._offers: dict[Key, tuple[Network, ...]] = {}  # asked for, not yet answered
        self._starved: set[Key] = set()
        self._ready = False
        self._loop = keyed_loop(shared, self._reconcile, workers=1)
        self._nodes.listen(self._changed)

    async def run(self) -> None:
        """Work until cancelled."""
        if not self._pools:
            return
        await self._shared.synced(NODES)
        for key, node in sorted(self._nodes.objects.items()):
            self._occupy(key, node)  # all that is taken is known before anything is given
        self._ready = True
        for key in sorted(self._nodes.objects):
            self._loop.add(key)
        await self._loop.run()

    def _changed(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if not self._ready:
            return
        if new is None:
            self._release(self._held.pop(key, ()))
            self._release(self._offers.pop(key, ()))
            self._starved.discard(key)
            for waiting in self._starved:
                self._loop.add(waiting)
        elif key not in self._held:
            self._loop.add(key)

    @staticmethod
    def _has_cidrs(node: Obj) -> bool:
        spec = node.get("spec") or {}
        return bool(spec.get("podCIDRs") or spec.get("podCIDR"))

    def _occupy(self, key: Key, node: Obj) -> None:
        """Note the CIDRs that a node already has."""
        if not self._has_cidrs(node):
            return
        texts = node["spec"].get("podCIDRs") or [node["spec"]["podCIDR"]]
        taken = []
        for network in parse_cidrs(texts):
            if any(p.occupy(network) for p in self._pools):
                taken.append(network)
            else:
                text = f"Node {key.name} has CIDR {network}, which lies outside the cluster's or is another node's"
                self._shared.recorder.warning(node, "CIDRAssignmentFailed", text, COMPONENT)
        self._held[key] = tuple(taken)

    async def _reconcile(self, key: Key) -> float | None:
        node = self._nodes.objects.get(key)
        if node is None or key in self._held:
            return None
        offer = self._offers.pop(key, ())
        if self._has_cidrs(node):
            self._release(offer)  # perhaps the same, perhaps not: what the node says counts
            self._occupy(key, node)
            return None
        offer = offer or self._allocate(preferred_number(key.name))
        if not offer:
            self._starved.add(key)
            text = f"Node {key.name} status is now: CIDRNotAvailable"
            self._shared.recorder.normal(node, "CIDRNotAvailable", text, COMPONENT)
            return RETRY_S
        # Until the server answered, the offer stays this node's: a lost answer must not free it.
        self._offers[key] = offer
        texts, meta = [str(n) for n in offer], node["metadata"]
        patch = {
            "metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
            "spec": {"podCIDR": texts[0], "podCIDRs": texts},
        }
        await self._shared.client.patch(NODES, key.name, patch)
        self._starved.discard(key)
        self._held[key] = self._offers.pop(key)
        if key not in self._nodes.objects:  # deleted meanwhile
            self._release(self._held.pop(key))
        return None

    def _allocate(self, preferred: int | None) -> tuple[Network, ...]:
        """Return one free network of each family; empty when one family has none left."""
        chosen: list[Network] = []
        for pool in self._pools:
            network = pool.allocate(preferred)
            if network is None:
                self._release(tuple(chosen))
                return ()
            chosen.append(network)
        return tuple(chosen)

    def _release(self, networks: tuple[Network, ...]) -> None:
        for network in networks:
            next(p for p in self._pools if p.cluster.version == network.version).release(network)
