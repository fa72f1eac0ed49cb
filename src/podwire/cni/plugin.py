"""podwire-cni: the plugin. One request in, one result or CniError out; CNI 1.1 section 2.

The work is done in the agent's process. The executable of the same name only carries requests to it
(``cni.server``).

What an attachment holds, in the order in which ADD takes it and, backwards, DEL gives it back:
addresses (disk), the pair of links (kernel), host ports (disk and kernel). The record of addresses
outlives the links, so that whatever a killed ADD or DEL left can be found from the records.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from podwire.cni.bridge import DEFAULT_ROUTES, BridgeSettings, OpenPod, Plug, PodBridge
from podwire.cni.hostports import HostPorts
from podwire.cni.ipam import AddressPool, RangeSet, parse_range
from podwire.cni.netconf import read_valid_attachments
from podwire.cni.removal import LinkRemoval
from podwire.cni.settings import Settings, SubnetEnv, parse_settings, parse_subnet_env
from podwire.cni.spec import (
    CHECK_FAILED,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    MACHINE_FAILURE,
    NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    CniError,
    IPAddress,
    IPConfig,
    IPInterface,
    Json,
    Request,
    Result,
    RouteConfig,
    parse_result,
    render_result,
    render_versions,
)
from podwire.cni.staleflows import StaleFlows
from podwire.cni.store import Owner, Reservations, current_epoch, is_live_netns
from podwire.kernel.conntrack.port import ConntrackPort
from podwire.kernel.link.port import LinkPort
from podwire.kernel.netns.port import NetnsPort
from podwire.kernel.nft.port import NftPort
from podwire.kernel.sysctl.port import SysctlPort
from podwire.model.errors import MachineError

DEFAULT_DATA_DIRECTORY = Path("/var/lib/podwire/cni")


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel of one node, as the plugin uses it.

    ``links`` is bound to the node's namespace. ``open_links`` opens a second one (removals wait for the
    kernel and are done in a thread), ``open_pod`` is called inside a pod's namespace, ``open_nft`` and
    ``open_conntrack`` when the first host port is published. ``is_netns`` says whether a path is a network
    namespace, and ``close_netns`` closes what ``netns.open`` returned.
    """

    links: LinkPort
    netns: NetnsPort
    sysctl: SysctlPort
    open_links: Callable[[], LinkPort]
    open_pod: OpenPod
    open_nft: Callable[[], NftPort]
    open_conntrack: Callable[[], ConntrackPort]
    is_netns: Callable[[str], bool] = is_live_netns
    close_netns: Callable[[int], None] = os.close


