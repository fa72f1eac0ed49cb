"""The server's numbers as Prometheus text, under CoreDNS' names where it has one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from podwire import __version__
from podwire.dns.batch import sockaddr_host
from podwire.wire.dns import NOERROR, NXDOMAIN, RCODES, TYPES

_TYPE_WORDS = {number: word for word, number in TYPES.items()}


@dataclass(frozen=True, slots=True)
class Report:
    """What one process has counted since it began.

    ``counts``: answers by (protocol, type, rcode); ``clients``: queries by the client's address as the kernel
    writes it; ``upstreams``: by (address, what came back).
    """

    counts: dict[tuple[str, int, int], int] = field(default_factory=dict)
    clients: dict[bytes, int] = field(default_factory=dict)
    upstreams: dict[tuple[str, str], int] = field(default_factory=dict)
    cache_hits: int = 0
    cache_misses: int = 0
    cache_entries: int = 0


def add_up(reports: Iterable[Report]) -> Report:
    """Return the sum."""
    counts: Counter[tuple[str, int, int]] = Counter()
    clients: Counter[bytes] = Counter()
    upstreams: Counter[tuple[str, str]] = Counter()
    hits = misses = entries = 0
    for r in reports:
        counts.update(r.counts)
        clients.update(r.clients)
        upstreams.update(r.upstreams)
        hits, misses, entries = hits + r.cache_hits, misses + r.cache_misses, entries + r.cache_entries
    return Report(dict(counts), dict(clients), dict(upstreams), hits, misses, entries)


def success_rate(report: Report) -> float:
    """Return which share of queries got a true answer: yes or no, but not "I cannot say". 1.0 without queries."""
    total = sum(report.counts.values())
    good = sum(n for (_, _, rcode), n in report.counts.items() if rcode in (NOERROR, NXDOMAIN))
    return good / total if total else 1.0


def render_metrics(report: Report, services: int, port: int, plugins: Sequence[str] = ()) -> str:
    """Return the page."""
    server = f'server="dns://:{port}"'
    requests: Counter[tuple[str, str]] = Counter()
    responses: Counter[str] = Counter()
    for (protocol, type, rcode), n in report.counts.items():
        requests[protocol, _TYPE_WORDS.get(type, "other")] += n
        responses[RCODES.get(rcode, str(rcode))] += n
    zone = f'{server},zone="."'
    page = _Page()
    page.put("coredns_build_info", "gauge", [(f'version="podwire-{__version__}"', 1)])
    page.put("coredns_plugin_enabled", "gauge", [(f'{zone},name="{name}"', 1) for name in plugins])
    rows = [(f'{zone},proto="{p}",type="{t}"', n) for (p, t), n in sorted(requests.items())]
    page.put("coredns_dns_requests_total", "counter", rows)
    page.put(
        "coredns_dns_responses_total", "counter", [(f'{zone},rcode="{r}"', n) for r, n in sorted(responses.items())]
    )
    page.put("coredns_panics_total", "counter", [("", 0)])
    page.put("coredns_cache_hits_total", "counter", [(server, report.cache_hits)])
    page.put("coredns_cache_misses_total", "counter", [(server, report.cache_misses)])
    page.put("coredns_cache_entries", "gauge", [(server, report.cache_entries)])
    rows = [(f'to="{to}",rcode="{what}"', n) for (to, what), n in sorted(report.upstreams.items())]
    page.put("coredns_proxy_responses_total", "counter", rows)
    clients: Counter[str] = Counter()
    for who, n in report.clients.items():
        clients[client_text(who)] += n
    page.put(
        "podwire_dns_queries_by_client_total", "counter", [(f'client="{c}"', n) for c, n in sorted(clients.items())]
    )
    page.put("podwire_dns_resolution_success_ratio", "gauge", [("", round(success_rate(report), 6))])
    page.put("podwire_dns_services", "gauge", [("", services)])
    return page.text()


def client_text(who: bytes) -> str:
    """Return the address in the 20 octets of a sockaddr behind family and port."""
    is_v4 = who[4:] == b"\0" * 16  # sockaddr_in: the address comes first, the rest is padding
    family = (2 if is_v4 else 10).to_bytes(2, "little")
    return sockaddr_host(family + b"\0\0" + who)[0]


class _Page:
    """Rows under their names."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def put(self, name: str, kind: str, rows: Sequence[tuple[str, float]]) -> None:
        """Add one metric."""
        self._lines.append(f"# TYPE {name} {kind}")
        self._lines += (f"{name}{{{labels}}} {n}" if labels else f"{name} {n}" for labels, n in rows)

    def text(self) -> str:
        """Return everything."""
        return "\n".join(self._lines) + "\n"
