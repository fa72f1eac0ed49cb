"""How a packet travels after policies let it leave: same node, other node, out of the cluster. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from podwire.policy.snapshot import Endpoint
from podwire.verify.answer import Hop
from podwire.verify.world import World


def hops(world: World, src: Endpoint, dst: Endpoint) -> Iterator[Hop]:
    """Yield the hops between two ends. Where nodes are not known yet, both possibilities are said."""
    here, there = _node(src), _node(dst)
    if there is None:
        start = f"from node {here}" if here else "from its node"
        if here is None:
            yield Hop("route", "note", "neither end is in the cluster: the packet does not pass it")
            return
        yield Hop("route", "ok", f"leaves the cluster {start}; the source becomes the node's address (masquerade)")
        return
    if here is None:
        yield Hop(
            "route", "ok", f"enters the cluster {f'at node {there}' if there else 'at a node'}, to the pod's veth"
        )
        return
    if here and here == there:
        yield Hop("route", "ok", f"both are on {here}: over its bridge cni0")
        return
    known = f"{here} -> {there}" if here and there else "between nodes; on one node: over its bridge cni0"
    yield Hop("route", "ok", f"{known}{_subnet(world, there)}")
    yield _encapsulation(world)


def _node(end: Endpoint) -> str | None:
    """Return the node of an end; "" when it is not placed yet, None for the outside."""
    if end.pod is not None:
        return end.pod.node
    return end.node


def _subnet(world: World, node: str) -> str:
    found = world.snapshot.nodes.get(node)
    return f", by the route to {found.pod_cidrs[0]}" if found is not None and found.pod_cidrs else ""


def _encapsulation(world: World) -> Hop:
    backend = world.backend
    words = {
        "vxlan": "VXLAN: UDP 8472 between the nodes, 50 bytes a packet (70 over IPv6)",
        "host-gw": "none: host-gw routes straight to the other node",
        "wireguard": "WireGuard: UDP 51820 between the nodes",
        "": "as the network plugin does it",
    }
    return Hop("encapsulation", "ok" if backend else "note", words.get(backend, f"backend {backend}"))
