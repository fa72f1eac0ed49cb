"""Who owns an address that several Services claim: the oldest, then the first by name. Pure.

The API server refuses most such clashes; externalIPs, hand-written addresses and objects of another cluster's
backup bring them anyway. The outcome depends on the Services alone, never on the order of events.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

from podwire.model.errors import Problem
from podwire.model.objects import Key
from podwire.proxy.desired import FrontKey, ServiceRules

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
        sole = ((rank, service),)
        for claim in old | new:
            if not old and claim not in self._claimants:
                self._claimants[claim] = sole
                continue
            others = tuple(c for c in self._claimants.get(claim, ()) if c[1] != service)
            disturbed.update(key for _, key in others)
            mine = sole if claim in new else ()
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


class Settlement:
    """The planned rules of every Service, each without what an older Service owns."""

    def __init__(self) -> None:
        self._planned: dict[Key, ServiceRules] = {}
        self._claims: Claims[FrontKey] = Claims()

    def take(self, plans: Mapping[Key, ServiceRules | None]) -> dict[Key, ServiceRules | None]:
        """Take plans in (None: no such Service); return the rules that may differ now: theirs and their rivals'."""
        touched = dict.fromkeys(plans)
        for key, rules in plans.items():
            if rules is None or (not rules.frontends and not rules.cluster_ips):
                rank = self._planned[key].rank if key in self._planned else ("", "", "")
                claims: list[FrontKey] = []
            else:
                rank = rules.rank
                # One cluster IP, one Service: claimed as a frontend that no packet has.
                claims = [f.key for f in rules.frontends] + [FrontKey(a, 0, 0) for a in rules.cluster_ips]
            touched.update(dict.fromkeys(self._claims.update(key, rank, claims)))
            if rules is None:
                self._planned.pop(key, None)
            else:
                self._planned[key] = rules
        return {key: self._settle(self._planned[key]) if key in self._planned else None for key in touched}

    def _settle(self, rules: ServiceRules) -> ServiceRules:
        """Return the rules without what an older Service owns; each loss is a Problem."""
        lost = [f for f in rules.frontends if self._claims.owner(f.key) != rules.service]
        ips = tuple(a for a in rules.cluster_ips if self._claims.owner(FrontKey(a, 0, 0)) == rules.service)
        if not lost and len(ips) == len(rules.cluster_ips):
            return rules
        problems = tuple(
            Problem(
                f"Service {rules.service}",
                "spec.ports",
                f"{f.key.address} port {f.key.port} belongs to Service {self._claims.owner(f.key)}",
            )
            for f in lost
        )
        kept = tuple(f for f in rules.frontends if f not in lost)
        return replace(
            rules,
            frontends=kept,
            cluster_ips=ips,
            hairpins=rules.hairpins if kept else (),
            problems=rules.problems + problems,
        )
