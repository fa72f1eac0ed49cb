"""Chains, rules and sets changed over netlink: one contract for FakeNft and RealNft, and what `nft list` shows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from podwire.kernel import libc
from podwire.kernel.nft.fake import FakeNft
from podwire.kernel.nft.port import ChainChange, Element, ElementChange, FilterRule, NftPort, SetChange, SetKind
from podwire.kernel.nft.real import RealNft
from podwire.model.errors import MachineError
from podwire.wire.nffilter import InNetwork, InSet, OfProtocol, ToPort, describe_rule

WHERE = ("inet", "t")
RULES = (
    FilterRule((InSet(4, ("saddr",), "s"), OfProtocol(6), ToPort(80, 80)), "accept", "a/b spec.ingress[0]"),
    FilterRule((InSet(6, ("saddr",), "s6"), OfProtocol(17), ToPort(8000, 9000)), "accept", "range"),
    FilterRule(
        (InNetwork("saddr", ip_network("10.0.0.0/12")), InNetwork("saddr", ip_network("10.1.0.0/16"), True)), "drop"
    ),
    FilterRule((InNetwork("daddr", ip_network("fd00::1/128")), OfProtocol(132)), "accept"),
    FilterRule((InNetwork("daddr", ip_network("0.0.0.0/0")),), "accept"),
    FilterRule((OfProtocol(6), InSet(4, ("daddr", "dport"), "np")), "accept"),
    FilterRule((OfProtocol(17), InSet(6, ("daddr", "dport"), "np6")), "return"),
    FilterRule((InSet(6, ("saddr", "daddr"), "self6"),), "goto e"),
    FilterRule((), "jump e"),
    FilterRule((), "drop", "nothing matched"),
)
SETS = (
    SetChange(*WHERE, "s", SetKind(("ipv4_addr",), comment="pods app=web")),
    SetChange(*WHERE, "s6", SetKind(("ipv6_addr",))),
    SetChange(*WHERE, "np", SetKind(("ipv4_addr", "inet_service"))),
    SetChange(*WHERE, "np6", SetKind(("ipv6_addr", "inet_service"))),
    SetChange(*WHERE, "self6", SetKind(("ipv6_addr", "ipv6_addr"))),
    SetChange(*WHERE, "leads", SetKind(("ipv4_addr",), verdicts=True)),
)
ONE = ip_address("10.0.0.1").packed


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kernel)])
def nft(request: pytest.FixtureRequest) -> Iterator[NftPort]:
    if request.param == "fake":
        made: NftPort = FakeNft()
        made.apply("table inet t { }")
        yield made
        return
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc.unshare(libc.CLONE_NEWNET)
    try:
        made = RealNft()
        made.apply("table inet t { }")
        yield made
        made.close()
    finally:
        libc.setns(before, libc.CLONE_NEWNET)
        os.close(before)


def build(nft: NftPort) -> None:
    lead = Element(ONE, verdict="goto in/default/web", comment="default/web")
    nft.change(
        [
            *SETS,
            ElementChange(*WHERE, "s", (Element(ONE, comment="default/web"),)),
            ChainChange(*WHERE, "e", ()),
            ChainChange(*WHERE, "in/default/web", RULES),
            ElementChange(*WHERE, "leads", (lead,)),
        ]
    )


def test_all_of_it_goes_in_one_transaction_and_out_again(nft: NftPort) -> None:
    before = nft.generation()
    build(nft)
    assert nft.generation() == before + 1
    assert nft.elements(*WHERE, "leads") == (Element(ONE, verdict="goto in/default/web", comment="default/web"),)
    nft.change([ElementChange(*WHERE, "leads", (), (Element(ONE),)), ChainChange(*WHERE, "in/default/web", None)])
    nft.change([ChainChange(*WHERE, "e", None), SetChange(*WHERE, "s", None)])
    assert nft.elements(*WHERE, "s") is None
    assert nft.elements(*WHERE, "leads") == ()


def test_a_chain_in_use_cannot_go(nft: NftPort) -> None:
    build(nft)
    with pytest.raises(MachineError, match="delete chain"):
        nft.change([ChainChange(*WHERE, "e", None)])


def test_a_set_in_use_cannot_go(nft: NftPort) -> None:
    build(nft)
    with pytest.raises(MachineError, match="delete set"):
        nft.change([SetChange(*WHERE, "s", None)])


def test_a_rule_needs_its_set_and_names_itself_when_refused(nft: NftPort) -> None:
    rule = FilterRule((InSet(4, ("saddr",), "nowhere"),), "accept", "a/b spec.ingress[0]")
    with pytest.raises(MachineError, match="add rule"):
        nft.change([ChainChange(*WHERE, "fresh", (rule,))])
    # The whole transaction is gone with it.
    with pytest.raises(MachineError):
        nft.change([ElementChange(*WHERE, "leads", (Element(ONE, verdict="goto fresh"),))])


def test_new_rules_take_the_place_of_all_former_ones(nft: NftPort) -> None:
    build(nft)
    nft.change([ChainChange(*WHERE, "in/default/web", (FilterRule((), "accept", "open"),))])
    nft.change([SetChange(*WHERE, "s", None), ChainChange(*WHERE, "e", None)])


@pytest.mark.kernel
def test_nft_lists_each_rule_as_it_is_described() -> None:
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc.unshare(libc.CLONE_NEWNET)
    try:
        nft = RealNft()
        nft.apply("table inet t { }")
        build(nft)
        text = nft.list_table(*WHERE) or ""
        listed = text.partition("chain in/default/web {")[2].partition("}")[0]
        plain = [line.strip().replace("counter packets 0 bytes 0", "counter") for line in listed.strip().splitlines()]
        assert plain == [describe_rule(r) for r in RULES]
        assert 'comment "pods app=web"' in text
        nft.close()
    finally:
        libc.setns(before, libc.CLONE_NEWNET)
        os.close(before)


@pytest.mark.kernel
def test_thousands_of_rules_are_more_than_one_message_and_all_arrive() -> None:
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc.unshare(libc.CLONE_NEWNET)
    try:
        nft = RealNft()
        nft.apply("table inet t { }")
        rules = tuple(FilterRule((OfProtocol(6), ToPort(n, n)), "accept", f"rule {n}") for n in range(1, 6001))
        nft.change([ChainChange(*WHERE, "many", rules)])
        assert (nft.list_table(*WHERE) or "").count("accept") == 6000
        nft.close()
    finally:
        libc.setns(before, libc.CLONE_NEWNET)
        os.close(before)
