"""Brings the kernel from what it holds to what the rules say, and remembers what it did.

Synchronous; raises MachineError, after which ``forget`` makes the next round compare with the kernel afresh.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from podwire.kernel.nft.port import Element, ElementChange, NftPort
from podwire.model.errors import MachineError, Problem
from podwire.model.objects import Key
from podwire.proxy.claims import Claims
from podwire.proxy.conntrack import FlowTable, stale_flows
from podwire.proxy.desired import Frontend, FrontKey, IPNetwork, ServiceRules, Target
from podwire.proxy.render import nftables as render

_Sets = dict[str, dict[bytes, Element]]
_FIRST_CHAINS = 4  # pick-1 ... pick-4 exist from the start: most Services never need another
_SWEEPS = 3
_NO_RANK = ("", "", "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one round did."""

    planned: Sequence[Key]
    changed: int  # elements added and deleted
    flows_forgotten: int
    problems: Mapping[Key, tuple[Problem, ...]]


@dataclass(slots=True)
class _Delta:
    """Elements to delete and to add, by set and key. An element in both with one value is neither."""

    delete: _Sets = field(default_factory=dict)
    add: _Sets = field(default_factory=dict)

    def settle(self) -> None:
        for name, added in self.add.items():
            gone = self.delete.get(name, {})
            for key in [k for k, e in added.items() if gone.get(k) == e]:
                del added[key], gone[key]

    def __len__(self) -> int:
        return sum(len(s) for s in (*self.delete.values(), *self.add.values()))


