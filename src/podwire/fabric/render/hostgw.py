"""host-gw: the peer itself is the gateway to its pods. Also what vxlan's DirectRouting uses."""

from __future__ import annotations

from podwire.fabric.desired import Entries, Path
from podwire.kernel.route.values import Route

# Routes over the underlay link are nobody's by their link, so they carry the fabric's own protocol number:
# stale ones are found after a restart, and routes of others are left alone.
PROTOCOL = 117


def render_path(path: Path, underlay: int) -> Entries:
    """Return the route to a peer's pods over the underlay link."""
    return Entries(frozenset({Route(path.subnet, underlay, path.public_ip, protocol=PROTOCOL)}))
