"""The network under the nodes: a bridge in the lab's own namespace, one veth a node, no uplink.

underlay0 192.168.71.1/24 ──┬── n0 ═ eth0 192.168.71.10  node-0
 fd00:71::1/64              ├── n1 ═ eth0 192.168.71.11  node-1
                            └── ...
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from typing import TypeAlias

from podwire.kernel.link.port import LinkPort
from podwire.kernel.link.values import Bridge, Veth
from podwire.kernel.nft.port import NftPort
from podwire.kernel.route.port import RoutePort
from podwire.kernel.route.values import Route
from podwire.kernel.sysctl.port import SysctlPort
from podwire.lab.config import NODE_PREFIX, UNDERLAY, LabConfig, Network

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPInterface: TypeAlias = IPv4Interface | IPv6Interface

BRIDGE = "underlay0"
API_PORT = 6443
INSIDER_PORT = 6080  # plain HTTP with a token, on the loopback of the lab's own namespace
FIRST_NODE = 10
FIRST_BALANCER, LAST_BALANCER = 224, 250


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """Where a node is on the underlay: one address a family, the primary family first."""

    interfaces: tuple[IPInterface, ...]
    gateways: tuple[IPAddress, ...]

    @property
    def ips(self) -> tuple[IPAddress, ...]:
        """The bare addresses."""
        return tuple(i.ip for i in self.interfaces)


def gateway(version: int) -> IPAddress:
    """Return the underlay's own address, where the API server listens."""
    return UNDERLAY[version][1]


def node_addresses(config: LabConfig, index: int) -> NodeAddresses:
    """Return the addresses of node number ``index``. IPv6 repeats the last number: fd00:71::10."""
    if config.dry_kernel:  # nothing may leave the machine: nodes are addresses of the loopback
        return NodeAddresses((IPv4Interface(f"127.71.0.{FIRST_NODE + index}/8"),), ())
    interfaces: list[IPInterface] = []
    for version in config.families:
        network = UNDERLAY[version]
        offset = FIRST_NODE + index if version == 4 else int(str(FIRST_NODE + index), 16)
        interfaces.append(ip_interface(f"{network[offset]}/{network.prefixlen}"))
    return NodeAddresses(tuple(interfaces), api_addresses(config))


def api_addresses(config: LabConfig) -> tuple[IPAddress, ...]:
    """Return where the API server listens on the underlay, the primary family first."""
    return tuple(gateway(v) for v in config.families)


def nth_subnet(network: Network, prefix: int, number: int) -> Network:
    """Return subnet number ``number`` of ``network``: what the controllers give to the node of that number."""
    size = 1 << (network.max_prefixlen - prefix)
    return ip_network(f"{network[number * size]}/{prefix}")


def pool_ranges(config: LabConfig) -> tuple[str, ...]:
    """Return the addresses that Services of type LoadBalancer get: beyond those of the nodes."""
    ranges = {
        4: _range(UNDERLAY[4], max(FIRST_BALANCER, FIRST_NODE + len(config.node_names)), LAST_BALANCER),
        6: _range(UNDERLAY[6], 0xF000, 0xF0FF),
    }
    return tuple(ranges[v] for v in config.families)


def _range(network: IPv4Network | IPv6Network, first: int, last: int) -> str:
    return f"{network[min(first, last)]}-{network[last]}"


def url_host(address: IPAddress) -> str:
    """Return an address as it stands in a URL."""
    return f"[{address}]" if address.version == 6 else str(address)


def build(links: LinkPort, sysctl: SysctlPort, config: LabConfig) -> int:
    """Make the bridge with its addresses; return its index.

    Forwarding is on and leads nowhere, so that what lies beyond the lab is answered "unreachable" at once.
    """
    loopback = links.find("lo")
    assert loopback is not None, "every network namespace has one"
    links.set_up(loopback.index)
    for knob in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        sysctl.set(knob, "1")
    for family in ("ip", "ip6"):  # a switch: what it bridges is no business of its own firewall
        sysctl.set(f"net/bridge/bridge-nf-call-{family}tables", "0")
    bridge = links.create(Bridge(BRIDGE, mtu_bytes=config.underlay_mtu_bytes))
    for version in config.families:
        links.add_address(bridge.index, ip_interface(f"{gateway(version)}/{UNDERLAY[version].prefixlen}"))
    links.set_up(bridge.index)
    return bridge.index


FIREWALL = """\
table inet podwire-underlay {
	comment "the underlay carries nodes' packets and routes none: pods reach each other through the fabric alone"
	chain forward {
		type filter hook forward priority filter; policy accept;
		reject with icmpx type host-unreachable
	}
}
"""


def lead_to_pods(routes: RoutePort, nft: NftPort, config: LabConfig) -> None:
    """Let the API server reach pods (pods/proxy, services/proxy), and nobody else by this way."""
    nft.apply(FIREWALL)
    for index in range(config.nodes):
        for pods, node in zip(config.pod_cidrs, node_addresses(config, index).ips, strict=True):
            subnet = nth_subnet(pods, NODE_PREFIX[pods.version], index)
            routes.replace(Route(subnet, via=node))


def plug(links: LinkPort, bridge: int, index: int, netns_fd: int, mtu_bytes: int) -> None:
    """Give the node whose namespace is ``netns_fd`` an eth0 (down) on the bridge."""
    mac = f"02:71:00:00:{index >> 8:02x}:{index & 255:02x}"  # stable, so that neighbours need not learn again
    port = links.create(Veth(f"n{index}", "eth0", netns_fd, mtu_bytes=mtu_bytes, peer_mac=mac))
    links.set_master(port.index, bridge)
    links.set_up(port.index)


def cut(links: LinkPort, index: int, *, heal: bool) -> None:
    """Partition a node from the underlay, or join it again: its bridge port goes down or up."""
    port = links.find(f"n{index}")
    if port is not None:
        links.set_up(port.index, heal)
