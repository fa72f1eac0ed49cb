"""acl [ZONES...] { allow|block|filter|drop [type QTYPE...] [net SOURCE...] }: who may ask what.

The first rule that speaks of a query counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from podwire.dns.responder import Outcome, Plugin, Query, Responder, Step
from podwire.dns.words import Directive, Word, wrong
from podwire.wire import dns as wire

_ACTIONS = ("allow", "block", "filter", "drop")
_BLOCKED = (15, "blocked by acl")  # RFC 8914


@dataclass(frozen=True, slots=True)
class AclRule:
    """One line. Empty ``types``: any; empty ``nets``: anybody."""

    zones: tuple[bytes, ...]
    action: str
    types: frozenset[int] = frozenset()
    nets: tuple[IPv4Network | IPv6Network, ...] = ()

    def matches(self, name: bytes, type: int, client: str) -> bool:
        """Return whether the rule speaks of this query."""
        if self.types and type not in self.types:
            return False
        if not any(wire.is_within(name, zone) for zone in self.zones):
            return False
        return not self.nets or (bool(client) and any(ip_address(client) in net for net in self.nets))


def parse(d: Directive, source: str) -> tuple[AclRule, ...]:
    """Return the rules. Raises BadInput."""
    zones = tuple(wire.encode_name(z).lower() for z in d.arguments) or (wire.ROOT,)
    return tuple(_parse_rule(line, zones, source) for line in d.block)


def _parse_rule(line: Sequence[Word], zones: tuple[bytes, ...], source: str) -> AclRule:
    if line[0].text not in _ACTIONS:
        raise wrong(source, line[0], f"expected {', '.join(_ACTIONS)}, not {line[0].text!r}")
    types: set[int] = set()
    nets: list[IPv4Network | IPv6Network] = []
    mode = ""
    for word in line[1:]:
        if word.text in ("type", "net"):
            mode = word.text
        elif mode == "type":
            if word.text not in wire.TYPES and word.text != "*":
                raise wrong(source, word, f"{word.text!r} is not a record type; known are {', '.join(wire.TYPES)}")
            types |= {wire.TYPES[word.text]} if word.text != "*" else set()
        elif mode == "net":
            try:
                nets += [ip_network(n) for n in (("0.0.0.0/0", "::/0") if word.text == "*" else (word.text,))]
            except ValueError:
                raise wrong(source, word, f"{word.text!r} is not a network, as 10.244.0.0/16") from None
        else:
            raise wrong(source, word, "expected type QTYPE... or net SOURCE...")
    return AclRule(zones, line[0].text, frozenset(types), tuple(nets))


def plugin(rules: Sequence[AclRule], responder: Responder) -> Plugin:
    """Return what judges a query before anybody answers it."""

    def judge(query: Query, next: Step) -> Outcome:
        asked = query.asked
        rule = next_rule(rules, query)
        if rule is None or rule.action == "allow":
            return next(query)
        if rule.action == "drop":
            return None
        rcode = wire.REFUSED if rule.action == "block" else wire.NOERROR
        return responder.refuse(asked, rcode, query.protocol, _BLOCKED)

    return judge


def next_rule(rules: Sequence[AclRule], query: Query) -> AclRule | None:
    """Return the first rule that speaks of this query; None: it is allowed."""
    return next((r for r in rules if r.matches(query.asked.name, query.asked.type, query.client)), None)