class PodwireCni:
    """The plugin of one node. ``run`` is what ``Invoker`` takes as in-process plugin."""

    def __init__(self, kernel: Kernel, data_directory: Path = DEFAULT_DATA_DIRECTORY) -> None:
        self._kernel, self._data = kernel, data_directory
        self._bridge = PodBridge(kernel.links, kernel.netns, kernel.sysctl, kernel.open_pod)
        self._ports: dict[Path, HostPorts] = {}
        self._reclaimed: set[Path] = set()
        self._removal = LinkRemoval(kernel.open_links)

    async def run(self, request: Request) -> Json | None:
        """Carry one request out; return the result of ADD and VERSION, None for the others.

        Raises CniError.
        """
        if request.command == "VERSION":
            return render_versions(str(request.config.get("cniVersion") or "1.1.0"))
        settings = parse_settings(request)
        try:
            match request.command:
                case "ADD":
                    return render_result(await self._add(request, settings), request.version)
                case "DEL":
                    await self._delete(settings, request.container_id, request.ifname)
                case "CHECK":
                    self._check(request, settings)
                case "GC":
                    await self._collect_garbage(request, settings)
                case _:
                    self._status(settings)
        except MachineError as error:
            raise CniError(MACHINE_FAILURE, f"{request.command} failed", str(error)) from error
        return None

    async def _add(self, request: Request, settings: Settings) -> Result:
        env = _read_subnet_env(settings)
        ranges = _ranges(settings, env)
        owner = Owner(request.container_id, request.ifname, request.netns)
        with self._open_netns(request) as netns_fd:
            pool = self._pool(settings, ranges)
            ips = pool.allocate(owner, settings.requested)
            try:
                plug = _plug(request, settings, env, ips, netns_fd)
                result = self._bridge.attach(_bridge_settings(settings, env, ips), plug)
                self._publish(settings, owner, ips)
            except BaseException:
                await self._delete(settings, request.container_id, request.ifname)
                raise
        return Result(result.interfaces, result.ips, result.routes, settings.dns)

    def _publish(self, settings: Settings, owner: Owner, ips: Sequence[IPConfig]) -> None:
        if not settings.ports:
            return
        self._host_ports(settings).publish(owner, settings.ports, [ip.address for ip in ips])
        if any(ip.address.version == 4 for ip in ips):
            # 127.0.0.1:hostPort on the node itself: such a packet may leave through the bridge.
            self._kernel.sysctl.set(f"net/ipv4/conf/{settings.bridge}/route_localnet", "1")

    async def _delete(self, settings: Settings, container_id: str, ifname: str) -> None:
        self._host_ports(settings).withdraw(container_id, ifname)
        index = self._bridge.find_host_end(container_id, ifname)
        if index is not None:
            await self._removal.remove(index)
        self._pool(settings, ()).release(container_id, ifname)

    def _check(self, request: Request, settings: Settings) -> None:
        raw = request.config.get("prevResult")
        if raw is None:
            raise CniError(INVALID_CONFIG, "prevResult: is missing, CHECK needs it")
        previous = parse_result(raw)
        env = _read_subnet_env(settings)
        held = self._pool(settings, _ranges(settings, env)).held_by(request.container_id, request.ifname)
        wanted = _own_ips(request, previous)
        for ip in wanted:
            if ip.address.ip not in held:
                raise CniError(CHECK_FAILED, f"address {ip.address.ip} is not reserved for this container")
        with self._open_netns(request) as netns_fd:
            plug = _plug(request, settings, env, wanted, netns_fd)
            self._bridge.check(_bridge_settings(settings, env, wanted), plug, previous)
        self._host_ports(settings).check(request.container_id, request.ifname, settings.ports)

    def _status(self, settings: Settings) -> None:
        try:
            ranges = _ranges(settings, _read_subnet_env(settings))
        except CniError as error:
            raise CniError(NOT_AVAILABLE, error.msg, error.details) from error
        if not ranges:
            raise CniError(NOT_AVAILABLE, "no range to take addresses from")
        self._pool(settings, ranges)
        try:
            with self._store(settings).locked():
                pass
        except CniError as error:
            raise CniError(NOT_AVAILABLE, error.msg, error.details) from error

    async def _collect_garbage(self, request: Request, settings: Settings) -> None:
        alive = read_valid_attachments(request.config)
        with self._store(settings).locked():
            owners = {o.key for o in self._store(settings).owners().values()}
        stale = [key for key in sorted(owners) if key not in alive]
        indexes = [i for key in stale if (i := self._bridge.find_host_end(*key)) is not None]
        self._host_ports(settings).withdraw_except(alive)
        await asyncio.gather(*(self._removal.remove(i) for i in indexes))
        # Only what was seen above: an ADD may have come in while the links were being removed.
        pool = self._pool(settings, ())
        for container_id, ifname in stale:
            pool.release(container_id, ifname)

    def _directory(self, settings: Settings) -> Path:
        return (settings.data_directory or self._data) / settings.network

    def _store(self, settings: Settings) -> Reservations:
        """Return the network's reservations, freed once of what was held before this boot."""
        directory = self._directory(settings)
        store = Reservations(directory)
        if directory not in self._reclaimed:
            lost = [self._reclaim(part) for part in (store, Reservations(directory / "ports"))]
            self._reclaimed.add(directory)
            if lost[1]:
                self._host_ports(settings).restore()
        return store

    def _reclaim(self, part: Reservations) -> list[Owner]:
        with part.locked():
            return part.reclaim(current_epoch(), self._kernel.is_netns)

    def _pool(self, settings: Settings, ranges: Sequence[RangeSet]) -> AddressPool:
        return AddressPool(self._store(settings), ranges)

    def _host_ports(self, settings: Settings) -> HostPorts:
        self._store(settings)
        directory = self._directory(settings) / "ports"
        if directory not in self._ports:
            flows = StaleFlows(self._kernel.open_conntrack, self._local_addresses)
            self._ports[directory] = HostPorts(Reservations(directory), self._kernel.open_nft, flows)
        return self._ports[directory]

    def _local_addresses(self) -> frozenset[IPAddress]:
        return frozenset(a.interface.ip for a in self._kernel.links.addresses())

    @contextmanager
    def _open_netns(self, request: Request) -> Iterator[int]:
        """Yield a descriptor of the pod's namespace: the caller's, or one opened here."""
        if request.netns_fd >= 0:
            yield request.netns_fd
            return
        if not self._kernel.is_netns(request.netns):
            raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS {request.netns}: no network namespace is there")
        fd = self._kernel.netns.open(Path(request.netns))
        try:
            yield fd
        finally:
            self._kernel.close_netns(fd)


