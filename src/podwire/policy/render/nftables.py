"""The nftables table of a node's policies: the part that never changes, as text. Pure.

How a packet between a pod of this node and anybody goes (the first of a connection; the rest follow conntrack):

    forward-egress    ip saddr vmap @egress-pods      one look-up finds what speaks for the sender, or accept
      egress-of-HASH    jump egress/NS/NAME           a chain for each policy: accept what it allows
                        drop                          isolated, and no rule allowed it
    forward-ingress   ip daddr vmap @ingress-pods     the same for the receiver
      ingress-of-HASH ...

Why two base chains: "accept" ends one base chain and the packet goes on to the next, so each side judges for itself
and needs no marks. Why the forward hook: what a node itself sends to its pods (probes) and what pods send to their
node never passes it, and is always allowed. Packets between two pods of one bridge pass it because bridged packets
are shown to netfilter (bridge-nf-call-iptables). Destinations are judged after DNAT, sources before SNAT.

An address of this node's range that no pod is known to have is dropped both ways: a pod has no network until its
policies are in place.
"""

from __future__ import annotations

from collections.abc import Sequence

from podwire.policy.table import DISPATCH, ITSELF, UNKNOWN

FAMILY = "inet"
TABLES = ("podwire-policy", "podwire-policy-next")
"""One of them is in force. A new start fills the other, then deletes the former: both judge in between."""
GENERATION = "generation"
_ADDRESS = {"egress": "saddr", "ingress": "daddr"}
_PRIORITY = {"egress": "filter", "ingress": "filter + 1"}


def skeleton(table: str, versions: Sequence[int], *, strict: bool = False) -> str:
    """Return the script that makes an empty table. Nothing is dropped until its maps are filled.

    ``strict``: TCP packets that belong to no tracked connection are dropped, so that a connection which was
    forgotten on purpose cannot go on.
    """
    sets = "".join(_sets(v) for v in versions)
    hooks = "".join(_hook(direction, versions, strict) for direction in DISPATCH)
    unknown = "".join(f"    chain {name} {{\n    }}\n" for name in UNKNOWN.values())
    return f"""\
table {FAMILY} {table} {{
    comment "podwire: NetworkPolicy of this node's pods"
    set {GENERATION} {{
        type mark
        comment "filled when the table is whole"
    }}
{sets}{unknown}{hooks}}}
"""


def delete(table: str) -> str:
    """Return the script that deletes a table, there or not."""
    return f"table {FAMILY} {table} {{ }}\ndelete table {FAMILY} {table}\n"


def _sets(version: int) -> str:
    six, kind = ("6", "ipv6_addr") if version == 6 else ("", "ipv4_addr")
    maps = "".join(f"    map {name}{six} {{\n        type {kind} : verdict\n    }}\n" for name in DISPATCH.values())
    return f"{maps}    set {ITSELF}{six} {{\n        type {kind} . {kind}\n    }}\n"


def _hook(direction: str, versions: Sequence[int], strict: bool) -> str:
    lines = [f"type filter hook forward priority {_PRIORITY[direction]}; policy accept;"]
    lines.append("ct state established,related accept")
    if 6 in versions:
        # Without neighbour discovery there is no IPv6 at all; group membership belongs to it.
        lines.append("icmpv6 type { 130-137, 143 } accept")
    if strict:
        lines.append('meta l4proto tcp ct state invalid counter drop comment "strict: of no connection that is known"')
    for v in versions:
        ip, six = ("ip6", "6") if v == 6 else ("ip", "")
        lines.append(f'{ip} saddr . {ip} daddr @{ITSELF}{six} accept comment "a pod always reaches itself"')
        lines.append(f"{ip} {_ADDRESS[direction]} vmap @{DISPATCH[direction]}{six}")
    lines.append(f"jump {UNKNOWN[direction]}")
    body = "\n        ".join(lines)
    return f"    chain forward-{direction} {{\n        {body}\n    }}\n"
