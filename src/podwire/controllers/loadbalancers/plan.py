"""Which addresses a Service gets, and which node answers for them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import ip_address

from podwire.controllers.endpoints.plan import families_of
from podwire.controllers.loadbalancers.pools import Pool, pick
from podwire.model.loadbalancers import POOL, IPAddress
from podwire.model.objects import Key, Obj, annotations_of, is_deleting, is_ready, labels_of, with_condition

EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
CONDITION = "podwire.dev/AddressAssigned"


@dataclass(frozen=True, slots=True)
class Allocation:
    """The Service's addresses, in the order of its families; ``why`` says what is missing, "" nothing."""

    addresses: tuple[IPAddress, ...]
    why: str = ""


def plan_allocation(
    service: Obj, held: Sequence[IPAddress], pools: Sequence[Pool], taken: Container[IPAddress]
) -> Allocation:
    """Return the addresses that the Service should have. ``taken``: by other Services.

    An address that it holds stays, whatever becomes of its pool, unless spec.loadBalancerIP asks for another.
    """
    usable, why = _pools_for(service, pools)
    asked = _asked(service)
    if isinstance(asked, str):
        return Allocation((), asked)
    found: list[IPAddress] = []
    for version in [6 if f == "IPv6" else 4 for f in families_of(service)]:
        if asked is not None and asked.version == version:
            problem = _refusal(asked, pools, taken)
            if problem:
                why = why or problem
            else:
                found.append(asked)
            continue
        kept = next((a for a in held if a.version == version and a not in taken), None)
        chosen = kept or pick(usable, version, taken)
        if chosen is not None:
            found.append(chosen)
        elif not why:
            names = ", ".join(p.name for p in usable)
            why = f"no IPv{version} address is free in pool {names}" if names else "there is no pool for this Service"
    if asked is not None and not any(a.version == asked.version for a in found) and not why:
        why = f"spec.loadBalancerIP {asked} is of a family that the Service does not have"
    complete = len(found) == len(families_of(service))
    return Allocation(tuple(found), "" if complete else why)


def _pools_for(service: Obj, pools: Sequence[Pool]) -> tuple[list[Pool], str]:
    """Return the pools that the Service may draw from, and why there is none."""
    fitting = [p for p in pools if p.services is None or p.services.matches(labels_of(service))]
    named = annotations_of(service).get(POOL)
    if named is None:
        return [p for p in fitting if p.automatic], ""
    chosen = [p for p in fitting if p.name == named]
    if chosen:
        return chosen, ""
    known = any(p.name == named for p in pools)
    return [], f"pool {named} is not for this Service" if known else f"there is no pool {named}"


def _asked(service: Obj) -> IPAddress | str | None:
    """Return spec.loadBalancerIP; None when it is not set, and words when it is no address."""
    text = (service.get("spec") or {}).get("loadBalancerIP")
    if not text:
        return None
    try:
        return ip_address(text)
    except ValueError:
        return f"spec.loadBalancerIP: {text!r} is not an IP address"


def _refusal(asked: IPAddress, pools: Sequence[Pool], taken: Container[IPAddress]) -> str:
    if not any(p.has(asked) for p in pools):
        return f"spec.loadBalancerIP {asked} is in no pool"
    return f"spec.loadBalancerIP {asked} is in use by another Service" if asked in taken else ""


def eligible_nodes(nodes: Iterable[Obj], announcers: Container[str]) -> set[str]:
    """Return the nodes that may answer for addresses: ready, not excluded, and with an announcer."""
    return {
        n["metadata"]["name"]
        for n in nodes
        if is_ready(n) and not is_deleting(n) and EXCLUDED not in labels_of(n) and n["metadata"]["name"] in announcers
    }


def nodes_with_endpoints(slices: Iterable[Obj]) -> set[str]:
    """Return the nodes on which an endpoint of these slices is ready."""
    return {
        e["nodeName"]
        for s in slices
        for e in s.get("endpoints") or ()
        if e.get("nodeName") and (e.get("conditions") or {}).get("ready") is not False
    }


def is_local(service: Obj) -> bool:
    """Return whether only nodes with endpoints may take the Service's traffic."""
    return (service.get("spec") or {}).get("externalTrafficPolicy") == "Local"


def elect(service: Key, current: str, candidates: Collection[str], silent: Container[str]) -> str:
    """Return the node that answers for the Service's addresses; "" when none may.

    Whoever does stays while it can (a move breaks connections). The others share the Services by rendezvous
    hashing (Thaler and Ravishankar, 1998). A silent node is chosen only where no other is left.
    """
    speaking = [n for n in candidates if n not in silent]
    if current in (speaking or candidates):
        return current
    return max(speaking or candidates, key=lambda n: (_weight(service, n), n), default="")


def _weight(service: Key, node: str) -> bytes:
    return blake2b(f"{service}\0{node}".encode(), digest_size=8).digest()


def plan_status(service: Obj, allocation: Allocation, now: str) -> Obj:
    """Return the Service's status with these addresses and the condition that explains a lack."""
    status: Mapping[str, object] = service.get("status") or {}
    ingress = [{"ip": str(a), "ipMode": "VIP"} for a in allocation.addresses]
    conditions: list[Obj] = list(status.get("conditions") or ())  # type: ignore[call-overload]
    if allocation.why:
        new = {"type": CONDITION, "status": "False", "reason": "NoAddress", "message": allocation.why}
        conditions = with_condition(conditions, new, now)
    else:
        conditions = [c for c in conditions if c.get("type") != CONDITION]
    return {"loadBalancer": {"ingress": ingress} if ingress else {}, "conditions": conditions or None}
