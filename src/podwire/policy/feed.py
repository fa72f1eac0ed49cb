"""API objects into a policy table: parse at the door, remember who is called what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from podwire.model.objects import Obj, key_of
from podwire.policy.parse import POLICY_KINDS, read_policy
from podwire.policy.snapshot import parse_namespace, parse_node, parse_pod
from podwire.policy.table import PolicyTable

# Policies before pods: then a pod's verdict is found once, not again with every policy.
_ORDER = {"Namespace": 0, "Node": 1, **dict.fromkeys(POLICY_KINDS, 2), "Pod": 3}


def feed_all(table: PolicyTable, objects: Iterable[Obj]) -> None:
    """Tell a table of all objects; those of kinds that policies do not look at are passed over."""
    for obj in sorted((o for o in objects if o.get("kind") in _ORDER), key=lambda o: _ORDER[o["kind"]]):
        feed_change(table, None, obj)


def feed_change(table: PolicyTable, old: Obj | None, new: Obj | None) -> None:
    """Tell a table of one object: made, changed (both given), or gone (``new`` None)."""
    some = new if new is not None else old
    if some is None:
        return
    match some["kind"]:
        case "Pod":
            table.set_pod(key_of(some), parse_pod(new) if new is not None else None)
        case "Namespace":
            table.set_namespace(key_of(some).name, parse_namespace(new) if new is not None else None)
        case "Node":
            table.set_node(key_of(some).name, parse_node(new) if new is not None else None)
        case kind if kind in POLICY_KINDS:
            table.set_policy(id_of(some), read_policy(new) if new is not None else None)


def id_of(obj: Mapping[str, Any]) -> str:
    """Return a policy object's id in the table: ``plan.policy_id`` of what it parses to."""
    key = key_of(obj)
    return str(key) if obj["kind"] == "NetworkPolicy" else f"{obj['kind']}/{key.name}"
