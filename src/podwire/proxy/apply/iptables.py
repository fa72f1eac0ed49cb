"""The iptables mode: kube-proxy's chains, changed by small restore files, one transaction a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address

from podwire.kernel.iptables.port import IptablesPort
from podwire.model.objects import Key
from podwire.proxy.apply.port import Change, Written
from podwire.proxy.desired import UDP, FrontKey, IPNetwork, ServiceRules, Target
from podwire.proxy.render import iptables as render
from podwire.proxy.render.iptables import Piece, Place

_Chains = dict[Place, tuple[str, ...]]
_TABLES = ("filter", "nat")


class IptablesDataplane:
    """See ``apply.port``. ``generation`` moves when anybody changes the rules of this namespace."""

    def __init__(
        self,
        iptables: IptablesPort,
        versions: Sequence[int],
        pod_networks: Sequence[IPNetwork],
        service_networks: Sequence[IPNetwork],
        generation: Callable[[], int],
    ) -> None:
        self._iptables, self._versions, self._generation_now = iptables, versions, generation
        self._pod_networks, self._service_networks = pod_networks, service_networks
        self._pieces: dict[tuple[int, Key], Piece] = {}
        self._generation = 0
        self._suspect = False

    def adopt(self, rules: Sequence[ServiceRules]) -> Written:
        """Make our chains hold exactly these rules; leave those alone that do already."""
        changed = 0
        orphans: list[tuple[FrontKey, Target]] = []
        pieces: dict[tuple[int, Key], Piece] = {}
        for version in self._versions:
            frame = render.frame(version, self._pod_networks, self._service_networks)
            wanted, lines = dict[Place, tuple[str, ...]](), dict[Place, list[str]]()
            for one in rules:
                piece = pieces[version, one.service] = render.piece(one, version, self._pod_networks)
                wanted.update(piece.chains)
                for place, more in piece.lines.items():
                    lines.setdefault(place, []).extend(more)
            wanted |= {place: (*lines.get(place, ()), *closing) for place, closing in frame.items()}
            held = parse_save(self._iptables.save(version))
            script = _Script()
            changed += _rewrite(script, held, wanted, frame)
            _hook(script, held, render.hooks(version, self._service_networks))
            for place in held:
                if render.is_ours(place) and place not in wanted:
                    changed += 1
                    script.drop(place)
            if script:
                self._iptables.restore(version, script.text())
            orphans += _udp_routes(held) - _udp_routes(wanted)
        self._pieces = pieces
        self._suspect, self._generation = False, self._generation_now()
        return Written(changed, tuple(orphans))

    def update(self, changes: Sequence[Change]) -> Written:
        """Replace the rules of some Services: their own chains whole, single lines in the shared ones."""
        self._suspect = self._suspect or self._generation_now() != self._generation
        changed = 0
        for version in self._versions:
            script = _Script()
            for old_rules, new_rules in changes:
                key = next(r.service for r in (old_rules, new_rules) if r is not None)
                old = self._pieces.get((version, key)) or Piece()
                new = render.piece(new_rules, version, self._pod_networks) if new_rules is not None else Piece()
                changed += _replace(script, old, new)
                self._pieces[version, key] = new
                if not new.chains and not new.lines:
                    del self._pieces[version, key]
            if script:
                self._iptables.restore(version, script.text())
        self._generation = self._generation_now()
        return Written(changed)

    def disturbed(self) -> bool:
        """Return whether somebody else may have changed our rules since the last round."""
        return self._suspect or self._generation_now() != self._generation

    def remove(self) -> None:
        """Delete the chains that this mode makes, and what leads to them."""
        for version in self._versions:
            held = parse_save(self._iptables.save(version))
            script = _Script()
            for place, rules in held.items():
                if render.is_ours(place):
                    script.drop(place)
                else:
                    for rule in rules:
                        if render.is_ours((place[0], _jump(rule))):
                            script.delete(place, rule)
            if script:
                self._iptables.restore(version, script.text())
        self._pieces = {}


class _Script:
    """A restore file in the making: per table, chains to empty, lines, chains to delete."""

    def __init__(self) -> None:
        self._heads: dict[str, dict[str, None]] = {t: {} for t in _TABLES}
        self._body: dict[str, list[str]] = {t: [] for t in _TABLES}
        self._tail: dict[str, list[str]] = {t: [] for t in _TABLES}

    def __bool__(self) -> bool:
        return any(any(part.values()) for part in (self._heads, self._body, self._tail))

    def fill(self, place: Place, rules: Iterable[str]) -> None:
        """Make a chain hold these rules and no others."""
        table, chain = place
        self._heads[table][chain] = None
        self._body[table] += (f"-A {chain} {rule}" for rule in rules)

    def insert(self, place: Place, rule: str, position: int = 1) -> None:
        self._body[place[0]].append(f"-I {place[1]} {position} {rule}")

    def delete(self, place: Place, rule: str) -> None:
        self._body[place[0]].append(f"-D {place[1]} {rule}")

    def drop(self, place: Place) -> None:
        """Empty a chain and delete it; what leads to it must be deleted in the same script."""
        self._heads[place[0]][place[1]] = None
        self._tail[place[0]].append(f"-X {place[1]}")

    def text(self) -> str:
        lines = []
        for table in _TABLES:
            heads, body, tail = self._heads[table], self._body[table], self._tail[table]
            if heads or body or tail:
                lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in heads), *body, *tail, "COMMIT"]
        return "\n".join(lines) + "\n"


def _rewrite(
    script: _Script,
    held: Mapping[Place, tuple[str, ...]],
    wanted: Mapping[Place, tuple[str, ...]],
    frame: Mapping[Place, tuple[str, ...]],
) -> int:
    """Fill the chains that differ; in the frame's the order of Services' lines does not matter, the end does."""
    changed = 0
    for place, rules in wanted.items():
        have = held.get(place)
        end = len(frame.get(place, rules))
        same = have is not None and Counter(have) == Counter(rules) and (not end or have[-end:] == rules[-end:])
        if not same:
            script.fill(place, rules)
            changed += len(set(rules) ^ set(have or ())) or 1
    return changed


def _hook(script: _Script, held: Mapping[Place, tuple[str, ...]], hooks: Mapping[Place, tuple[str, ...]]) -> None:
    """Let the built-in chains begin with our jumps."""
    for place, jumps in hooks.items():
        have = held.get(place, ())
        if tuple(r for r in have if r in jumps) == jumps:
            continue
        for rule in have:
            if render.is_ours((place[0], _jump(rule))):
                script.delete(place, rule)
        for position, rule in enumerate(jumps, start=1):
            script.insert(place, rule, position)


def _replace(script: _Script, old: Piece, new: Piece) -> int:
    """Add what turns one piece into another; return how many lines differ."""
    changed = 0
    for place, rules in new.chains.items():
        before = old.chains.get(place)
        if before != rules:
            script.fill(place, rules)
            changed += len(set(rules) ^ set(before or ()))
    for place in dict.fromkeys((*old.lines, *new.lines)):
        gone, fresh = Counter(old.lines.get(place, ())), Counter(new.lines.get(place, ()))
        for rule in (fresh - gone).elements():
            script.insert(place, rule)
            changed += 1
        for rule in (gone - fresh).elements():
            script.delete(place, rule)
            changed += 1
    for place, rules in old.chains.items():
        if place not in new.chains:
            script.drop(place)
            changed += len(rules)
    return changed


def _jump(rule: str) -> str:
    """Return where a rule leads; "" for nowhere."""
    return rule.rpartition("-j ")[2].split(" ", 1)[0] if "-j " in rule else ""


def parse_save(text: str) -> _Chains:
    """Return the chains of `iptables-save`, each with its rules in order."""
    chains: dict[Place, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            chains[table, line[1:].split(" ", 1)[0]] = []
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            chains.setdefault((table, chain), []).append(rule)
    return {place: tuple(rules) for place, rules in chains.items()}


_REACH = re.compile(r"-d (?P<ip>\S+)/\d+ -p udp .*--dport (?P<port>\d+) -j (?P<chain>KUBE-\S+)")
_DNAT = re.compile(r"-p udp .*-j DNAT --to-destination \[?(?P<ip>[0-9a-f.:]+?)\]?:(?P<port>\d+)$")


def _udp_routes(chains: Mapping[Place, tuple[str, ...]]) -> set[tuple[FrontKey, Target]]:
    """Return every UDP translation that the chains may make."""

    def ends(chain: str, seen: frozenset[str]) -> set[Target]:
        found: set[Target] = set()
        for rule in chains.get(("nat", chain), ()):
            match, jump = _DNAT.search(rule), _jump(rule)
            if match is not None:
                found.add(Target(ip_address(match["ip"]), int(match["port"])))
            elif jump.startswith("KUBE-") and jump not in seen:
                found |= ends(jump, seen | {jump})
        return found

    routes: set[tuple[FrontKey, Target]] = set()
    for chain in ("KUBE-SERVICES", "KUBE-NODEPORTS"):
        for rule in chains.get(("nat", chain), ()):
            match = _REACH.match(rule)
            if match is not None:
                front = FrontKey(ip_address(match["ip"]), UDP, int(match["port"]))
                routes.update((front, t) for t in ends(match["chain"], frozenset({match["chain"]})))
    return routes
