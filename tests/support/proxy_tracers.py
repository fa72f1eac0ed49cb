"""Packet tracers: walk the first packet of a connection through rendered rules, as a kernel would.

Both follow every branch that chance may take and return each end that a packet can come to.
"""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

from podwire.proxy.desired import IPAddress, Target
from podwire.proxy.evaluate import Outcome, Packet, Place

WORDS = {6: "tcp", 17: "udp", 132: "sctp"}


@dataclass(frozen=True)
class State:
    """A packet on its way."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    port: int
    mark: int = 0
    rewritten: bool = False
    masqueraded: bool = False


Ends = set[tuple[str, State]]
"""(verdict, state): "" for a packet that came to a chain's end."""


def outcome(ends: Ends) -> Outcome:
    """Return what the ends amount to; a mixture of verdicts is a broken ruleset."""
    verdicts = {
        verdict if verdict in ("drop", "reject") else "forward" if s.rewritten else "pass" for verdict, s in ends
    }
    if len(verdicts) != 1:
        raise AssertionError(f"the verdict depends on chance: {ends}")
    (verdict,) = verdicts
    if verdict != "forward":
        return Outcome(verdict)  # type: ignore[arg-type]
    targets = {Target(s.destination, s.port) for _, s in ends}
    return Outcome(
        "forward", frozenset(targets), frozenset(Target(s.destination, s.port) for _, s in ends if s.masqueraded)
    )


# --- iptables


class IptablesTracer:
    """Over the chains of FakeIptables, one IP version."""

    def __init__(self, tables: Mapping[str, Mapping[str, list[str]]], place: Place) -> None:
        self._place = place
        self._chains = {
            (t, c): [shlex.split(r) for r in rules] for t, chains in tables.items() for c, rules in chains.items()
        }

    def trace(self, packet: Packet) -> Outcome:
        first = State(packet.source, packet.destination, packet.protocol, packet.port)
        at_home = packet.source in self._place.own
        ends: Ends = set()
        for _, translated in self._walk("nat", "OUTPUT" if at_home else "PREROUTING", first):
            to_node = translated.destination in self._place.own
            for hook in (
                ("OUTPUT", "INPUT")
                if at_home and to_node
                else ("OUTPUT",)
                if at_home
                else ("INPUT" if to_node else "FORWARD",)
            ):
                after = self._walk("filter", hook, translated)
                if any(v in ("drop", "reject") for v, _ in after):
                    break
            for verdict, filtered in after:
                if verdict in ("drop", "reject"):
                    ends.add((verdict, filtered))
                else:
                    ends |= self._walk("nat", "POSTROUTING", filtered)
        return outcome(ends)

    def _walk(self, table: str, chain: str, state: State) -> Ends:
        ends: Ends = set()
        going = [state]
        for rule in self._chains.get((table, chain), ()):
            left = []
            for s in going:
                for matched in self._match(rule, s):
                    if not matched:
                        left.append(s)
                        continue
                    for verdict, after in self._act(table, rule, s):
                        left.append(after) if verdict == "" else ends.add(
                            (verdict if verdict != "return" else "", after)
                        )
            going = left
        return ends | {("", s) for s in going}

    def _match(self, rule: list[str], s: State) -> tuple[bool, ...]:
        """Return whether the rule matches; both, where chance decides."""
        both, negate, words = False, False, iter(rule)
        for word in words:
            if word == "!":
                negate = True
                continue
            if word in ("-s", "-d"):
                ok = (s.source if word == "-s" else s.destination) in ip_network(next(words))
            elif word == "-p":
                ok = next(words) == WORDS[s.protocol]
            elif word == "--dport":
                ok = int(next(words)) == s.port
            elif word == "--ctstate":
                ok = "NEW" in next(words).split(",")
            elif word in ("--dst-type", "--src-type"):
                next(words)
                ok = (s.source if word == "--src-type" else s.destination) in self._place.own
            elif word == "--mark":
                value, mask = (int(n, 16) for n in next(words).split("/"))
                ok = s.mark & mask == value
            elif word == "--rcheck":
                ok = False  # nobody has been here before
            elif word == "--probability":
                next(words)
                both, ok = True, True
            elif word == "-j":
                break
            else:
                if word in ("-m", "--comment", "--mode", "--name", "--mask", "--seconds"):
                    next(words)
                continue
            if ok == negate:
                return (False,)
            negate = False
        return (True, False) if both else (True,)

    def _act(self, table: str, rule: list[str], s: State) -> Ends:
        jump, *rest = rule[rule.index("-j") + 1 :]
        match jump:
            case "DROP" | "REJECT" | "RETURN" | "ACCEPT":
                return {(jump.lower(), s)}
            case "MARK":
                value, mask = (int(n, 16) for n in rest[1].split("/"))
                return {("", replace(s, mark=s.mark & ~mask ^ value))}
            case "MASQUERADE":
                return {("accept", replace(s, masqueraded=True))}
            case "DNAT":
                address, _, port = rest[1].rpartition(":")
                return {
                    ("accept", replace(s, destination=ip_address(address.strip("[]")), port=int(port), rewritten=True))
                }
        return self._walk(table, jump, s)