class Programmer:
    """The nftables table of one node, and what is known of it."""

    def __init__(
        self,
        nft: NftPort,
        flows: FlowTable | None,
        versions: Sequence[int],
        pod_networks: Sequence[IPNetwork],
        service_networks: Sequence[IPNetwork],
    ) -> None:
        self.adopted = False
        self._nft, self._flows = nft, flows
        self._versions, self._pod_networks, self._service_networks = versions, pod_networks, service_networks
        self._planned: dict[Key, ServiceRules] = {}
        self._applied: dict[Key, ServiceRules] = {}
        self._claims: Claims[FrontKey] = Claims()
        self._owners: Counter[tuple[str, bytes]] = Counter()
        self._sticky: dict[bytes, frozenset[bytes]] = {}
        self._chains: set[str] = set()
        self._generation = 0
        self._suspect = False

    def count(self) -> tuple[int, int]:
        """Return the numbers of Services and of frontends that are programmed."""
        return len(self._applied), sum(len(r.frontends) for r in self._applied.values())

    def forget(self) -> None:
        """Trust nothing: the next round reads the kernel and must be given every Service."""
        self.adopted = False

    def disturbed(self) -> bool:
        """Return whether somebody else changed nftables in this namespace since the last round."""
        return self._suspect or (self.adopted and self._nft.generation() != self._generation)

    def program(self, plans: Mapping[Key, ServiceRules | None]) -> Outcome:
        """Make the kernel agree with ``plans`` (None: no such Service). Raises MachineError.

        Before adoption ``plans`` must hold every Service; afterwards those that changed.
        """
        before = dict(self._applied) if not self.adopted else self._applied
        if not self.adopted:
            self._planned, self._claims = {}, Claims()
        touched = self._claim(plans)
        fresh = {key: self._settle(self._planned[key]) for key in touched if key in self._planned}
        if self.adopted:
            delta = self._difference(touched, fresh)
            self._suspect = self._suspect or self._nft.generation() != self._generation
            self._ensure_chains(e for s in delta.add.values() for e in s.values())
            orphans: list[tuple[FrontKey, Target]] = []
        else:
            delta, orphans = self._adopt(fresh)
        self._write(delta)
        changed = touched if self.adopted else dict.fromkeys((*touched, *before))
        pairs = [(before.get(k), fresh.get(k) or ServiceRules(k, _NO_RANK)) for k in changed]
        self._remember(touched, fresh)
        forgotten = self._forget_flows(pairs, orphans)
        if any(_lost_affinity(old, new) for old, new in pairs) or (not self.adopted and self._sticky):
            self._sweep_affinity()
        self.adopted = True
        self._generation = self._nft.generation()
        problems = {k: fresh[k].problems if k in fresh else () for k in touched}
        return Outcome(tuple(touched), len(delta), forgotten, problems)

    # --- who owns what

    def _claim(self, plans: Mapping[Key, ServiceRules | None]) -> tuple[Key, ...]:
        """Take the plans in; return the Services whose rules may differ now: theirs and their rivals'."""
        touched = dict.fromkeys(plans)
        for key, rules in plans.items():
            if rules is None or (not rules.frontends and not rules.cluster_ips):
                rank = self._planned[key].rank if key in self._planned else _NO_RANK
                claims: list[FrontKey] = []
            else:
                rank = rules.rank
                claims = [f.key for f in rules.frontends] + [FrontKey(a, 0, 0) for a in rules.cluster_ips]
            touched.update(dict.fromkeys(self._claims.update(key, rank, claims)))
            if rules is None:
                self._planned.pop(key, None)
            else:
                self._planned[key] = rules
        return tuple(touched)

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

    # --- the difference

    def _difference(self, touched: Iterable[Key], fresh: Mapping[Key, ServiceRules]) -> _Delta:
        delta = _Delta()
        shared: Counter[tuple[str, bytes]] = Counter()
        shared_elements: dict[tuple[str, bytes], Element] = {}
        for key in touched:
            old, new = self._applied.get(key), fresh.get(key)
            if old == new:
                continue
            for rules, sets, sign in ((_without(old, new), delta.delete, -1), (_without(new, old), delta.add, 1)):
                for name, element in render.elements(rules) if rules is not None else ():
                    if name in render.SHARED_SETS:
                        shared[name, element.key] += sign
                        shared_elements[name, element.key] = element
                    else:
                        sets.setdefault(name, {})[_identity(element)] = element
        for (name, raw), change in shared.items():
            had = self._owners[name, raw]
            if had == 0 < had + change:
                delta.add.setdefault(name, {})[raw] = shared_elements[name, raw]
            elif had + change == 0 < had:
                delta.delete.setdefault(name, {})[raw] = shared_elements[name, raw]
        delta.settle()
        return delta

    def _adopt(self, fresh: Mapping[Key, ServiceRules]) -> tuple[_Delta, list[tuple[FrontKey, Target]]]:
        """Remake the skeleton around what the kernel holds; return the difference to what is wanted,
        and the UDP translations that the kernel holds and nobody wants any more."""
        wanted: _Sets = {}
        for rules in fresh.values():
            for name, element in render.elements(rules):
                wanted.setdefault(name, {})[_identity(element)] = element
        names = render.data_sets(self._versions)
        held = {n: self._nft.elements(render.FAMILY, render.TABLE, n) or () for n in names}
        elements = [*(e for s in wanted.values() for e in s.values()), *(e for s in held.values() for e in s)]
        self._make_skeleton({*map(render.chain_of, elements)} - {""})
        held = {n: self._nft.elements(render.FAMILY, render.TABLE, n) or () for n in names}
        delta = _Delta()
        for name in names:
            want, have = wanted.get(name, {}), {_identity(e): e for e in held[name]}
            delta.delete[name] = {k: e for k, e in have.items() if want.get(k) != e}
            delta.add[name] = {k: e for k, e in want.items() if have.get(k) != e}
        return delta, list(_orphaned_flows(delta, wanted))

    def _make_skeleton(self, chains: set[str]) -> None:
        suffixes = ["6" if v == 6 else "" for v in self._versions]
        chains |= {f"pick{s}-{n}" for s in suffixes for n in range(1, _FIRST_CHAINS + 1)}
        script = render.skeleton(self._versions, self._pod_networks, self._service_networks, chains)
        try:
            self._nft.apply(script)
        except MachineError:
            # A table of another version, with other types: it must go first. Established connections live on.
            if self._nft.list_table(render.FAMILY, render.TABLE) is None:
                raise
            self._nft.apply(f"delete table {render.FAMILY} {render.TABLE}\n{script}")
        self._nft.append(render.encoded_rules(chains))
        self._chains = chains

    def _ensure_chains(self, elements: Iterable[Element]) -> None:
        missing = {render.chain_of(e) for e in elements} - self._chains - {""}
        script = render.add_chains(missing)
        if script:
            self._nft.apply(script)
            self._nft.append(render.encoded_rules(missing))
        self._chains |= missing

    def _write(self, delta: _Delta) -> None:
        """Send the difference. If it takes several transactions, no packet meets a half-written Service:
        new data first, then the verdicts that lead to them, then the deletion of old data."""
        data, verdicts, old = [], [], []
        for name in dict.fromkeys((*delta.add, *delta.delete)):
            add, delete = delta.add.get(name, {}), delta.delete.get(name, {})
            if render.is_endpoints(name) or name.rstrip("6") in ("hairpins", "allowed-sources"):
                again = tuple(e for k, e in delete.items() if k in add)
                data.append(_change(name, add.values(), again))
                old.append(_change(name, (), (e for k, e in delete.items() if k not in add)))
            else:
                verdicts.append(_change(name, add.values(), delete.values()))
        changes = [c for c in (*data, *verdicts, *old) if c.add or c.delete]
        if changes:
            self._nft.change(changes)

    def _remember(self, touched: Iterable[Key], fresh: Mapping[Key, ServiceRules]) -> None:
        if not self.adopted:
            self._applied, self._owners, self._sticky = {}, Counter(), {}
        for key in touched:
            old, new = self._applied.pop(key, None), fresh.get(key)
            for rules, sign in ((old, -1), (new, 1)):
                shared = ServiceRules(key, _NO_RANK, hairpins=rules.hairpins if rules is not None else ())
                for name, element in render.elements(shared):
                    self._owners[name, element.key] += sign
                    if not self._owners[name, element.key]:
                        del self._owners[name, element.key]
            for f in old.frontends if old else ():
                self._sticky.pop(render.encode_front(f.key), None)
            if new is not None and (new.frontends or new.cluster_ips or new.hairpins):
                self._applied[key] = new
        for key in touched:
            for f in fresh[key].frontends if key in fresh else ():
                if f.affinity_s:
                    targets = frozenset(map(render.encode_target, (*f.targets, *f.local_targets)))
                    self._sticky[render.encode_front(f.key)] = targets

    # --- what packets have left behind

    def _forget_flows(
        self,
        pairs: Iterable[tuple[ServiceRules | None, ServiceRules]],
        orphans: Iterable[tuple[FrontKey, Target]],
    ) -> int:
        if self._flows is None:
            return 0
        stale = dict.fromkeys(orphans)
        for old, new in pairs:
            stale.update(dict.fromkeys(stale_flows(old, new)))
        return sum(
            self._flows.forget(front.protocol, front.address, front.port, target.address, target.port)
            for front, target in stale
        )

    def _sweep_affinity(self) -> None:
        """Delete what packets have remembered of endpoints that are gone."""
        names = [render.affinity_map(v) for v in self._versions]
        for attempt in range(_SWEEPS):
            held = {n: self._nft.elements(render.FAMILY, render.TABLE, n) or () for n in names}
            gone = [_change(n, (), (e for e in held[n] if self._is_forgotten(e))) for n in names]
            changes = [c for c in gone if c.delete]
            if not changes:
                return
            try:
                self._nft.change(changes)
                return
            except MachineError:  # one of them ran out of time between the reading and the deletion
                if attempt == _SWEEPS - 1:
                    raise

    def _is_forgotten(self, element: Element) -> bool:
        front, target = render.decode_affinity(element)
        return target not in self._sticky.get(front, ())


