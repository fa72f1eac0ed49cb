"""Who owns an address that several Services claim: the oldest, then the first by name. Pure.

The API server refuses most such clashes; externalIPs, hand-written addresses and objects of another cluster's
backup bring them anyway. The outcome depends on the Services alone, never on the order of events.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from podwire.model.objects import Key

C = TypeVar("C", bound=Hashable)
Rank = tuple[str, str, str]


class Claims(Generic[C]):
    """The claims of every Service on things of which each has one owner."""

    def __init__(self) -> None:
        self._claimants: dict[C, tuple[tuple[Rank, Key], ...]] = {}
        self._held: dict[Key, tuple[Rank, frozenset[C]]] = {}

    def update(self, service: Key, rank: Rank, claims: Iterable[C]) -> set[Key]:
        """Replace the claims of ``service``; return the other Services whose fortune this may change."""
        new = frozenset(claims)
        old_rank, old = self._held.get(service, (rank, frozenset[C]()))
        if (old_rank, old) == (rank, new):
            return set()
        disturbed: set[Key] = set()
        for claim in old | new:
            others = tuple(c for c in self._claimants.get(claim, ()) if c[1] != service)
            disturbed.update(key for _, key in others)
            mine = ((rank, service),) if claim in new else ()
            if others or mine:
                self._claimants[claim] = tuple(sorted(others + mine))
            else:
                self._claimants.pop(claim, None)
        if new:
            self._held[service] = (rank, new)
        else:
            self._held.pop(service, None)
        return disturbed

    def owner(self, claim: C) -> Key | None:
        """Return the Service that has it; None when nobody claims it."""
        claimants = self._claimants.get(claim)
        return claimants[0][1] if claimants else None
