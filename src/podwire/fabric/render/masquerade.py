"""The fabric's nftables: pods that leave the cluster take the node's address, between pods never.

Also spares the tunnel's own UDP packets connection tracking: every flow inside has a source port of its own
outside (RFC 7348 §5), so each would be tracked twice, and the outer one for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Home

TABLE = "podwire-masq"
_FAMILY = {4: "ip", 6: "ip6"}
_TUNNEL = """\
    chain tunnel-out {{
        type filter hook output priority raw; policy accept;
        udp dport {port} notrack comment "VXLAN's outside"
    }}
    chain tunnel-in {{
        type filter hook prerouting priority raw; policy accept;
        udp dport {port} fib daddr type local notrack comment "VXLAN's outside"
    }}
"""
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}


def family_of(home: Home) -> str:
    """Return nft's name of the home's address family."""
    return _FAMILY[home.version]


def render(config: FabricConfig, homes: Sequence[Home]) -> str:
    """Return the script that puts the tables of all families in place of what was there.

    What a node itself sends has no pod's source address and is left alone; so is what comes from outside
    to a pod, whose source address servers want to see.
    """
    return "".join(_render(config, home) for home in homes)


def _render(config: FabricConfig, home: Home) -> str:
    family, network = family_of(home), home.network
    tunnel = _TUNNEL.format(port=config.port) if config.backend == "vxlan" else ""
    return f"""\
# Declared before it is deleted: deleting what is not there would be an error.
table {family} {TABLE} {{ }}
delete table {family} {TABLE}
table {family} {TABLE} {{
    comment "podwire fabric: source addresses of pod traffic that leaves the cluster"
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        {family} saddr {network} {family} daddr {network} return comment "between pods: never"
        {family} saddr {network} {family} daddr {_MULTICAST[home.version]} return comment "multicast keeps its sender"
        {family} saddr {network} oifname != "lo" masquerade fully-random comment "pods to the world"
    }}
{tunnel}}}
"""


def remove(families: Sequence[str]) -> str:
    """Return the script that removes the tables of families that are no longer used."""
    return "".join(f"table {f} {TABLE} {{ }}\ndelete table {f} {TABLE}\n" for f in families)
