"""The nftables mode: one table whose skeleton is written as text at start, and whose elements go over netlink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from podwire.kernel.nft.port import Element, ElementChange, NftPort
from podwire.model.errors import MachineError
from podwire.proxy.apply.port import Change, Written
from podwire.proxy.desired import Frontend, FrontKey, IPNetwork, ServiceRules, Target
from podwire.proxy.render import nftables as render

_Sets = dict[str, dict[bytes, Element]]
_FIRST_CHAINS = 4  # pick-1 ... pick-4 exist from the start: most Services never need another
_SWEEPS = 3
_PART = 500  # Services that are written at a time at first


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


class NftablesDataplane:
    """See ``apply.port``."""

    def __init__(
        self,
        nft: NftPort,
        versions: Sequence[int],
        pod_networks: Sequence[IPNetwork],
        service_networks: Sequence[IPNetwork],
    ) -> None:
        self._nft = nft
        self._versions, self._pod_networks, self._service_networks = versions, pod_networks, service_networks
        self._owners: Counter[tuple[str, bytes]] = Counter()
        self._sticky: dict[bytes, frozenset[bytes]] = {}
        self._chains: set[str] = set()
        self._generation = 0
        self._suspect = False

    def adopt(self, rules: Sequence[ServiceRules]) -> Written:
        """Make the table hold exactly these rules."""
        names = render.data_sets(self._versions)
        # Read once: the kernel resumes a dump by counting from the start, so a large set takes long.
        held = {n: self._nft.elements(render.FAMILY, render.TABLE, n) or () for n in names}
        if any(held.values()):
            delta, orphans = self._compare(rules, held)
            self._write(delta)
            changed = len(delta)
        else:
            changed, orphans = self._fill(rules), ()
        self._owners, self._sticky = Counter(), {}
        self._remember([(None, r) for r in rules])
        if self._sticky:
            self._sweep_affinity()
        self._suspect = False
        self._generation = self._nft.generation()
        return Written(changed, orphans)

    def update(self, changes: Sequence[Change]) -> Written:
        """Replace the rules of some Services."""
        delta = self._difference(changes)
        self._suspect = self._suspect or self._nft.generation() != self._generation
        self._ensure_chains(e for s in delta.add.values() for e in s.values())
        self._write(delta)
        self._remember(changes)
        if any(_lost_affinity(old, new) for old, new in changes):
            self._sweep_affinity()
        self._generation = self._nft.generation()
        return Written(len(delta))

    def disturbed(self) -> bool:
        """Return whether somebody else changed nftables in this namespace since the last round."""
        return self._suspect or self._nft.generation() != self._generation

    def remove(self) -> None:
        """Delete the table, if it is there."""
        if self._nft.list_table(render.FAMILY, render.TABLE) is not None:
            self._nft.apply(f"delete table {render.FAMILY} {render.TABLE}\n")

    def _difference(self, changes: Sequence[Change]) -> _Delta:
        delta = _Delta()
        shared: Counter[tuple[str, bytes]] = Counter()
        shared_elements: dict[tuple[str, bytes], Element] = {}
        for old, new in changes:
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

    def _fill(self, rules: Sequence[ServiceRules]) -> int:
        """Write everything into an empty table, a part at a time: the whole at once costs memory that stays."""
        self._make_skeleton(set())
        changed = 0
        shared: set[tuple[str, bytes]] = set()
        for first in range(0, len(rules), _PART):
            delta = _Delta()
            for one in rules[first : first + _PART]:
                for name, element in render.elements(one):
                    if name not in render.SHARED_SETS or (name, element.key) not in shared:
                        delta.add.setdefault(name, {})[_identity(element)] = element
                    if name in render.SHARED_SETS:
                        shared.add((name, element.key))
            self._ensure_chains(e for s in delta.add.values() for e in s.values())
            self._write(delta)
            changed += len(delta)
        return changed

    def _compare(
        self, rules: Sequence[ServiceRules], held: Mapping[str, Sequence[Element]]
    ) -> tuple[_Delta, tuple[tuple[FrontKey, Target], ...]]:
        """Remake the skeleton around what the kernel holds; return the difference to what is wanted,
        and the UDP translations that the kernel holds and nobody wants any more."""
        wanted: _Sets = {}
        for one in rules:
            for name, element in render.elements(one):
                wanted.setdefault(name, {})[_identity(element)] = element
        elements = [*(e for s in wanted.values() for e in s.values()), *(e for s in held.values() for e in s)]
        if self._make_skeleton({*map(render.chain_of, elements)} - {""}):
            held = dict.fromkeys(held, ())
        delta = _Delta()
        for name in held:
            want, have = wanted.get(name, {}), {_identity(e): e for e in held[name]}
            delta.delete[name] = {k: e for k, e in have.items() if want.get(k) != e}
            delta.add[name] = {k: e for k, e in want.items() if have.get(k) != e}
        return delta, tuple(_orphaned_flows(delta, wanted))

    def _make_skeleton(self, chains: set[str]) -> bool:
        """Write tables, sets, chains and rules; return whether that cost the elements that were there."""
        suffixes = ["6" if v == 6 else "" for v in self._versions]
        chains |= {f"pick{s}-{n}" for s in suffixes for n in range(1, _FIRST_CHAINS + 1)}
        script = render.skeleton(self._versions, self._pod_networks, self._service_networks, chains)
        remade = False
        try:
            self._nft.apply(script)
        except MachineError:
            # A table of another version, with other types: it must go first. Established connections live on.
            if self._nft.list_table(render.FAMILY, render.TABLE) is None:
                raise
            self._nft.apply(f"delete table {render.FAMILY} {render.TABLE}\n{script}")
            remade = True
        self._nft.append(render.encoded_rules(chains))
        self._chains = chains
        return remade

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

    def _remember(self, changes: Iterable[Change]) -> None:
        for old, new in changes:
            for rules, sign in ((old, -1), (new, 1)):
                for name, element in render.hairpins(rules) if rules is not None else ():
                    self._owners[name, element.key] += sign
                    if not self._owners[name, element.key]:
                        del self._owners[name, element.key]
            for f in old.frontends if old is not None else ():
                if f.affinity_s:
                    self._sticky.pop(render.encode_front(f.key), None)
        for _, new in changes:
            for f in new.frontends if new is not None else ():
                if f.affinity_s:
                    targets = frozenset(map(render.encode_target, (*f.targets, *f.local_targets)))
                    self._sticky[render.encode_front(f.key)] = targets

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


def _lost_affinity(old: ServiceRules | None, new: ServiceRules | None) -> bool:
    if old is None or not any(f.affinity_s for f in old.frontends):
        return False
    kept: dict[FrontKey, Frontend] = {f.key: f for f in (new.frontends if new is not None else ())}
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