def _read_subnet_env(settings: Settings) -> SubnetEnv | None:
    """Return what the fabric says of this node; None when the configuration itself has ranges.

    Raises CniError(11) when it has said nothing yet.
    """
    try:
        return parse_subnet_env(settings.subnet_file.read_text(), str(settings.subnet_file))
    except OSError as error:
        if settings.range_sets:
            return None
        raise CniError(
            TRY_AGAIN_LATER,
            f"{settings.subnet_file} cannot be read: {error.strerror}",
            "the fabric writes it as soon as the node has a podCIDR",
        ) from None


def _ranges(settings: Settings, env: SubnetEnv | None) -> tuple[RangeSet, ...]:
    if settings.range_sets or env is None:
        return settings.range_sets
    return tuple((parse_range({"subnet": str(s)}, str(settings.subnet_file)),) for s in env.subnets)


def _bridge_settings(settings: Settings, env: SubnetEnv | None, ips: Sequence[IPConfig]) -> BridgeSettings:
    gateways = _gateways(ips) if settings.is_gateway else ()
    mtu = settings.mtu_bytes or (env.mtu_bytes if env is not None else 0)
    return BridgeSettings(settings.bridge, mtu, settings.hairpin, gateways)


def _gateways(ips: Sequence[IPConfig]) -> tuple[IPInterface, ...]:
    return tuple(ip_interface(f"{ip.gateway}/{ip.address.network.prefixlen}") for ip in ips if ip.gateway is not None)


def _plug(
    request: Request,
    settings: Settings,
    env: SubnetEnv | None,
    ips: Sequence[IPConfig],
    netns_fd: int,
) -> Plug:
    return Plug(
        request.container_id,
        request.ifname,
        request.netns,
        netns_fd,
        settings.mac,
        tuple(ips),
        _routes(settings, env, ips),
    )


def _routes(settings: Settings, env: SubnetEnv | None, ips: Sequence[IPConfig]) -> tuple[RouteConfig, ...]:
    """Return the pod's routes: the cluster's networks, those configured, the default; no family twice."""
    versions = {ip.address.version for ip in ips}
    own = {ip.address.network for ip in ips}
    routes = [RouteConfig(n) for n in (env.networks if env is not None and not settings.range_sets else ())]
    routes += settings.routes
    if settings.default_route:
        gateways = {ip.address.version: ip.gateway for ip in ips}
        routes += [RouteConfig(d, gateways.get(d.version)) for d in DEFAULT_ROUTES]
    wanted = {r.destination: r for r in routes if r.destination.version in versions}
    return tuple(r for d, r in wanted.items() if d not in own)


def _own_ips(request: Request, previous: Result) -> tuple[IPConfig, ...]:
    """Return those addresses of prevResult that belong to the interface which is being checked."""
    return tuple(
        ip
        for ip in previous.ips
        if ip.interface is not None
        and ip.interface < len(previous.interfaces)
        and previous.interfaces[ip.interface].sandbox
        and previous.interfaces[ip.interface].name == request.ifname
    )
