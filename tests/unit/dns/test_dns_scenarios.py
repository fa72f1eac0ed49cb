"""Every scenario, answered in memory and read by dnspython: over UDP and TCP, with EDNS and without, in any case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dnsworld
import pytest

from podwire.dns.responder import Forward


def _texts(section: Any) -> list[str]:
    return sorted(f"{dns.rdatatype.to_text(s.rdtype)} {rd.to_text()}" for s in section for rd in s)


def _mixed(name: str) -> str:
    return "".join(c.upper() if i % 3 else c for i, c in enumerate(name))


@pytest.mark.parametrize("case", dnsworld.SCENARIOS, ids=lambda c: c.name)
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("edns", [False, True], ids=["plain", "edns"])
@pytest.mark.parametrize("mixed", [False, True], ids=["lower", "0x20"])
def test_scenario(case: Path, protocol: str, edns: bool, mixed: bool) -> None:
    responder = dnsworld.responder(case)
    for q in dnsworld.questions(case):
        name = _mixed(q.name) if mixed else q.name
        query = dns.message.make_query(name, q.type, use_edns=0 if edns else False)
        raw = responder.respond(query.to_wire(), protocol, q.client)
        where = f"{case.name}: {name} {q.type}"
        if q.rcode in ("FORWARDED", "SILENCE"):
            assert isinstance(raw, Forward) if q.rcode == "FORWARDED" else raw is None, where
            continue
        assert isinstance(raw, bytes), where
        answer = dns.message.from_wire(raw)
        assert query.is_response(answer), where
        assert answer.question[0].name.to_text() == name, where  # 0x20: the case comes back
        assert (answer.edns >= 0) is edns, where
        assert dns.rcode.to_text(answer.rcode()) == ("NOERROR" if q.rcode == "NODATA" else q.rcode), where
        assert _texts(answer.answer) == sorted(q.answer), where
        if q.glue is not None and (edns or protocol == "tcp"):  # a courtesy: it goes first where room is short
            assert _texts(answer.additional) == sorted(q.glue), where
        if q.owner and not mixed:
            assert {s.name.to_text() for s in answer.answer} == {q.owner}, where
        if q.rcode in ("NODATA", "NXDOMAIN") and case.name not in ("plugins", "clients"):
            assert [s.rdtype for s in answer.authority] == [dns.rdatatype.SOA], where  # RFC 2308 §3


def test_the_scenarios_are_there() -> None:
    assert len(dnsworld.SCENARIOS) >= 9
    assert sum(len(dnsworld.questions(c)) for c in dnsworld.SCENARIOS) >= 80
