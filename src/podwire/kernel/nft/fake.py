"""nftables in memory: tables, sets and chains by name, elements by key, rules as values. No rule is run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from podwire.kernel.nft.port import ChainChange, Change, Element, ElementChange, FilterRule, Rule, SetChange
from podwire.model.errors import AlreadyInUse, MachineError
from podwire.wire.nffilter import InSet

_TOKEN = re.compile(r'"[^"]*"|[{};]|[^\s{};"]+')
_Sets = dict[str, dict[bytes, Element]]


class FakeNft:
    """``NftPort`` that keeps what it is told. ``scripts``, ``changes`` and ``rules`` record every call."""

    def __init__(self) -> None:
        self.scripts: list[str] = []
        self.changes: list[tuple[Change, ...]] = []
        self.filters: dict[tuple[str, str, str], tuple[FilterRule, ...]] = {}
        self.rules: list[Rule] = []
        self.tables: dict[tuple[str, str], _Sets] = {}
        self.chains: dict[tuple[str, str], set[str]] = {}
        self.fail_next: MachineError | None = None
        self._generation = 1
        self._text: dict[tuple[str, str], str] = {}

    def apply(self, script: str) -> None:
        """Understand `table F T {...}` and add/delete/destroy/flush of tables; keep the text of the rest."""
        self._maybe_fail()
        tokens = _TOKEN.findall("\n".join(line.split("#")[0] for line in script.splitlines()))
        tables = {name: {s: dict(e) for s, e in sets.items()} for name, sets in self.tables.items()}
        chains = {name: set(c) for name, c in self.chains.items()}
        _Script(tokens, tables, chains).run()
        self.tables, self.chains = tables, chains
        self.filters = {where: rules for where, rules in self.filters.items() if where[2] in chains.get(where[:2], ())}
        for table in tables:
            self._text[table] = script
        self.scripts.append(script)
        self._generation += 1

    def change(self, changes: Sequence[Change]) -> None:
        """Apply the changes, all or none."""
        self._maybe_fail()
        tables = dict(self.tables)
        chains = {name: set(c) for name, c in self.chains.items()}
        rules = dict(self.filters)
        for change in changes:
            table = (change.family, change.table)
            if table not in tables:
                raise _error("change", f"{change.family} {change.table}", "No such file or directory")
            if isinstance(change, ChainChange):
                _change_chain(change, chains[table], tables[table], rules)
                continue
            tables[table] = dict(tables[table])
            if isinstance(change, SetChange):
                _change_set(change, tables[table], rules)
                continue
            if change.set not in tables[table]:
                raise _error("change", f"{change.family} {change.table} {change.set}", "No such file or directory")
            tables[table][change.set] = self._changed(change, dict(tables[table][change.set]), chains[table])
        self.tables, self.chains, self.filters = tables, chains, rules
        self.changes.append(tuple(changes))
        self._generation += 1

    def _changed(self, change: ElementChange, held: dict[bytes, Element], chains: set[str]) -> dict[bytes, Element]:
        where = f"{change.family} {change.table} {change.set}"
        for e in change.delete:
            if held.pop(e.key + (e.key_end or b""), None) is None:
                raise _error("delete element from", f"{where}: {e.comment or e.key.hex()}", "No such file or directory")
        for e in change.add:
            key = e.key + (e.key_end or b"")
            old = held.get(key)
            if old is not None and (old.value, old.verdict) != (e.value, e.verdict):
                raise AlreadyInUse(
                    "kernel/nft", "add element to", f"{where}: {e.comment or e.key.hex()}", "File exists"
                )
            word, _, chain = e.verdict.partition(" ")
            if word in ("jump", "goto") and chain not in chains:
                raise _error("add element to", f"{where}: {chain}", "No such file or directory")
            held[key] = e if old is None else old
        return held

    def append(self, rules: Sequence[Rule]) -> None:
        """Note the rules in ``rules``, all or none."""
        self._maybe_fail()
        for rule in rules:
            if rule.chain not in self.chains.get((rule.family, rule.table), ()):
                raise _error("add rule to", f"{rule.family} {rule.table} {rule.chain}", "No such file or directory")
        self.rules += rules
        self._generation += 1

    def elements(self, family: str, table: str, set: str) -> tuple[Element, ...] | None:
        """Return the elements; None when there is no such set."""
        held = self.tables.get((family, table), {}).get(set)
        return None if held is None else tuple(held.values())

    def generation(self) -> int:
        """Return the count of transactions."""
        return self._generation

    def list_table(self, family: str, table: str) -> str | None:
        """Return the script that last mentioned the table; None when there is no such table."""
        return self._text.get((family, table)) if (family, table) in self.tables else None

    def close(self) -> None:
        """Nothing to close."""

    def _maybe_fail(self) -> None:
        failure, self.fail_next = self.fail_next, None
        if failure is not None:
            raise failure


def _change_chain(
    change: ChainChange, chains: set[str], sets: _Sets, rules: dict[tuple[str, str, str], tuple[FilterRule, ...]]
) -> None:
    where = (change.family, change.table, change.chain)
    if change.rules is None:
        if change.chain not in chains:
            raise _error("delete chain", " ".join(where), "No such file or directory")
        chains.discard(change.chain)
        rules.pop(where, None)
        if any(f"{r.verdict} ".split()[1:] == [change.chain] for rs in rules.values() for r in rs):
            raise _error("delete chain", " ".join(where), "Device or resource busy")
        return
    chains.add(change.chain)
    for rule in change.rules:
        missing = [m.set for m in rule.matches if isinstance(m, InSet) and m.set not in sets]
        missing += [c for c in rule.verdict.split()[1:] if c not in chains]
        if missing:
            raise _error("add rule to", f"{' '.join(where)}: {missing[0]}", "No such file or directory")
    rules[where] = change.rules


def _change_set(change: SetChange, sets: _Sets, rules: dict[tuple[str, str, str], tuple[FilterRule, ...]]) -> None:
    if change.kind is not None:
        sets.setdefault(change.set, {})
        return
    name = f"{change.family} {change.table} {change.set}"
    if change.set not in sets:
        raise _error("delete set", name, "No such file or directory")
    used = (
        m for (f, t, _), rs in rules.items() if (f, t) == (change.family, change.table) for r in rs for m in r.matches
    )
    if any(isinstance(m, InSet) and m.set == change.set for m in used):
        raise _error("delete set", name, "Device or resource busy")
    del sets[change.set]


class _Script:
    """As much of nft's grammar as names tables, sets and chains."""

    def __init__(
        self, tokens: list[str], tables: dict[tuple[str, str], _Sets], chains: dict[tuple[str, str], set[str]]
    ) -> None:
        self._tokens, self._at, self._tables, self._chains = tokens, 0, tables, chains

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise _error("apply", "script", "syntax error, unexpected end of file")
        self._at += 1
        return self._tokens[self._at - 1]

    def run(self) -> None:
        while self._at < len(self._tokens):
            verb = self._next()
            if verb == ";":
                continue
            if verb == "table":
                self._table("add")
            elif verb in ("add", "create", "delete", "destroy", "flush") and self._peek() == "table":
                self._next()
                self._table(verb)
            elif verb in ("add", "create", "delete", "destroy", "flush", "insert"):
                self._statement(verb)
            else:
                raise _error("apply", "script", f"syntax error, unexpected {verb}")

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _table(self, verb: str) -> None:
        family, name = self._next(), ""
        if family in ("ip", "ip6", "inet", "arp", "bridge", "netdev"):
            name = self._next()
        else:
            family, name = "ip", family
        key = (family, name)
        if verb in ("delete", "flush") and key not in self._tables:
            raise _error("apply", "script", "No such file or directory")
        if verb in ("delete", "destroy"):
            self._tables.pop(key, None)
            self._chains.pop(key, None)
        elif verb in ("add", "create"):
            self._tables.setdefault(key, {})
            self._chains.setdefault(key, set())
            if self._peek() == "{":
                self._next()
                self._body(key)

    def _body(self, table: tuple[str, str]) -> None:
        while (word := self._next()) != "}":
            if word in ("set", "map") and self._tokens[self._at + 1 : self._at + 2] == ["{"]:
                self._tables[table].setdefault(self._next(), {})
                self._skip_block()
            elif word == "chain":
                self._chains[table].add(self._next())
                self._skip_block()

    def _skip_block(self) -> None:
        if self._next() != "{":
            raise _error("apply", "script", "syntax error, expected '{'")
        depth = 1
        while depth:
            depth += {"{": 1, "}": -1}.get(self._next(), 0)

    def _statement(self, verb: str) -> None:
        kind, family, table, name = self._next(), self._next(), self._next(), self._next()
        if (family, table) not in self._tables:
            raise _error("apply", "script", "No such file or directory")
        if kind == "chain" and verb in ("add", "create"):
            self._chains[family, table].add(name)
        elif kind in ("set", "map") and verb in ("add", "create"):
            self._tables[family, table].setdefault(name, {})
        if self._peek() == "{":
            self._skip_block()
        line_words = 0
        while self._peek() not in ("", ";") and kind == "rule" and line_words < 200:
            if self._peek() in ("add", "delete", "table", "flush", "destroy", "create"):
                break
            self._next()
            line_words += 1


def _error(act: str, object: str, cause: str) -> MachineError:
    return MachineError("kernel/nft", act, object, cause)
