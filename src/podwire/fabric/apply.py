"""The fabric's hands: finds the underlay, makes devices, and brings the kernel from observed to wanted.

Synchronous; everything goes through the kernel's ports, so the fakes do as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Entries, Home
from podwire.fabric.plan import internal_ips, subnet_of
from podwire.fabric.render import hostgw
from podwire.kernel.link.port import LinkPort
from podwire.kernel.link.values import Address, IPAddress, IPInterface, Link, Vxlan
from podwire.kernel.route.port import RoutePort
from podwire.kernel.sysctl.port import SysctlPort
from podwire.model.errors import AlreadyInUse, Problem
from podwire.model.objects import Obj

_RTPROT_KERNEL = 2
_UNICAST = 1


def find_home(
    links: LinkPort, routes: RoutePort, config: FabricConfig, own: Obj, interface: str, version: int
) -> Home | str:
    """Return where this node stands in one family, or what is still missing.

    The underlay link is ``interface``, else the link with the Node's InternalIP, else that of the default route.
    """
    network, subnet = config.network(version), subnet_of(own, version)
    if isinstance(subnet, Problem):
        return str(subnet)
    if network is None or subnet is None:
        return f"the node has no IPv{version} pod CIDR yet"
    if not subnet.subnet_of(network):  # type: ignore[arg-type]
        return f"pod CIDR {subnet} lies outside the cluster network {network} of kube-flannel-cfg"
    address = _underlay_address(links, routes, own, interface, version)
    if address is None:
        return f"no underlay link with an IPv{version} address yet"
    link = next((each for each in links.links() if each.index == address.link), None)
    if link is None:
        return "the underlay link is gone"
    return Home(version, network, subnet, address.interface.ip, link.index, link.mtu_bytes)


def _underlay_address(links: LinkPort, routes: RoutePort, own: Obj, interface: str, version: int) -> Address | None:
    found = [a for a in links.addresses() if a.interface.version == version and a.scope == "global"]
    announced = internal_ips(own)
    known = [a for a in found if a.interface.ip in announced]
    if interface:
        link = links.find(interface)
        found = [a for a in found if link is not None and a.link == link.index]
        known = [a for a in known if a in found]
        return next(iter(known + found), None)
    if known:
        return known[0]
    defaults = {r.link for r in routes.routes() if r.destination.version == version and not r.destination.prefixlen}
    return next((a for a in found if a.link in defaults), None)


def ensure_device(links: LinkPort, spec: Vxlan, interface: IPInterface) -> Link:
    """Return the VXLAN device, up, with exactly this address; a compatible one is kept, entries and all.

    Raises AlreadyInUse when a link of another kind has the name, or another device has the VNI.
    """
    link = links.find(spec.name)
    if link is not None and link.vxlan is None:
        hint = f"rename or remove that {link.kind} link"
        raise AlreadyInUse("fabric", "create", spec.name, "a link that is no VXLAN device has the name", hint)
    if link is not None and link.vxlan is not None and not _compatible(link.vxlan, spec):
        links.delete(link.index)
        link = None
    if link is None:
        link = links.create(spec)
    if link.mac != spec.mac:
        links.set_mac(link.index, spec.mac)
    if link.mtu_bytes != spec.mtu_bytes:
        links.set_mtu(link.index, spec.mtu_bytes)
    held = [a for a in links.addresses(link.index) if a.interface.version == interface.version]
    for address in held:
        if address.interface != interface and address.scope == "global":
            links.delete_address(link.index, address.interface)
    if interface not in (a.interface for a in held):
        links.add_address(link.index, interface)
    if not link.up:
        links.set_up(link.index)
    return links.find(spec.name) or link


def _compatible(have: Vxlan, want: Vxlan) -> bool:
    # MAC and MTU can be set; the rest is for life.
    return replace(have, mac="", mtu_bytes=0) == replace(want, mac="", mtu_bytes=0)


def prepare_sysctls(sysctl: SysctlPort, links: LinkPort, homes: Iterable[Home]) -> None:
    """Let the node forward, without losing what it learns as a host. Knobs that are not there are passed over."""
    for home in homes:
        if home.version == 4:
            sysctl.set("net/ipv4/ip_forward", "1")
            continue
        link = next((each for each in links.links() if each.index == home.underlay), None)
        # A forwarding host stops to take router advertisements, its default route among them, unless told 2.
        accept = f"net/ipv6/conf/{link.name}/accept_ra" if link is not None else ""
        if accept and sysctl.get(accept) == "1":
            sysctl.set(accept, "2")
        sysctl.set("net/ipv6/conf/all/forwarding", "1")


def loosen_reverse_path(sysctl: SysctlPort, name: str) -> None:
    """Set rp_filter of a device to loose where the machine is strict.

    With DirectRouting, and while peers change backend, a packet may come in by another link than its answer
    goes out by; strict mode (RFC 3704) would drop it without a word.
    """
    knob = f"net/ipv4/conf/{name}/rp_filter"
    if "1" in (sysctl.get("net/ipv4/conf/all/rp_filter"), sysctl.get(knob)):
        sysctl.set(knob, "2")


def find_adjacent(routes: RoutePort, homes: Iterable[Home], addresses: Iterable[IPAddress]) -> frozenset[IPAddress]:
    """Return the addresses that are on the underlay link itself, with no router between."""
    underlay = {home.version: home.underlay for home in homes}
    found = set()
    for address in addresses:
        route = routes.lookup(address)
        if route is None or route.type != _UNICAST:
            continue
        if route.via is None and route.link == underlay.get(address.version):
            found.add(address)
    return frozenset(found)


def observe(links: LinkPort, routes: RoutePort, devices: Mapping[int, int]) -> Entries:
    """Return what the kernel holds of the fabric: all on its devices (by IP version), and its routes elsewhere."""
    own = set(devices.values())
    return Entries(
        frozenset(
            r
            for r in routes.routes()
            if r.protocol == hostgw.PROTOCOL or (r.link in own and r.protocol != _RTPROT_KERNEL)
        ),
        frozenset(n for index in own for n in links.neighbours(index)),
        frozenset(e for index in own for e in links.fdb(index)),
    )


def apply(links: LinkPort, routes: RoutePort, add: Entries, remove: Entries, wanted: Entries) -> None:
    """Bring the kernel's entries on: additions in the order of a packet's way back, removals the other way.

    What is replaced is not removed: ``wanted`` has its key (of what is touched, at least), and the kernel
    overwrites in one step.
    """
    kept_routes = {(r.destination, r.metric) for r in wanted.routes}
    kept_neighbours = {(n.link, n.ip) for n in wanted.neighbours}
    kept_fdb = {(e.link, e.mac) for e in wanted.fdb}
    for route in remove.routes:
        if (route.destination, route.metric) not in kept_routes:
            routes.delete(route)
    for neighbour in remove.neighbours:
        if (neighbour.link, neighbour.ip) not in kept_neighbours:
            links.delete_neighbour(neighbour.link, neighbour.ip)
    for entry in remove.fdb:
        if (entry.link, entry.mac) not in kept_fdb:
            links.delete_fdb(entry)
    for entry in add.fdb:
        links.replace_fdb(entry)
    for neighbour in add.neighbours:
        links.replace_neighbour(neighbour)
    routes.replace_all(sorted(add.routes, key=lambda r: (r.destination.version, r.destination, r.metric)))
