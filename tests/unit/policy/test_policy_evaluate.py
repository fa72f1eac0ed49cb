"""Every edge of the policy kinds (tests/support/policy_cases.py), judged by the model."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from policy_cases import ALLOW, DENY, TABLE, WEB80, cnp, netpol, packet, world

from podwire.policy.evaluate import Packet, evaluate


@pytest.mark.parametrize(
    ("policies", "text", "allowed", "why"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_edge(policies: list[str], text: str, allowed: bool, why: str) -> None:
    snapshot = world(*policies)
    verdict = evaluate(snapshot, packet(snapshot, text))
    assert verdict.allowed is allowed, str(verdict)
    assert why in str(verdict.deciding), str(verdict)


def test_names_of_rows_are_distinct() -> None:
    assert len({row[0] for row in TABLE}) == len(TABLE)


DENY_ALL = [netpol("{podSelector: {}, policyTypes: [Ingress, Egress]}")]


@pytest.mark.parametrize(("live", "allowed"), [("keep", ALLOW), ("strict", DENY)])
def test_open_connections_by_option(live: str, allowed: bool) -> None:
    snapshot = world(*DENY_ALL)
    opened = packet(snapshot, WEB80)
    later = Packet(opened.src, opened.dst, opened.protocol, opened.port, established=True)
    assert evaluate(snapshot, later, live).allowed is allowed  # type: ignore[arg-type]


def test_domain_names_are_what_they_resolved_to() -> None:
    rule = "egress: [{action: Accept, to: [{domainNames: ['*.example.org']}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]"
    known = {
        "api.example.org.": frozenset([ip_address("203.0.113.9")]),
        "example.org.": frozenset([ip_address("203.0.113.7")]),
    }
    snapshot = world(cnp(rule), names=known)
    assert evaluate(snapshot, packet(snapshot, "a/cli > 203.0.113.9 443/TCP")).allowed
    assert not evaluate(snapshot, packet(snapshot, "a/cli > 203.0.113.7 443/TCP")).allowed


def test_domain_names_with_deny_fail_closed() -> None:
    snapshot = world(cnp("egress: [{action: Deny, to: [{domainNames: [example.org]}]}]"))
    assert not evaluate(snapshot, packet(snapshot, "a/cli > 198.51.100.1 443/TCP")).allowed
