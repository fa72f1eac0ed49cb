"""Brings the kernel from what it holds to what the rules say, and remembers what it did.

Synchronous; raises MachineError, after which ``forget`` makes the next round compare with the kernel afresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from podwire.model.errors import Problem
from podwire.model.objects import Key
from podwire.proxy.apply.port import Dataplane
from podwire.proxy.claims import Settlement
from podwire.proxy.conntrack import FlowTable, stale_flows
from podwire.proxy.desired import FrontKey, ServiceRules, Target


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one round did."""

    planned: Sequence[Key]
    changed: int  # elements or rules added and deleted
    flows_forgotten: int
    problems: Mapping[Key, tuple[Problem, ...]]


class Programmer:
    """The Services of one node, and what is known of its kernel."""

    def __init__(self, dataplane: Dataplane, flows: FlowTable | None) -> None:
        self.adopted = False
        self._dataplane, self._flows = dataplane, flows
        self._settlement = Settlement()
        self._applied: dict[Key, ServiceRules] = {}
        self._frontends = 0

    def count(self) -> tuple[int, int]:
        """Return the numbers of Services and of frontends that are programmed."""
        return len(self._applied), self._frontends

    def forget(self) -> None:
        """Trust nothing: the next round reads the kernel and must be given every Service."""
        self.adopted = False

    def disturbed(self) -> bool:
        """Return whether somebody else may have changed our rules since the last round."""
        return self.adopted and self._dataplane.disturbed()

    def switch(self, dataplane: Dataplane) -> None:
        """Use another mode: the next round must be given every Service, and writes them all.

        What the other mode has written stays until its ``remove`` is called.
        """
        self._dataplane = dataplane
        self.adopted = False

    def program(self, plans: Mapping[Key, ServiceRules | None]) -> Outcome:
        """Make the kernel agree with ``plans`` (None: no such Service). Raises MachineError.

        Before adoption ``plans`` must hold every Service; afterwards those that changed.
        """
        if not self.adopted:
            self._settlement = Settlement()
        fresh = self._settlement.take(plans)
        touched = fresh if self.adopted else dict.fromkeys((*fresh, *self._applied))
        pairs = [(k, self._applied.get(k), fresh.get(k)) for k in touched]
        if self.adopted:
            written = self._dataplane.update([(old, new) for _, old, new in pairs if old != new])
        else:
            written = self._dataplane.adopt([r for r in fresh.values() if r is not None])
        for key, old, new in pairs:
            self._frontends += (len(new.frontends) if new else 0) - (len(old.frontends) if old else 0)
            if new is not None and (new.frontends or new.cluster_ips or new.hairpins):
                self._applied[key] = new
            else:
                self._applied.pop(key, None)
        forgotten = self._forget_flows(pairs, written.orphans)
        self.adopted = True
        problems = {k: rules.problems if rules is not None else () for k, rules in fresh.items()}
        return Outcome(tuple(fresh), written.changed, forgotten, problems)

    def _forget_flows(
        self,
        pairs: Iterable[tuple[Key, ServiceRules | None, ServiceRules | None]],
        orphans: Iterable[tuple[FrontKey, Target]],
    ) -> int:
        """Forget what packets have left behind; return how many flows that were."""
        if self._flows is None:
            return 0
        stale = dict.fromkeys(orphans)
        for key, old, new in pairs:
            stale.update(dict.fromkeys(stale_flows(old, new or ServiceRules(key, ("", "", "")))))
        return sum(
            self._flows.forget(front.protocol, front.address, front.port, target.address, target.port)
            for front, target in stale
        )