# --- nftables


class NftTracer:
    """Over the skeleton that FakeNft was given last, the chains added since, and its elements."""

    def __init__(self, scripts: list[str], sets: Mapping[str, Mapping[bytes, Any]], place: Place) -> None:
        self._place, self._sets = place, sets
        self._chains: dict[str, list[str]] = {}
        self._static: dict[str, list[Any]] = {}
        for script in scripts:
            self._read(script)
        self._networks: dict[str, list[tuple[bytes, bytes]]] = {
            name: [(e.key, e.key_end) for e in held.values()]
            for name, held in sets.items()
            if name.startswith("allowed-sources")
        }

    def _read(self, script: str) -> None:
        chain = None
        for line in map(str.strip, script.splitlines()):
            words = line.split()
            if line.startswith("chain ") and line.endswith("{"):
                chain = self._chains.setdefault(words[1], [])
                chain.clear()
            elif line.startswith("add chain "):
                self._chains[words[4]] = []
            elif line.startswith("add rule "):
                self._chains[words[4]].append(line.split(" ", 5)[5])
            elif line.startswith("set ") and "networks" in words[1]:
                found = re.search(r"elements = \{(.*?)\}", line)
                self._static[words[1]] = [ip_network(n.strip()) for n in found[1].split(",")] if found else []
            elif line == "}":
                chain = None
            elif chain is not None and line and not line.startswith("type "):
                chain.append(line)

    def trace(self, packet: Packet) -> Outcome:
        first = State(packet.source, packet.destination, packet.protocol, packet.port)
        at_home = packet.source in self._place.own
        early = "output" if at_home else "prerouting"
        going: Ends = {("", first)}
        for hook in (f"{early}-sources", early):
            going = self._through(hook, going)
        settled: Ends = set()
        for end in going:
            to_node = end[1].destination in self._place.own
            hooks = ["output-unserved"] * at_home + (["input"] if to_node else [] if at_home else ["forward"])
            one: Ends = {end}
            for hook in hooks:
                one = self._through(hook, one)
            settled |= one
        return outcome(self._through("postrouting", settled))

    def _through(self, chain: str, ends: Ends) -> Ends:
        after: Ends = set()
        for verdict, s in ends:
            after |= {(verdict, s)} if verdict in ("drop", "reject") else self._walk(chain, s)[0]
        return after

    def _walk(self, chain: str, state: State) -> tuple[Ends, set[State]]:
        """Return the ends, and the states that come back to the caller's next rule."""
        ends: Ends = set()
        going, back = {state}, set[State]()
        for rule in self._chains[chain]:
            after: set[State] = set()
            for s in going:
                for verdict, t in self._rule(rule, s):
                    word, _, to = verdict.partition(" ")
                    if word == "":
                        after.add(t)
                    elif word == "return":
                        back.add(t)
                    elif word in ("jump", "goto"):
                        inner, returned = self._walk(to, t)
                        ends |= {e for e in inner if e[0] != ""}
                        (after if word == "jump" else back).update(returned)
                    else:
                        ends.add((verdict, t))
            going = after
        back |= going
        return ends | {("", s) for s in back}, back

    def _rule(self, rule: str, s: State) -> Iterator[tuple[str, State]]:
        """Yield (verdict, state): "" goes on with the next rule."""
        words = rule.split()
        while words:
            size, ok, done = self._statement(words, s)
            if done is not None:
                yield from done
                return
            if isinstance(ok, State):
                s = ok
            elif not ok:
                yield "", s
                return
            words = words[size:]
        yield "", s

    def _statement(self, w: list[str], s: State) -> tuple[int, bool | State, list[tuple[str, State]] | None]:
        text = " ".join(w)
        version = s.source.version
        simple = {
            "ct state new": not s.rewritten or True,
            "ct status dnat": s.rewritten,
            "fib saddr type local": s.source in self._place.own,
        }
        for words, ok in simple.items():
            if text.startswith(words + " "):
                return len(words.split()), ok, None
        if text.startswith("meta nfproto "):
            return 3, w[2] == f"ipv{version}", None
        if text.startswith("meta l4proto ") and w[2] in WORDS.values():
            return 3, w[2] == WORDS[s.protocol], None
        if text.startswith("meta mark set meta mark "):
            value = int(w[6], 16)
            return 7, replace(s, mark=s.mark | value if w[5] == "or" else s.mark ^ value), None
        if text.startswith("meta mark & "):
            return 6, s.mark & int(w[3], 16) == int(w[5], 16), None
        if w[0] in ("drop", "return") or w[0] in ("jump", "goto"):
            return 1, True, [(" ".join(w[:2]) if w[0] in ("jump", "goto") else w[0], s)]
        if w[0] == "reject":
            return 1, True, [("reject", s)]
        if w[0] == "masquerade":
            return 1, True, [("accept", replace(s, masqueraded=True))]
        if w[0] == "dnat":
            return len(w), True, self._dnat(text.split(" to ", 1)[1], s)
        return self._lookup(text, s)

    def _lookup(self, text: str, s: State) -> tuple[int, bool | State, list[tuple[str, State]] | None]:
        found = re.match(r"((?:[a-z0-9]+ [a-z0-9]+)(?: \. [a-z0-9]+ [a-z0-9]+)*) (vmap |!= )?@([a-z0-9-]+)", text)
        assert found is not None, text
        keys, how, name = found[1], (found[2] or "").strip(), found[3]
        if (
            keys.split()[0] not in ("meta", "th")
            and keys.startswith("ip")
            and keys.split()[0] != ("ip6" if s.source.version == 6 else "ip")
        ):
            return len(found[0].split()), False, None
        if name in self._static or name.rstrip("6") in ("pod-networks", "service-networks"):
            address = s.source if keys.endswith("saddr") else s.destination
            inside = any(address in n for n in self._static.get(name, ()))
            return len(found[0].split()), inside != (how == "!="), None
        key = b"".join(self._field(f, s) for f in keys.split(" . "))
        if how == "vmap":
            element = self._sets[name].get(key)
            return 0, True, [(element.verdict, s) if element is not None else ("", s)]
        if name in self._networks:
            inside = any(
                low <= key <= high
                for low, high in self._networks[name]
                if key[: -len(s.source.packed)] == low[: -len(s.source.packed)]
            )
            return len(found[0].split()), inside != (how == "!="), None
        return len(found[0].split()), (key in self._sets[name]) != (how == "!="), None

    def _field(self, field: str, s: State) -> bytes:
        match field:
            case "ip daddr" | "ip6 daddr":
                return s.destination.packed
            case "ip saddr" | "ip6 saddr":
                return s.source.packed
            case "meta l4proto":
                return struct.pack("B3x", s.protocol)
        return struct.pack(">H2x", s.port)

    def _dnat(self, text: str, s: State) -> list[tuple[str, State]]:
        fields, _, name = text.partition(" map @")
        if name.startswith("affinity"):
            return [("", s)]  # nobody has been here before
        protocol = re.search(r"(tcp|udp|sctp) dport", fields)
        assert protocol is not None
        if protocol[1] != WORDS[s.protocol]:
            return [("", s)]
        count = int(fields.rpartition(" ")[2])
        found = []
        for index in range(count):
            key = s.destination.packed + struct.pack(">H2x", s.port) + struct.pack("=I", index)
            element = self._sets[name].get(key)
            if element is None:
                found.append(("", s))
                continue
            size = len(s.destination.packed)
            port = struct.unpack_from(">H", element.value, size)[0]
            found.append(
                ("accept", replace(s, destination=ip_address(element.value[:size]), port=port, rewritten=True))
            )
        return found
