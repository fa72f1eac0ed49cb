"""Brings the kernel's table to what the policy table wants. Synchronous; raises MachineError.

A change is one transaction: packets see the state before or after it, never between (unless it is too large for
one netlink message; then sets come first, chains second, pods last, so that a pod is never led to less than all).

``rebuild`` trusts nothing that the kernel holds: it fills a second table beside the one in force, and then deletes
that one. While both are there a packet must please both, so nothing passes that either forbids. Established
connections are known to conntrack and pass both.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from podwire.kernel.nft.port import ChainChange, Change, Element, ElementChange, NftPort, SetChange
from podwire.policy.render import nftables as render
from podwire.policy.table import UNKNOWN, Changed, PolicyTable


class Programmer:
    """The table of one node, and what is known of it."""

    def __init__(self, nft: NftPort, table: PolicyTable, *, strict: bool = False) -> None:
        self.in_force = ""
        """The name of the table in force; "" before the first rebuild."""
        self._nft, self._table, self._strict = nft, table, strict
        self._chains: dict[str, int] = {}  # name: rank
        self._sets: set[str] = set()
        self._elements: dict[str, dict[bytes, Element]] = {}
        self._generation = 0
        self._suspect = False

    def forget(self) -> None:
        """Trust nothing: the next round rebuilds."""
        self.in_force = ""

    def disturbed(self) -> bool:
        """Return whether somebody else changed this node's nftables since the last round."""
        return self._suspect or (bool(self.in_force) and self._nft.generation() != self._generation)

    def program(self) -> int:
        """Write what changed and return how many elements, chains and sets that were."""
        if not self.in_force:
            return self._rebuild()
        changes = self._changes(self._table.take_changed())
        if not changes:
            return 0
        self._suspect = self._suspect or self._nft.generation() != self._generation
        self._write(changes)
        self._generation = self._nft.generation()
        return _count(changes)

    def check(self) -> bool:
        """Return whether the table in force still holds what was written: somebody else's transaction came by."""
        name = self.in_force
        for set_name in (*self._sets, *self._table.dispatch_maps()):
            held = self._nft.elements(render.FAMILY, name, set_name)
            mine = self._elements.get(set_name, {})
            if held is None or {e.key: e.verdict for e in held} != {k: e.verdict for k, e in mine.items()}:
                return False
        text = self._nft.list_table(render.FAMILY, name) or ""
        whole = all(f"chain {c} {{" in text for c in (*self._chains, "forward-egress", "forward-ingress"))
        if whole:
            self._suspect, self._generation = False, self._nft.generation()
        return whole

    def _rebuild(self) -> int:
        numbers = {t: self._number(t) for t in render.TABLES}
        whole = {t: n for t, n in numbers.items() if n}
        guard = max(whole, key=lambda t: whole[t]) if whole else ""
        target = next(t for t in render.TABLES if t != guard)
        script = render.skeleton(target, self._table.versions, strict=self._strict)
        self._nft.apply((render.delete(target) if numbers[target] is not None else "") + script)
        self._chains, self._sets, self._elements = dict.fromkeys(UNKNOWN.values(), 0), set(), {}
        self.in_force = target
        self._table.take_changed()
        changes = self._changes(self._everything())
        generation = Element(struct.pack("=I", whole.get(guard, 0) + 1))
        done = ElementChange(render.FAMILY, target, render.GENERATION, (generation,))
        try:
            self._write([*changes, done])
            if guard:
                self._nft.apply(render.delete(guard))
        except BaseException:
            self.in_force = ""
            raise
        self._generation, self._suspect = self._nft.generation(), False
        return _count(changes)

    def _number(self, table: str) -> int | None:
        """Return a table's generation; 0: it is not whole; None: it is not there."""
        held = self._nft.elements(render.FAMILY, table, render.GENERATION)
        if held is None:
            return None
        return max((struct.unpack("=I", e.key)[0] for e in held), default=0)

    def _everything(self) -> Changed:
        table = self._table
        maps = tuple(table.dispatch_maps())
        return Changed(
            set(table.chain_names()),
            set(table.sets),
            {name: set(table.element_keys(name)) for name in (*table.sets, *maps)},
        )

    # --- what to write, in an order that never refers to what is not there

    def _changes(self, changed: Changed) -> list[Change]:
        name, maps = self.in_force, set(self._table.dispatch_maps())
        wanted, gone = self._sort_chains(changed.chains)
        new_sets = sorted(s for s in changed.sets if s in self._table.sets and s not in self._sets)
        old_sets = sorted(s for s in changed.sets if s not in self._table.sets and s in self._sets)
        for again in changed.sets & self._table.sets.keys() & self._sets:
            # It went and came back since the last round: what it held before is not among the changed keys.
            keys = changed.elements.setdefault(again, set())
            keys.update(self._table.element_keys(again), self._elements.get(again, ()))
        changes: list[Change] = [SetChange(render.FAMILY, name, s, self._table.sets[s]) for s in new_sets]
        data = [self._elements_of(s, keys) for s, keys in changed.elements.items() if s not in maps]
        leads = [self._elements_of(s, keys) for s, keys in changed.elements.items() if s in maps]
        changes += [c for c in data if c is not None]
        changes += wanted
        changes += [c for c in leads if c is not None]
        changes += gone
        changes += [SetChange(render.FAMILY, name, s, None) for s in old_sets]
        return changes

    def _sort_chains(self, names: Iterable[str]) -> tuple[list[Change], list[Change]]:
        wanted, gone = [], []
        for name in names:
            plan = self._table.chain(name)
            if plan is not None:
                wanted.append((plan.rank, name, plan.rules))
            elif name in self._chains:
                gone.append((-self._chains[name], name))
        made: list[Change] = [ChainChange(render.FAMILY, self.in_force, n, rules) for _, n, rules in sorted(wanted)]
        return made, [ChainChange(render.FAMILY, self.in_force, n, None) for _, n in sorted(gone)]

    def _elements_of(self, name: str, keys: Iterable[bytes]) -> ElementChange | None:
        held = self._elements.get(name, {})
        add, delete = [], []
        for key in sorted(keys):
            old, new = held.get(key), self._table.element(name, key)
            if old == new:
                continue
            if old is not None:
                delete.append(old)
            if new is not None:
                add.append(new)
        if not add and not delete:
            return None
        return ElementChange(render.FAMILY, self.in_force, name, tuple(add), tuple(delete))

    def _write(self, changes: list[Change]) -> None:
        self._nft.change(changes)
        for change in changes:
            match change:
                case ElementChange(_, _, name, add, delete) if name != render.GENERATION:
                    held = self._elements.setdefault(name, {})
                    for e in delete:
                        del held[e.key]
                    for e in add:
                        held[e.key] = e
                case ChainChange(_, _, name, None):
                    del self._chains[name]
                case ChainChange(_, _, name, _):
                    plan = self._table.chain(name)
                    self._chains[name] = plan.rank if plan is not None else 0
                case SetChange(_, _, name, None):
                    self._sets.discard(name)
                    self._elements.pop(name, None)
                case SetChange(_, _, name, _):
                    self._sets.add(name)


def _count(changes: Iterable[Change]) -> int:
    return sum(len(c.add) + len(c.delete) if isinstance(c, ElementChange) else 1 for c in changes)
