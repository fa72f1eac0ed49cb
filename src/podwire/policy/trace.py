"""Walk a packet through rendered rules, as the kernel would. Pure: one of the judges that must agree.

The rules are read as values and the sets as they were programmed; nothing here knows what a policy is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podwire.kernel.nft.port import Element, FilterRule
from podwire.policy.rules import IPAddress
from podwire.policy.table import DISPATCH, ITSELF, UNKNOWN
from podwire.wire.nffilter import InNetwork, InSet, Match, OfProtocol

_MAX_DEPTH = 16  # as the kernel's


@dataclass(frozen=True, slots=True)
class Probe:
    """The first packet of a connection. ``port`` is of no account where the protocol has none."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    port: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether it passed, and the comment of the rule that had the last word in each direction that was judged."""

    passed: bool
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Chains and sets of one node's table, by name."""

    chains: Mapping[str, Sequence[FilterRule]]
    sets: Mapping[str, Mapping[bytes, Element]]


def trace(rules: Ruleset, probe: Probe) -> Outcome:
    """Return what a node's table does with the first packet of a connection that it forwards."""
    words: list[str] = []
    six = "6" if probe.source.version == 6 else ""
    if probe.source.packed + probe.destination.packed in rules.sets[ITSELF + six]:
        return Outcome(True, ("a pod always reaches itself",))
    for direction, address in (("egress", probe.source), ("ingress", probe.destination)):
        lead = rules.sets[DISPATCH[direction] + six].get(address.packed)
        if lead is not None:
            word, _, chain = lead.verdict.partition(" ")
            verdict, said = (word, lead.comment) if word != "goto" else _walk(rules, chain, probe, 1)
        else:
            verdict, said = _walk(rules, UNKNOWN[direction], probe, 1)
        if said:
            words.append(said)
        if verdict == "drop":
            return Outcome(False, tuple(words))
    return Outcome(True, tuple(words))


def _walk(rules: Ruleset, chain: str, probe: Probe, depth: int) -> tuple[str, str]:
    """Return the verdict of a chain, "return" when it has none, and the comment of the rule that gave it."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"chain {chain}: jumps nest too deep for the kernel")
    for rule in rules.chains[chain]:
        if not all(_matches(rules, m, probe) for m in rule.matches):
            continue
        word, _, target = rule.verdict.partition(" ")
        if word not in ("jump", "goto"):
            return word, rule.comment
        verdict, said = _walk(rules, target, probe, depth + 1)
        if verdict != "return" or word == "goto":
            return verdict, said
    return "return", ""


def _matches(rules: Ruleset, match: Match, probe: Probe) -> bool:
    addresses = {"saddr": probe.source, "daddr": probe.destination}
    match match:
        case InSet(version, fields, name):
            if probe.source.version != version or ("dport" in fields and probe.protocol not in (6, 17, 132)):
                return False
            parts = [addresses[f].packed if f != "dport" else _port(probe) for f in fields]
            return b"".join(parts) in rules.sets[name]
        case InNetwork(field, network, negated):
            address = addresses[field]
            return address.version == network.version and (address in network) != negated
        case OfProtocol(protocol):
            return probe.protocol == protocol
        case _:
            return match.first <= probe.port <= match.last


def _port(probe: Probe) -> bytes:
    return probe.port.to_bytes(2, "big") + b"\0\0"
