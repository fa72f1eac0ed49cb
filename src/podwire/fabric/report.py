"""What the fabric says on its own Node: conditions."""

from __future__ import annotations

from collections.abc import Sequence

from podwire.model.errors import Problem
from podwire.model.objects import Obj, condition, with_condition

_MANY = 5


def up() -> Obj:
    """Return the condition of a node whose pod network works, as flannel words it."""
    return {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "FlannelIsUp",
        "message": "Flannel is running on this node",
    }


def down(reason: str, message: str) -> Obj:
    """Return the condition of a node whose pod network does not work, and why."""
    return {"type": "NetworkUnavailable", "status": "True", "reason": reason, "message": message}


def peers(problems: Sequence[Problem]) -> Obj:
    """Return the condition that names the peers (and settings) that cannot be honoured."""
    if not problems:
        return {
            "type": "FabricReady",
            "status": "True",
            "reason": "AllPeersPlanned",
            "message": "every node's pods can be reached",
        }
    told = [str(p) for p in sorted(problems, key=str)[:_MANY]]
    if len(problems) > _MANY:
        told.append(f"and {len(problems) - _MANY} more")
    return {
        "type": "FabricReady",
        "status": "False",
        "reason": "BadObjects",
        "message": "; ".join(told),
    }


def changed(own: Obj, wanted: Sequence[Obj], now: str) -> list[Obj]:
    """Return those of the wanted conditions that the Node does not show yet, with their times.

    FabricReady is podwire's own: it appears with the first problem, and stays to say that it was solved.
    """
    held = (own.get("status") or {}).get("conditions") or []
    found = []
    for each in wanted:
        shown = condition(own, each["type"])
        if shown is None and each["type"] == "FabricReady" and each["status"] == "True":
            continue
        if shown is not None and all(shown.get(k) == v for k, v in each.items()):
            continue
        found.append(with_condition(held, {**each, "lastHeartbeatTime": now}, now)[-1])
    return found