def _identity(element: Element) -> bytes:
    return element.key + (element.key_end or b"")


def _change(name: str, add: Iterable[Element], delete: Iterable[Element]) -> ElementChange:
    return ElementChange(render.FAMILY, render.TABLE, name, tuple(add), tuple(delete))


def _without(rules: ServiceRules | None, other: ServiceRules | None) -> ServiceRules | None:
    """Return what ``rules`` has and ``other`` has not; None for nothing."""
    if rules is None or other is None:
        return rules
    shared = set(other.frontends)
    return replace(
        rules,
        frontends=tuple(f for f in rules.frontends if f not in shared),
        cluster_ips=tuple(a for a in rules.cluster_ips if a not in other.cluster_ips),
        hairpins=tuple(a for a in rules.hairpins if a not in other.hairpins),
    )


def _lost_affinity(old: ServiceRules | None, new: ServiceRules) -> bool:
    if old is None or not any(f.affinity_s for f in old.frontends):
        return False
    kept: dict[FrontKey, Frontend] = {f.key: f for f in new.frontends}
    for f in old.frontends:
        if f.affinity_s:
            after = kept.get(f.key)
            if after is None or not after.affinity_s:
                return True
            if not {*f.targets, *f.local_targets} <= {*after.targets, *after.local_targets}:
                return True
    return False


def _orphaned_flows(delta: _Delta, wanted: _Sets) -> Iterator[tuple[FrontKey, Target]]:
    """Yield the UDP translations among deleted endpoints that no wanted endpoint repeats."""
    kept = {
        render.decode_endpoint(name, element)
        for name, elements in wanted.items()
        if name.startswith("udp-") and delta.delete.get(name)
        for element in elements.values()
    }
    for name, deleted in delta.delete.items():
        if name.startswith("udp-"):
            yield from {render.decode_endpoint(name, e) for e in deleted.values()} - kept
