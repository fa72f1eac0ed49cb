"""What is left of a packet that came to a Service from outside the pod network: the packet that policies judge.

Policies see the endpoint that was chosen, never the Service's address. Whether they see the client depends on the
Service's external traffic policy. Under Cluster the node that the packet came in at puts its own address in the
client's place when it sends the packet on to another node (the answer must come back through it); where the
endpoint is on that very node, the policies there judge before the address is replaced. Under Local the client
stays, and only endpoints on that node are chosen. Source: https://kubernetes.io/docs/tutorials/services/source-ip/
"""

from __future__ import annotations

from typing import Literal

from podwire.model.objects import Key
from podwire.policy.classes import first_address
from podwire.policy.evaluate import Packet
from podwire.policy.rules import IPAddress
from podwire.policy.snapshot import Endpoint, Node, PolicySnapshot

TrafficPolicy = Literal["Cluster", "Local"]


def arrive(
    snapshot: PolicySnapshot,
    client: Endpoint,
    entry: str,
    backend: Key,
    port: int,
    protocol: str = "TCP",
    *,
    policy: TrafficPolicy = "Cluster",
    overlay: bool = True,
) -> Packet | None:
    """Return the packet as the backend's policies see it, when it came in at node ``entry`` by NodePort or balancer.

    None: it never gets there, as the policy is Local and the backend is on another node. ``overlay`` says whether
    nodes reach each other's pods through an overlay device, whose address they then bear. Raises KeyError.
    """
    pod, node = snapshot.pods[backend], snapshot.nodes[entry]
    family = client.ip.version if client.ip is not None else 4
    towards = snapshot.pod_endpoint(backend, family)
    if pod.node == entry:
        return Packet(client, towards, protocol, port)
    if policy == "Local":
        return None
    return Packet(Endpoint(_outgoing(node, family, overlay), node=entry), towards, protocol, port)


def _outgoing(node: Node, family: int, overlay: bool) -> IPAddress | None:
    """Return the address that a node bears towards pods of other nodes."""
    cidr = next((c for c in node.pod_cidrs if c.version == family), None)
    if cidr is not None and overlay:
        return cidr[0]
    return first_address(node, family)
