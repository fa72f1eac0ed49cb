"""The node's bridge and the pods plugged into it: what ADD makes, CHECK reads and DEL removes.

    node netns                                   pod netns
    cni0 10.244.1.1/24 ── vethXXXXXXXX ═════════ eth0 10.244.1.4/24
    (bridge)              (hairpin)              default via 10.244.1.1, 10.244.0.0/16 via 10.244.1.1

The host end's name follows from container id and interface name, so DEL and GC find it when nothing
else is left. The pod's hardware address follows from its IP address: neighbours that remember the
address of a former pod are right about the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface

from podwire.cni.spec import (
    CHECK_FAILED,
    INVALID_ENVIRONMENT,
    MACHINE_FAILURE,
    CniError,
    Interface,
    IPAddress,
    IPConfig,
    IPInterface,
    Result,
    RouteConfig,
)
from podwire.kernel.link.port import LinkPort
from podwire.kernel.link.values import Bridge, Link, Veth
from podwire.kernel.netns.port import NetnsPort
from podwire.kernel.route.port import RoutePort
from podwire.kernel.route.values import Route
from podwire.kernel.sysctl.port import SysctlPort
from podwire.model.errors import AlreadyInUse, MachineError

DEFAULT_ROUTES = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

OpenPod = Callable[[], tuple[LinkPort, RoutePort]]
"""Open links and routes of the namespace that the thread is in; closing the links closes both."""


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """The bridge as it should be. ``gateways`` are its addresses; empty when it is no gateway."""

    name: str
    mtu_bytes: int
    hairpin: bool
    gateways: tuple[IPInterface, ...]


@dataclass(frozen=True, slots=True)
class Plug:
    """One pod interface to make: who, where, and with which addresses and routes."""

    container_id: str
    ifname: str
    netns: str
    netns_fd: int
    mac: str
    ips: tuple[IPConfig, ...]
    routes: tuple[RouteConfig, ...]


def host_end(container_id: str, ifname: str) -> str:
    """Return the name of the pair's end in the node: "veth" and eight hexadecimal digits."""
    return "veth" + hashlib.sha256(f"{container_id}/{ifname}".encode()).hexdigest()[:8]


def mac_of(address: IPAddress) -> str:
    """Return the hardware address that goes with an address: 0a:58 and its last four bytes."""
    return ":".join(f"{b:02x}" for b in b"\x0a\x58" + address.packed[-4:])


