"""`podwire dns query`: the resolver's order, and the reasons."""

from __future__ import annotations

import dnsworld
import pytest

from podwire.dns.walk import ResolvConf, candidates, parse_resolv_conf, walk

POD = """search default.svc.cluster.local svc.cluster.local cluster.local
nameserver 10.96.0.10
options ndots:5
"""
SEARCH = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local")


def test_resolv_conf() -> None:
    assert parse_resolv_conf(POD) == ResolvConf(("10.96.0.10",), SEARCH, 5)
    assert parse_resolv_conf("nameserver 192.0.2.1") == ResolvConf(("192.0.2.1",), (), 1)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("web", ["web.default.svc.cluster.local.", "web.svc.cluster.local.", "web.cluster.local.", "web."]),
        ("web.", ["web."]),
        ("a.b.c.d.e.f", ["a.b.c.d.e.f.", "a.b.c.d.e.f.default.svc.cluster.local.",
                         "a.b.c.d.e.f.svc.cluster.local.", "a.b.c.d.e.f.cluster.local."]),
    ],
)  # fmt: skip
def test_order(name: str, order: list[str]) -> None:
    assert candidates(name, parse_resolv_conf(POD)) == order


@pytest.mark.parametrize(
    ("name", "verdicts", "why"),
    [
        ("web", ["NOERROR"], "from Service default/web"),
        ("kube-dns.kube-system", ["NXDOMAIN", "NOERROR"], "from Service kube-system/kube-dns"),
        ("nope", ["NXDOMAIN", "NXDOMAIN", "NXDOMAIN", "FORWARDED"], "asked of the upstream resolvers"),
        ("web.nowhere.svc.cluster.local.", ["NXDOMAIN"], "there is no namespace 'nowhere'"),
        ("pending.default.svc.cluster.local.", ["NXDOMAIN"], "no Service 'pending' with an address"),
        ("quiet.svc.cluster.local.", ["NODATA"], "a namespace has no records of its own"),
        ("10-9-9-9.web.default.svc.cluster.local.", ["NXDOMAIN"], "no such port or ready endpoint"),
    ],
)
def test_steps_and_reasons(name: str, verdicts: list[str], why: str) -> None:
    responder = dnsworld.responder(next(c for c in dnsworld.SCENARIOS if c.name == "services"))
    steps = walk(name, "A", parse_resolv_conf(POD), responder)
    assert [s.verdict for s in steps] == verdicts
    assert why in steps[-1].why
