"""NodePort and LoadBalancer traffic under both traffic policies, and what policies make of it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
import yaml

from podwire.model.objects import Key
from podwire.policy.arrival import arrive
from podwire.policy.evaluate import evaluate
from podwire.policy.snapshot import snapshot_of

WORLD = """
{kind: Node, metadata: {name: n1}, spec: {podCIDRs: [10.244.1.0/24]}, status: {addresses: [{type: InternalIP, address: 192.168.71.11}]}}
---
{kind: Node, metadata: {name: n2}, spec: {podCIDRs: [10.244.2.0/24]}, status: {addresses: [{type: InternalIP, address: 192.168.71.12}]}}
---
{kind: Pod, metadata: {namespace: a, name: web, labels: {app: web}}, spec: {nodeName: n1}, status: {phase: Running, podIP: 10.244.1.5}}
---
{kind: NetworkPolicy, metadata: {namespace: a, name: p}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: %s}}]}]}}
"""
CLIENT, OTHER, NODE2, OVERLAY2 = "203.0.113.0/24", "198.51.100.0/24", "192.168.71.12/32", "10.244.2.0/32"

TABLE = [
    # traffic policy, node it came in at, overlay, block that the policy allows, verdict (None: never arrives)
    ("Local", "n1", True, CLIENT, True),
    ("Local", "n1", True, OTHER, False),
    ("Local", "n2", True, CLIENT, None),
    ("Cluster", "n1", True, CLIENT, True),  # judged before the address is replaced
    ("Cluster", "n1", True, OTHER, False),
    ("Cluster", "n2", True, CLIENT, False),  # the client's address is gone
    ("Cluster", "n2", True, OVERLAY2, True),
    ("Cluster", "n2", True, NODE2, False),
    ("Cluster", "n2", False, NODE2, True),
]


@pytest.mark.parametrize(("policy", "entry", "overlay", "block", "allowed"), TABLE)
def test_external_traffic(policy: str, entry: str, overlay: bool, block: str, allowed: bool | None) -> None:
    snapshot = snapshot_of(list(yaml.safe_load_all(WORLD % block)))
    client = snapshot.endpoint(ip_address("203.0.113.9"))
    packet = arrive(snapshot, client, entry, Key("a", "web"), 80, policy=policy, overlay=overlay)  # type: ignore[arg-type]
    assert (packet is None) == (allowed is None)
    if packet is not None:
        assert evaluate(snapshot, packet).allowed is allowed
