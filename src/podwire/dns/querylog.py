"""The plugin `log`: one line a query on standard output, as CoreDNS writes it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from podwire.dns.responder import Outcome, Plugin, Query, Step, and_then
from podwire.wire import dns as wire

_TYPES = {number: word for word, number in wire.TYPES.items()}
_FLAGS = ((wire.QR, "qr"), (wire.AA, "aa"), (wire.TC, "tc"), (wire.RD, "rd"), (wire.RA, "ra"))


def plugin(classes: Sequence[str], zones: Sequence[str]) -> Plugin:
    """Return what writes a line for every answer of these classes (success, denial, error, all) and zones."""
    within = tuple(wire.encode_name(zone).lower() for zone in zones) or (wire.ROOT,)

    def log(query: Query, next: Step) -> Outcome:
        if not any(wire.is_within(query.asked.name, zone) for zone in within):
            return next(query)
        start_s = time.perf_counter()

        def write(raw: bytes) -> bytes:
            if "all" in classes or _class_of(raw) in classes:
                sys.stdout.write(render_line(query, raw, time.perf_counter() - start_s))
                sys.stdout.flush()
            return raw

        return and_then(next(query), write)

    return log


def _class_of(raw: bytes) -> str:
    rcode = raw[3] & 15
    if rcode == wire.NOERROR and raw[6:8] != b"\0\0":
        return "success"
    return "denial" if rcode in (wire.NOERROR, wire.NXDOMAIN) else "error"


def render_line(query: Query, raw: bytes, took_s: float) -> str:
    """Return a line in CoreDNS' common format."""
    asked = query.asked
    flags = int.from_bytes(raw[2:4], "big")
    words = ",".join(word for bit, word in _FLAGS if flags & bit)
    edns = asked.edns
    size, wants_dnssec = (edns.udp_bytes, str(edns.dnssec_ok).lower()) if edns is not None else (512, "false")
    question = f"{_TYPES.get(asked.type, f'TYPE{asked.type}')} IN {wire.name_text(asked.owner)} {query.protocol}"
    client = f"[{query.client}]" if ":" in query.client else query.client
    rcode = wire.RCODES.get(flags & 15, str(flags & 15))
    return (
        f'[INFO] {client} - {int.from_bytes(asked.id, "big")} "{question} {len(asked.raw)} {wants_dnssec} {size}" '
        f"{rcode} {words} {len(raw)} {took_s:.9f}s\n"
    )
