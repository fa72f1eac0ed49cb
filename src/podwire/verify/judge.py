"""Ask the policy model about pods and addresses as this room knows them, and point at what decided. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from podwire.policy.evaluate import Decision, Packet, Verdict, evaluate
from podwire.policy.rules import Policy
from podwire.policy.snapshot import Endpoint
from podwire.verify.located import Located, ObjectKey, Place, field_of
from podwire.verify.workloads import PodView
from podwire.verify.world import World

_GROUPS: Mapping[str, str] = {"NetworkPolicy": "networking.k8s.io"}
_POLICY_GROUP = "policy.networking.k8s.io"


def end_of(world: World, pod: PodView | None, ip: str = "") -> Endpoint:
    """Return one end of a connection: a pod, or the address ``ip`` of something that is none."""
    if pod is not None:
        return world.snapshot.pod_endpoint(pod.key)
    return world.snapshot.endpoint(ip_address(ip))


def verdict(world: World, src: Endpoint, dst: Endpoint, protocol: str, port: int) -> Verdict:
    """Return what the policies say about a new connection."""
    return evaluate(world.snapshot, Packet(src, dst, protocol, port))


def source_of(world: World, policy: Policy) -> Located | None:
    """Return where a policy was written; None for one that nobody wrote."""
    group = _GROUPS.get(policy.kind, _POLICY_GROUP)
    return world.by_key.get(ObjectKey(group, policy.kind, policy.key.namespace, policy.key.name))


def place_of(world: World, decision: Decision) -> tuple[str, Place | None]:
    """Return the deciding object with its field ("NetworkPolicy prod/db spec.ingress[0]"), and its file and line.

    An isolated pod that no rule lets through is decided by the policy that isolates it. ("", None): no object.
    """
    policy = decision.policy or (decision.isolating[0] if decision.isolating else None)
    if policy is None:
        return "", None
    located = source_of(world, policy)
    path = decision.path
    if not path:
        written = located is not None and field_of(located.object, f"spec.{decision.direction}") is not None
        path = f"spec.{decision.direction}" if written else "spec.podSelector"
    return f"{policy} {path}", located.place(path) if located is not None else None
