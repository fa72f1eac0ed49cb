"""The server's numbers as Prometheus text, under CoreDNS' names where it has one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from podwire.wire.dns import RCODES, TYPES

_TYPE_WORDS = {number: word for word, number in TYPES.items()}


def render_metrics(counts: Mapping[tuple[str, int, int], int], services: int, port: int) -> str:
    """Return the page. ``counts``: answers by (protocol, type, rcode)."""
    server = f'server="dns://:{port}",zone="."'
    requests: Counter[tuple[str, str]] = Counter()
    responses: Counter[str] = Counter()
    for (protocol, type, rcode), n in counts.items():
        requests[protocol, _TYPE_WORDS.get(type, "other")] += n
        responses[RCODES.get(rcode, str(rcode))] += n
    lines = ["# TYPE coredns_dns_requests_total counter"]
    lines += (
        f'coredns_dns_requests_total{{{server},proto="{p}",type="{t}"}} {n}' for (p, t), n in sorted(requests.items())
    )
    lines.append("# TYPE coredns_dns_responses_total counter")
    lines += (f'coredns_dns_responses_total{{{server},rcode="{r}"}} {n}' for r, n in sorted(responses.items()))
    lines += ["# TYPE podwire_dns_services gauge", f"podwire_dns_services {services}"]
    return "\n".join(lines) + "\n"
