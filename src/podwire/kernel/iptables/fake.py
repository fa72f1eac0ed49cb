"""iptables in memory: tables of chains of rule lines. No rule is run."""

from __future__ import annotations

from podwire.model.errors import MachineError

_BUILTIN = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}
Tables = dict[str, dict[str, list[str]]]


class FakeIptables:
    """``IptablesPort`` that keeps what it is told. ``scripts`` records every restore."""

    def __init__(self) -> None:
        self.tables: dict[int, Tables] = {4: {}, 6: {}}
        self.scripts: list[tuple[int, str]] = []
        self.fail_next: MachineError | None = None

    def restore(self, version: int, script: str) -> None:
        """Apply a script; each table is one transaction."""
        failure, self.fail_next = self.fail_next, None
        if failure is not None:
            raise failure
        self.scripts.append((version, script))
        name, table = "", dict[str, list[str]]()
        for line in script.splitlines():
            if line.startswith("*"):
                name = line[1:]
                held = self.tables[version].get(name) or {c: [] for c in _BUILTIN[name]}
                table = {chain: list(rules) for chain, rules in held.items()}
            elif line == "COMMIT":
                self._check(name, table)
                self.tables[version][name] = table
            elif line and not line.startswith("#"):
                _apply(table, line)

    def _check(self, name: str, table: dict[str, list[str]]) -> None:
        for chain, rules in table.items():
            for rule in rules:
                target = _target(rule)
                if target.startswith(("KUBE-", "PODWIRE-")) and target not in table:
                    raise _error(f"{name} {chain}: no chain {target}")

    def save(self, version: int) -> str:
        """Return every table as `iptables-save` prints it."""
        lines = []
        for name, table in self.tables[version].items():
            lines.append(f"*{name}")
            lines += [f":{chain} {'ACCEPT' if chain in _BUILTIN[name] else '-'} [0:0]" for chain in table]
            lines += [f"-A {chain} {rule}" for chain, rules in table.items() for rule in rules]
            lines.append("COMMIT")
        return "\n".join(lines) + "\n" if lines else ""

    def close(self) -> None:
        """Nothing to close."""


def _apply(table: dict[str, list[str]], line: str) -> None:
    if line.startswith(":"):
        table[line[1:].split()[0]] = []
        return
    verb, chain, *rest = line.split(" ", 2)
    if chain not in table:
        raise _error(f"no chain {chain}")
    rule = rest[0] if rest else ""
    if verb == "-A":
        table[chain].append(rule)
    elif verb == "-I":
        position, _, rule = rule.partition(" ")
        table[chain].insert(int(position) - 1, rule)
    elif verb == "-D":
        if rule not in table[chain]:
            raise _error(f"{chain} has no such rule: {rule}")
        table[chain].remove(rule)
    elif verb == "-X":
        if table[chain] or any(chain == _target(r) for rules in table.values() for r in rules):
            raise _error(f"{chain} is in use")
        del table[chain]
    else:
        raise _error(f"unknown command {verb}")


def _target(rule: str) -> str:
    return rule.rpartition("-j ")[2].split()[0] if "-j " in rule else ""


def _error(cause: str) -> MachineError:
    return MachineError("kernel/iptables", "restore", "rules", cause)