class PodBridge:
    """The links of one node. Errors: CniError; the kernel's own words in ``details``."""

    def __init__(self, links: LinkPort, netns: NetnsPort, sysctl: SysctlPort, open_pod: OpenPod) -> None:
        self._links, self._netns, self._sysctl, self._open_pod = links, netns, sysctl, open_pod

    def ensure(self, wanted: BridgeSettings) -> Link:
        """Return the bridge, made or mended where it is not as wanted."""
        with _machine(f"make bridge {wanted.name}"):
            bridge = self._links.find(wanted.name)
            if bridge is not None and bridge.kind != "bridge":
                raise CniError(MACHINE_FAILURE, f"{wanted.name} is there and is no bridge ({bridge.kind})")
            if bridge is None:
                bridge = self._create(wanted)
            elif wanted.mtu_bytes not in (0, bridge.mtu_bytes):
                self._links.set_mtu(bridge.index, wanted.mtu_bytes)
            present = {a.interface for a in self._links.addresses(bridge.index)}
            missing = [g for g in wanted.gateways if g not in present]
            if missing:
                self._replace_gateways(bridge, missing, present)
            if missing or not bridge.up:
                self._forward(wanted)
                self._links.add_addresses(bridge.index, missing, up=True)
            return bridge

    def _create(self, wanted: BridgeSettings) -> Link:
        # A bridge without an address of its own takes the lowest of its ports', anew with every pod,
        # and the pods' neighbour entries for the gateway would be wrong each time.
        mac = mac_of(wanted.gateways[0].ip) if wanted.gateways else ""
        try:
            bridge = self._links.create(Bridge(wanted.name, wanted.mtu_bytes, mac))
        except AlreadyInUse:
            found = self._links.find(wanted.name)
            if found is None:
                raise
            bridge = found
        # Hairpin ports send a duplicate address probe back to its sender, who would believe it.
        self._sysctl.set(f"net/ipv6/conf/{wanted.name}/accept_dad", "0")
        return bridge

    def _replace_gateways(self, bridge: Link, missing: Sequence[IPInterface], present: set[IPInterface]) -> None:
        """Take off the gateway of a former pod range, unless pods of that range still use it."""
        families = {g.version for g in missing}
        stale = [p for p in present if p.version in families and not p.ip.is_link_local]
        if stale and any(link.master == bridge.index for link in self._links.links()):
            raise CniError(
                MACHINE_FAILURE,
                f"bridge {bridge.name} has {stale[0]}, which is not the gateway of this node's range "
                f"{missing[0].network}",
                "the node's pod range changed: delete the pods of the old range first",
            )
        for address in stale:
            self._links.delete_address(bridge.index, address)

    def _forward(self, wanted: BridgeSettings) -> None:
        families = {g.version for g in wanted.gateways}
        if 4 in families:
            self._sysctl.set("net/ipv4/ip_forward", "1")
        if 6 in families:
            self._sysctl.set(f"net/ipv6/conf/{wanted.name}/disable_ipv6", "0")
            self._sysctl.set("net/ipv6/conf/all/forwarding", "1")

    def attach(self, wanted: BridgeSettings, plug: Plug) -> Result:
        """Make the pair, plug it in and configure the pod's end; return ADD's result.

        A pair left by an ADD that was cut off is replaced. Whatever fails, nothing of the pair stays.
        """
        bridge = self.ensure(wanted)
        mac = plug.mac or mac_of(plug.ips[0].address.ip)
        host = self._create_pair(bridge, wanted, plug, mac)
        try:
            self._configure_pod(host, plug)
        except BaseException:
            self._links.delete(host.index)
            raise
        mtu = host.mtu_bytes
        return Result(
            (
                Interface(bridge.name, bridge.mac, "", bridge.mtu_bytes),
                Interface(host.name, host.mac, "", mtu),
                Interface(plug.ifname, mac, plug.netns, mtu),
            ),
            tuple(IPConfig(ip.address, ip.gateway, 2) for ip in plug.ips),
            plug.routes,
        )

    def _create_pair(self, bridge: Link, wanted: BridgeSettings, plug: Plug, mac: str) -> Link:
        spec = Veth(
            host_end(plug.container_id, plug.ifname),
            plug.ifname,
            plug.netns_fd,
            wanted.mtu_bytes,
            "",
            mac,
            bridge.index,
            wanted.hairpin,
            True,
        )
        with _machine(f"make interface {plug.ifname} of {plug.netns}"):
            try:
                return self._links.create(spec)
            except AlreadyInUse:
                left = self._links.find(spec.name)
                if left is None:
                    raise CniError(
                        INVALID_ENVIRONMENT, f"CNI_IFNAME {plug.ifname}: is there already in {plug.netns}"
                    ) from None
                self._links.delete(left.index)
                return self._links.create(spec)

    def _configure_pod(self, host: Link, plug: Plug) -> None:
        with _machine(f"configure {plug.ifname} of {plug.netns}"):
            links, routes = self._netns.within(plug.netns_fd, lambda: self._enter(plug))
            try:
                links.add_addresses(host.peer, [ip.address for ip in plug.ips], up=True)
                routes.replace_all(
                    [Route(r.destination, host.peer, r.gateway or _gateway_for(r, plug.ips)) for r in plug.routes]
                )
            finally:
                links.close()

    def _enter(self, plug: Plug) -> tuple[LinkPort, RoutePort]:
        """Prepare IPv6 before the interface comes up, and open the pod's netlink; inside its namespace."""
        conf = f"net/ipv6/conf/{plug.ifname}"
        self._sysctl.set(f"{conf}/accept_dad", "0")  # see _create: hairpin
        if any(ip.address.version == 6 for ip in plug.ips):
            self._sysctl.set(f"{conf}/disable_ipv6", "0")
            self._sysctl.set(f"{conf}/accept_ra", "0")
        return self._open_pod()

    def find_host_end(self, container_id: str, ifname: str) -> int | None:
        """Return the index of the pair's end in the node; None when there is none."""
        found = self._links.find(host_end(container_id, ifname))
        return found.index if found is not None and found.kind == "veth" else None

    def check(self, wanted: BridgeSettings, plug: Plug, previous: Result) -> None:
        """Raise CniError(110) when bridge, pair, addresses or routes are not as ADD left them."""
        with _machine(f"check {plug.ifname} of {plug.netns}"):
            bridge = self._links.find(wanted.name)
            _require(bridge is not None and bridge.up, f"bridge {wanted.name} is missing or down")
            assert bridge is not None
            present = {a.interface for a in self._links.addresses(bridge.index)}
            for gateway in wanted.gateways:
                _require(gateway in present, f"bridge {wanted.name} has lost its address {gateway}")
            self._check_host_end(wanted, plug, bridge)
            self._check_pod(plug, previous)

    def _check_host_end(self, wanted: BridgeSettings, plug: Plug, bridge: Link) -> None:
        name = host_end(plug.container_id, plug.ifname)
        host = self._links.find(name)
        _require(host is not None, f"{name} is missing")
        assert host is not None
        _require(host.master == bridge.index, f"{name} is no port of {wanted.name}")
        _require(host.up, f"{name} is down")
        _require(host.hairpin == wanted.hairpin, f"{name} has hairpin {'on' if host.hairpin else 'off'}")

    def _check_pod(self, plug: Plug, previous: Result) -> None:
        links, routes = self._netns.within(plug.netns_fd, self._open_pod)
        try:
            inside = links.find(plug.ifname)
            _require(inside is not None, f"{plug.ifname} is missing in {plug.netns}")
            assert inside is not None
            _require(inside.up, f"{plug.ifname} is down")
            for i, interface in enumerate(previous.interfaces):
                if interface.name == plug.ifname and interface.sandbox:
                    same = not interface.mac or interface.mac == inside.mac
                    _require(same, f"{plug.ifname} has {inside.mac}, not {interface.mac}")
                    _check_addresses(plug.ifname, i, previous, links, inside)
            present = {r.destination: r for r in routes.routes() if r.link == inside.index}
            for route in previous.routes:
                _require(route.destination in present, f"route to {route.destination} is missing")
        finally:
            links.close()


def _check_addresses(ifname: str, index: int, previous: Result, links: LinkPort, inside: Link) -> None:
    present = {a.interface for a in links.addresses(inside.index)}
    for ip in previous.ips:
        if ip.interface == index:
            wanted = ip_interface(str(ip.address))
            _require(wanted in present, f"{ifname} has lost its address {wanted}")


def _gateway_for(route: RouteConfig, ips: Sequence[IPConfig]) -> IPAddress | None:
    """Return the gateway of the pod's own range in the route's family; None: on link."""
    return next((ip.gateway for ip in ips if ip.address.version == route.destination.version), None)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CniError(CHECK_FAILED, otherwise)


@contextmanager
def _machine(act: str) -> Iterator[None]:
    """Say what was being done when the kernel refuses."""
    try:
        yield
    except MachineError as error:
        raise CniError(MACHINE_FAILURE, f"cannot {act}", str(error)) from error
