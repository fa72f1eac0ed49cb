"""The configuration lists that podwire writes: its own plugin, or Debian's reference plugins in its place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from podwire.cni.settings import DEFAULT_SUBNET_FILE, PLUGIN_TYPE
from podwire.cni.spec import IPNetwork, Json

NETWORK_NAME = "cbr0"
FILE_NAME = "10-podwire.conflist"
BRIDGE = "cni0"

# The reference plugins of Debian 12 (1.1.1) speak up to 1.0.0.
REFERENCE_VERSION = "1.0.0"


def render_default(
    *,
    subnets: Sequence[IPNetwork] = (),
    networks: Sequence[IPNetwork] = (),
    mtu_bytes: int = 0,
    subnet_file: str = DEFAULT_SUBNET_FILE,
) -> Json:
    """Return podwire's own list.

    Without ``subnets`` ranges, routes and MTU are read from ``subnet_file`` at every ADD, as the fabric
    writes them there: the list is then the same on every node.
    """
    plugin: Json = {
        "type": PLUGIN_TYPE,
        "bridge": BRIDGE,
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "podwire-ipam"},
        "capabilities": {"portMappings": True, "ips": True, "mac": True},
    }
    if subnets:
        plugin["ipam"] |= _ranges_and_routes(subnets, networks)
    else:
        plugin["subnetFile"] = subnet_file
    if mtu_bytes:
        plugin["mtu"] = mtu_bytes
    return {"cniVersion": "1.1.0", "name": NETWORK_NAME, "plugins": [plugin]}


def render_reference(
    *,
    subnets: Sequence[IPNetwork],
    networks: Sequence[IPNetwork],
    mtu_bytes: int,
    portmap: bool = True,
    bandwidth: bool = False,
    data_directory: str = "/var/lib/cni/networks",
) -> Json:
    """Return the list of `bridge` + `host-local` (+ `portmap`, `bandwidth`) that does the same."""
    plugins: list[Json] = [
        {
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": True,
            "isDefaultGateway": True,
            "hairpinMode": True,
            "mtu": mtu_bytes,
            "ipam": {
                "type": "host-local",
                "dataDir": data_directory,
                **_ranges_and_routes(subnets, networks),
            },
        }
    ]
    if portmap:
        plugins.append({"type": "portmap", "snat": True, "capabilities": {"portMappings": True}})
    if bandwidth:
        plugins.append({"type": "bandwidth", "capabilities": {"bandwidth": True}})
    return {"cniVersion": REFERENCE_VERSION, "name": NETWORK_NAME, "plugins": plugins}


def with_chained(network: Json, *plugins: Json) -> Json:
    """Return podwire's list with further plugins behind it, at a version that Debian's plugins speak.

    A capability that one of them declares is left to it: two plugins that publish the same host port
    would be one too many.
    """
    theirs = {name for p in plugins for name, on in (p.get("capabilities") or {}).items() if on}
    first, *rest = network["plugins"]
    kept = {name: on for name, on in first.get("capabilities", {}).items() if name not in theirs}
    chain = [{**first, "capabilities": kept}, *rest, *plugins]
    return {**network, "cniVersion": REFERENCE_VERSION, "plugins": chain}


def _ranges_and_routes(subnets: Sequence[IPNetwork], networks: Sequence[IPNetwork]) -> dict[str, Any]:
    # The gateway is said, although it is the default: the reference bridge's CHECK finds no route without.
    gateways = {s.version: s.network_address + 1 for s in reversed(subnets)}
    return {
        "ranges": [[{"subnet": str(s)}] for s in subnets],
        "routes": [{"dst": str(n), "gw": str(gateways[n.version])} for n in networks if n.version in gateways],
    }


def encode(network: Json) -> bytes:
    """Return the list as it is written to a file."""
    return json.dumps(network, indent=2).encode() + b"\n"
