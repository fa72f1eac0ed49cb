"""A small cluster, asked. dnspython reads every answer, so that codec and reader cannot agree on a mistake."""

from __future__ import annotations

import random
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from podwire.dns.index import Index
from podwire.dns.packed import pack_service, pack_slice
from podwire.dns.plan import Zone
from podwire.dns.responder import Forward, Responder
from podwire.model.objects import Key, Obj, key_of
from podwire.wire import dns as wire

ZONE = Zone(wire.encode_name("cluster.local"))


def service(name: str, namespace: str = "default", **spec: Any) -> Obj:
    return {"kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def port(number: int, name: str = "", protocol: str = "TCP") -> Obj:
    return {"port": number, "name": name, "protocol": protocol}


def endpoint(address: str, hostname: str = "", ready: bool = True) -> Obj:
    e: Obj = {"addresses": [address], "conditions": {"ready": ready}}
    return e | {"hostname": hostname} if hostname else e


def piece(*endpoints: Obj, ports: list[Obj] | None = None, family: str = "IPv4") -> Obj:
    return {"addressType": family, "ports": ports or [], "endpoints": list(endpoints)}


SERVICES: list[tuple[Obj, list[Obj]]] = [
    (service("kubernetes", clusterIP="10.96.0.1", ports=[port(443, "https")]), []),
    (service("web", clusterIP="10.96.0.7", clusterIPs=["10.96.0.7", "fd00:96::7"], ports=[port(80)]),
     [piece(endpoint("10.244.1.5"), endpoint("10.244.1.6", ready=False))]),
    (service("db", clusterIP="None", ports=[port(5432, "pg")]),
     [piece(endpoint("10.244.1.9", "db-0"), endpoint("10.244.2.9", "db-1"), endpoint("10.244.2.10", ready=False),
            ports=[port(5432, "pg")]),
      piece(endpoint("fd00::9", "db-0"), ports=[port(5432, "pg")], family="IPv6")]),
    (service("eager", clusterIP="None", publishNotReadyAddresses=True),
     [piece(endpoint("10.244.3.1", "eager-0", ready=False))]),
    (service("empty", clusterIP="None"), []),
    (service("httpbin-org", type="ExternalName", externalName="httpbin.org"), []),
    (service("short", type="ExternalName", externalName="web.default.svc.cluster.local"), []),
    (service("ring-a", type="ExternalName", externalName="ring-b.default.svc.cluster.local"), []),
    (service("ring-b", type="ExternalName", externalName="ring-a.default.svc.cluster.local"), []),
    (service("pending", clusterIP=""), []),
    (service("dns", "kube-system", clusterIP="10.96.0.10", ports=[port(53, "dns", "UDP"), port(53, "dns-tcp")]), []),
]  # fmt: skip


def put(index: Index, s: Obj, pieces: list[Obj]) -> None:
    index.put(key_of(s), pack_service(s), [pack_slice(p) for p in pieces])


def responder(**options: Any) -> Responder:
    index = Index(ZONE, pods=options.pop("pods", "insecure"), empty_is_absent=options.pop("empty_is_absent", False))
    for name in ("default", "kube-system", "quiet"):
        index.set_namespace(name, True)
    index.count_pod_address("default", "10.244.1.101", 1)
    for s, pieces in SERVICES:
        put(index, s, pieces)
    r = Responder(index, **options)
    r.synced = True
    return r


def ask(r: Responder, name: str, type: str = "A", protocol: str = "udp", **query: Any) -> dns.message.Message:
    q = dns.message.make_query(name, type, **query)
    raw = r.respond(q.to_wire(), protocol)
    assert isinstance(raw, bytes), raw
    answer = dns.message.from_wire(raw)
    assert q.is_response(answer)
    return answer


def texts(section: Any) -> list[str]:
    return sorted(f"{rd.to_text()}" for rrset in section for rd in rrset)


SVC = ".svc.cluster.local."
NODATA, NXDOMAIN = "NODATA", "NXDOMAIN"

CASES = [
    ("kubernetes.default" + SVC, "A", ["10.96.0.1"]),
    ("kubernetes.default" + SVC, "AAAA", NODATA),
    ("KuberNETES.default.SVC.cluster.local.", "A", ["10.96.0.1"]),
    ("web.default" + SVC, "AAAA", ["fd00:96::7"]),
    ("web.default" + SVC, "MX", NODATA),
    ("web.default" + SVC, "SRV", ["0 100 80 web.default.svc.cluster.local."]),
    ("_https._tcp.kubernetes.default" + SVC, "SRV", ["0 100 443 kubernetes.default.svc.cluster.local."]),
    ("_https._tcp.kubernetes.default" + SVC, "A", ["10.96.0.1"]),
    ("_https._udp.kubernetes.default" + SVC, "SRV", NXDOMAIN),
    ("_tcp.kubernetes.default" + SVC, "A", NODATA),
    ("_dns._udp.dns.kube-system" + SVC, "SRV", ["0 100 53 dns.kube-system.svc.cluster.local."]),
    ("web.quiet" + SVC, "A", NXDOMAIN),
    ("nope.default" + SVC, "A", NXDOMAIN),
    ("pending.default" + SVC, "A", NXDOMAIN),
    ("x.nowhere" + SVC, "A", NXDOMAIN),
    ("default" + SVC, "A", NODATA),
    ("quiet" + SVC, "A", NODATA),
    ("nowhere" + SVC, "A", NXDOMAIN),
    ("svc.cluster.local.", "A", NODATA),
    ("pod.cluster.local.", "A", NODATA),
    ("cluster.local.", "A", NODATA),
    ("foo.cluster.local.", "A", NXDOMAIN),
    ("a.b.c.default" + SVC, "A", NXDOMAIN),
    ("db.default" + SVC, "A", ["10.244.1.9", "10.244.2.9"]),
    ("db.default" + SVC, "AAAA", ["fd00::9"]),
    ("db-0.db.default" + SVC, "A", ["10.244.1.9"]),
    ("db-0.db.default" + SVC, "AAAA", ["fd00::9"]),
    ("db-1.db.default" + SVC, "AAAA", NODATA),
    ("db-2.db.default" + SVC, "A", NXDOMAIN),
    ("_pg._tcp.db.default" + SVC, "SRV",
     ["0 100 5432 db-0.db.default.svc.cluster.local.", "0 100 5432 db-1.db.default.svc.cluster.local."]),
    ("eager.default" + SVC, "A", ["10.244.3.1"]),
    ("eager-0.eager.default" + SVC, "A", ["10.244.3.1"]),
    ("empty.default" + SVC, "A", NODATA),
    ("10-244-1-5.web.default" + SVC, "A", ["10.244.1.5"]),
    ("10-244-1-5.web.default" + SVC, "AAAA", NODATA),
    ("10-244-1-6.web.default" + SVC, "A", NXDOMAIN),
    ("10-244-1-7.web.default" + SVC, "A", NXDOMAIN),
    ("10-244-1-101.default.pod.cluster.local.", "A", ["10.244.1.101"]),
    ("fd00--5.default.pod.cluster.local.", "AAAA", ["fd00::5"]),
    ("10-244-1-101.default.pod.cluster.local.", "TXT", NODATA),
    ("10-244-1-101.nowhere.pod.cluster.local.", "A", NXDOMAIN),
    ("web.default.pod.cluster.local.", "A", NXDOMAIN),
    ("httpbin-org.default" + SVC, "CNAME", ["httpbin.org."]),
    ("httpbin-org.default" + SVC, "A", ["httpbin.org."]),
    ("short.default" + SVC, "A", ["10.96.0.7", "web.default.svc.cluster.local."]),
    ("1.0.96.10.in-addr.arpa.", "PTR", ["kubernetes.default.svc.cluster.local."]),
    ("9.2.244.10.in-addr.arpa.", "PTR", ["db-1.db.default.svc.cluster.local."]),
    ("1.0.96.10.in-addr.arpa.", "A", NODATA),
    ("77.0.96.10.in-addr.arpa.", "PTR", NXDOMAIN),
    ("dns-version.cluster.local.", "TXT", ['"1.1.0"']),
    ("cluster.local.", "NS", ["ns.dns.cluster.local."]),
    ("cluster.local.", "SOA", ["ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 30"]),
    ("ns.dns.cluster.local.", "AAAA", NODATA),
    ("web.default" + SVC, "ANY", ['"RFC8482" ""']),
]  # fmt: skip


@pytest.mark.parametrize(("name", "type", "expected"), CASES, ids=[f"{n}-{t}" for n, t, _ in CASES])
def test_records(name: str, type: str, expected: list[str] | str) -> None:
    answer = ask(responder(), name, type)
    assert answer.flags & dns.flags.AA
    assert not answer.flags & dns.flags.RA
    if isinstance(expected, list):
        assert answer.rcode() == dns.rcode.NOERROR
        assert texts(answer.answer) == sorted(expected)
        return
    assert not answer.answer
    assert answer.rcode() == (dns.rcode.NXDOMAIN if expected == NXDOMAIN else dns.rcode.NOERROR)
    (soa,) = answer.authority  # RFC 2308: without it nobody may cache the "no"
    assert soa.rdtype == dns.rdatatype.SOA


def test_the_guides_dig_comes_out_byte_for_byte_in_shape() -> None:
    query = dns.message.make_query("kubernetes.default.svc.cluster.local.", "A", use_edns=0, payload=1232)
    query.use_edns(0, payload=1232, options=[dns.edns.GenericOption(10, bytes.fromhex("ca5d92ec874c299a"))])
    query.flags |= dns.flags.AD
    raw = responder().respond(query.to_wire())
    assert isinstance(raw, bytes)
    answer = dns.message.from_wire(raw)
    assert dns.flags.to_text(answer.flags) == "QR AA RD"
    assert answer.answer[0].to_text() == "kubernetes.default.svc.cluster.local. 30 IN A 10.96.0.1"
    assert answer.payload == 1232
    assert bytes(answer.options[0].to_wire()) == bytes.fromhex("ca5d92ec874c299a")
    assert len(raw) == 129


def test_the_case_of_the_question_is_echoed() -> None:
    answer = ask(responder(), "wEb.DeFault.svc.CLUSTER.local.")
    assert answer.answer[0].name.to_text() == "wEb.DeFault.svc.CLUSTER.local."


def test_srv_brings_addresses_along() -> None:
    answer = ask(responder(), "_pg._tcp.db.default" + SVC, "SRV")
    assert texts(answer.additional) == ["10.244.1.9", "10.244.2.9", "fd00::9"]


def test_aliases_that_run_in_a_ring_end() -> None:
    answer = ask(responder(), "ring-a.default" + SVC)
    assert answer.rcode() == dns.rcode.NOERROR
    assert 2 <= len(texts(answer.answer)) <= 10


def test_nothing_is_denied_before_the_index_is_complete() -> None:
    r = responder()
    r.synced = False
    assert ask(r, "nope.default" + SVC).rcode() == dns.rcode.SERVFAIL
    assert ask(r, "web.default" + SVC).rcode() == dns.rcode.SERVFAIL


def test_foreign_names_are_forwarded() -> None:
    query = dns.message.make_query("example.com.", "A").to_wire()
    forward = responder().respond(query)
    assert isinstance(forward, Forward)
    assert forward.query == query


def test_external_names_are_chased_when_there_is_an_upstream() -> None:
    r = responder()
    r.has_upstream = True
    forward = r.respond(dns.message.make_query("httpbin-org.default" + SVC, "A").to_wire())
    assert isinstance(forward, Forward)
    assert wire.decode_name(forward.query, 12)[0] == wire.encode_name("httpbin.org")
    assert forward.then is not None


def crowd(count: int) -> Responder:
    r = responder()
    many = [endpoint(f"10.244.{i // 250}.{i % 250 + 1}") for i in range(count)]
    put(r.index, service("crowd", clusterIP="None"), [piece(*many)])
    return r


@pytest.mark.parametrize(
    ("count", "edns", "limit", "cut"),
    [(10, False, 512, False), (25, False, 512, False), (40, False, 512, True), (60, True, 1232, False), (200, True, 1232, True)],
)  # fmt: skip
def test_large_answers_are_compressed_then_cut(count: int, edns: bool, limit: int, cut: bool) -> None:
    r = crowd(count)
    query = dns.message.make_query("crowd.default" + SVC, "A", use_edns=0 if edns else False, payload=4096)
    raw = r.respond(query.to_wire())
    assert isinstance(raw, bytes)
    assert len(raw) <= limit
    answer = dns.message.from_wire(raw)
    assert bool(answer.flags & dns.flags.TC) is cut
    whole = ask(r, "crowd.default" + SVC, protocol="tcp")
    assert len(texts(whole.answer)) == count
    assert not whole.flags & dns.flags.TC


def test_answers_take_turns() -> None:
    r = responder()
    first = {ask(r, "db.default" + SVC).answer[0][0].to_text() for _ in range(4)}
    assert first == {"10.244.1.9", "10.244.2.9"}


def test_what_is_no_plain_query() -> None:
    r = responder()
    good = dns.message.make_query("web.default" + SVC, "A").to_wire()

    def rcode(raw: bytes) -> int:
        answer = r.respond(raw)
        assert isinstance(answer, bytes)
        return dns.message.from_wire(answer, continue_on_error=True).rcode()

    assert r.respond(b"") is None
    assert r.respond(good[:11]) is None
    assert r.respond(good[:2] + b"\x80" + good[3:]) is None  # an answer
    assert rcode(good[:2] + b"\x28" + good[3:]) == dns.rcode.NOTIMP  # UPDATE
    assert rcode(good[:4] + b"\0\2" + good[6:]) == dns.rcode.FORMERR
    assert rcode(good[:-6]) == dns.rcode.FORMERR
    assert rcode(good + b"trailing") == dns.rcode.NOERROR
    assert rcode(good[:-1] + b"\x03") == dns.rcode.REFUSED  # class CH
    for kind in ("AXFR", "IXFR"):
        assert ask(r, "cluster.local.", kind).rcode() == dns.rcode.REFUSED
    assert ask(r, "web.default" + SVC, use_edns=1).rcode() == dns.rcode.BADVERS


def test_repeated_queries_get_their_own_id_and_are_all_counted() -> None:
    r = responder()
    for _ in range(3):
        assert texts(ask(r, "web.default" + SVC, id=random.randrange(65536)).answer) == ["10.96.0.7"]
    assert r.counts["udp", wire.A, wire.NOERROR] == [3]


def test_pod_modes() -> None:
    name = "10-244-1-101.default.pod.cluster.local."
    assert ask(responder(pods="disabled"), name).rcode() == dns.rcode.NXDOMAIN
    assert ask(responder(pods="verified"), name).rcode() == dns.rcode.NOERROR
    assert ask(responder(pods="verified"), name.replace("101", "102")).rcode() == dns.rcode.NXDOMAIN


def test_a_removed_service_takes_its_names_along_and_no_others() -> None:
    r = responder()
    for name in ("_pg._tcp.db.default", "web.default"):  # answers of before must not be sent again
        for _ in range(2):
            assert ask(r, name + SVC).rcode() == dns.rcode.NOERROR
    r.index.remove(Key("default", "db"))
    for gone in ("db.default", "db-0.db.default", "_pg._tcp.db.default", "_tcp.db.default"):
        assert ask(r, gone + SVC).rcode() == dns.rcode.NXDOMAIN
    assert ask(r, "9.2.244.10.in-addr.arpa.", "PTR").rcode() == dns.rcode.NXDOMAIN
    assert ask(r, "web.default" + SVC).rcode() == dns.rcode.NOERROR


def test_two_services_on_one_pod_share_its_reverse_name_whatever_the_order() -> None:
    one, two = service("one", clusterIP="None"), service("two", clusterIP="None")
    name = "9.9.9.10.in-addr.arpa."
    for order in ((one, two), (two, one)):
        r = responder()
        for records in order:
            put(r.index, records, [piece(endpoint("10.9.9.9", "p"))])
        assert texts(ask(r, name, "PTR").answer) == ["p.one.default.svc.cluster.local."]
        r.index.remove(Key("default", "one"))
        assert texts(ask(r, name, "PTR").answer) == ["p.two.default.svc.cluster.local."]
        r.index.remove(Key("default", "two"))
        assert ask(r, name, "PTR").rcode() == dns.rcode.NXDOMAIN


def test_mutated_queries_never_raise() -> None:
    r, rng = responder(), random.Random(3)
    seeds = [dns.message.make_query(n, t, use_edns=0).to_wire() for n, t, _ in CASES[:30]]
    for _ in range(20_000):
        raw = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 8)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        answer = r.respond(bytes(raw[: rng.randrange(len(raw) + 1)]))
        if isinstance(answer, bytes):
            wire.decode_message(answer)
