"""What the proxy asks of connection tracking: to forget UDP flows that would otherwise outlive their endpoint.

A UDP flow that keeps sending never expires, so its old translation would hold for ever. TCP ends by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from podwire.proxy.desired import UDP, Frontend, FrontKey, IPAddress, ServiceRules, Target


class FlowTable(Protocol):
    """The part of kernel/conntrack that is needed here."""

    def forget(
        self,
        protocol: int,
        original_destination: IPAddress,
        original_port: int,
        reply_source: IPAddress | None = None,
        reply_port: int = 0,
    ) -> int:
        """Delete the flows sent to this address; with ``reply_source``, only those translated to it.

        ``reply_source`` equal to the destination means: those that were not translated. Return how many.
        """
        ...


def stale_flows(old: ServiceRules | None, new: ServiceRules) -> tuple[tuple[FrontKey, Target], ...]:
    """Return the UDP translations that must be forgotten when ``new`` replaces ``old``.

    (frontend, endpoint that is gone); and (frontend, itself) where endpoints have appeared: flows from
    before were let through untranslated. Sorted.
    """
    stale: set[tuple[FrontKey, Target]] = set()
    fresh = {f.key: f for f in _udp(new.frontends)}
    held = {f.key: f for f in _udp(old.frontends)} if old is not None else {}
    for key, before in held.items():
        after = fresh.get(key)
        kept = _targets(after) if after is not None else set()
        stale.update((key, t) for t in _targets(before) - kept)
    for key, after in fresh.items():
        before_or_none = held.get(key)
        if after.targets and (before_or_none is None or not before_or_none.targets):
            stale.add((key, Target(key.address, key.port)))
    return tuple(sorted(stale, key=str))


def _udp(frontends: Iterable[Frontend]) -> Iterable[Frontend]:
    return (f for f in frontends if f.key.protocol == UDP)


def _targets(frontend: Frontend) -> set[Target]:
    return {*frontend.targets, *frontend.local_targets}
