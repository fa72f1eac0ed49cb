"""What podwire-cni is told: its configuration, the runtime's capabilities, flannel's subnet.env. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from podwire.cni.ipam import RangeSet, parse_range_sets, parse_requested
from podwire.cni.spec import (
    INVALID_CONFIG,
    UNSUPPORTED_FIELD,
    CniError,
    IPAddress,
    IPInterface,
    IPNetwork,
    Request,
    RouteConfig,
    parse_mac,
)

PLUGIN_TYPE = "podwire-cni"
IPAM_TYPES = ("podwire-ipam", "host-local")
DEFAULT_SUBNET_FILE = "/run/flannel/subnet.env"
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    """What the fabric wrote for this node: subnets (one a family), whole networks, MTU (0: unsaid)."""

    subnets: tuple[IPNetwork, ...]
    networks: tuple[IPNetwork, ...]
    mtu_bytes: int


def parse_subnet_env(text: str, where: str = DEFAULT_SUBNET_FILE) -> SubnetEnv:
    """Return what a subnet.env says. Raises CniError(7) naming the variable."""
    pairs = dict(line.strip().partition("=")[::2] for line in text.splitlines() if "=" in line)

    def read(*names: str) -> tuple[IPNetwork, ...]:
        found: list[IPNetwork] = []
        for name in names:
            for part in filter(None, pairs.get(name, "").split(",")):
                try:
                    found.append(ip_interface(part).network)
                except ValueError as error:
                    raise CniError(INVALID_CONFIG, f"{where}: {name}: {error}") from None
        return tuple(found)

    subnets = read("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET")
    if not subnets:
        raise CniError(INVALID_CONFIG, f"{where}: names neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET")
    mtu = pairs.get("FLANNEL_MTU", "0")
    if not mtu.isdigit():
        raise CniError(INVALID_CONFIG, f"{where}: FLANNEL_MTU: {mtu!r} is not a number")
    return SubnetEnv(subnets, read("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"), int(mtu))


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One published port. ``host_ip`` None: every address of the node."""

    protocol: str  # "tcp", "udp", "sctp"
    host_port: int
    container_port: int
    host_ip: IPAddress | None = None

    @property
    def protocol_number(self) -> int:
        """The IP protocol number."""
        return _PROTOCOLS[self.protocol]


@dataclass(frozen=True, slots=True)
class Published:
    """One port of one pod address. ``host_ip`` None: every address of the node."""

    protocol: str
    host_port: int
    container_port: int
    pod: IPInterface
    host_ip: IPAddress | None = None

    @property
    def family(self) -> str:
        """nft's word for the address family: "ip" or "ip6"."""
        return "ip" if self.pod.version == 4 else "ip6"


@dataclass(frozen=True, slots=True)
class Settings:
    """One execution of podwire-cni, everything parsed. Empty ``range_sets``: they are in subnet.env."""

    network: str
    bridge: str
    mtu_bytes: int
    hairpin: bool
    is_gateway: bool
    default_route: bool
    range_sets: tuple[RangeSet, ...]
    routes: tuple[RouteConfig, ...]
    subnet_file: Path
    data_directory: Path | None
    mac: str
    requested: tuple[IPAddress, ...]
    ports: tuple[PortMapping, ...]
    dns: Mapping[str, Any]


_UNSUPPORTED = ("vlan", "vlanTrunk", "ipMasq", "promiscMode", "macspoofchk")


def parse_settings(request: Request) -> Settings:
    """Return the settings of one request. Raises CniError 2 or 7 naming the field."""
    config, runtime = request.config, _read_object(request.config, "runtimeConfig")
    for name in _UNSUPPORTED:
        # Ignored, they would leave a pod less protected or less connected than its author believes.
        if config.get(name):
            raise CniError(UNSUPPORTED_FIELD, f"{name}: is not supported by {PLUGIN_TYPE}")
    ipam = _read_object(config, "ipam")
    if ipam.get("type", IPAM_TYPES[0]) not in IPAM_TYPES:
        raise CniError(UNSUPPORTED_FIELD, f"ipam.type: {ipam['type']!r} is not supported by {PLUGIN_TYPE}")
    bridge = config.get("bridge", "cni0")
    if not isinstance(bridge, str) or not 0 < len(bridge) < 16 or "/" in bridge:
        raise CniError(INVALID_CONFIG, f"bridge: {bridge!r} is not an interface name")
    default_route = _read_flag(config, "isDefaultGateway", True)
    data = ipam.get("dataDir")
    return Settings(
        config["name"],
        bridge,
        _read_mtu(config),
        _read_flag(config, "hairpinMode", True),
        _read_flag(config, "isGateway", True) or default_route,
        default_route,
        parse_range_sets(_with_runtime_ranges(ipam, runtime)),
        _parse_routes(ipam.get("routes") or ()),
        Path(config.get("subnetFile") or DEFAULT_SUBNET_FILE),
        Path(data) if data else None,
        _read_mac(request, runtime),
        _read_requested(request, runtime),
        parse_ports(runtime.get("portMappings") or ()),
        _read_object(runtime, "dns") or _read_object(config, "dns") or _read_object(ipam, "dns"),
    )


def _read_object(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise CniError(INVALID_CONFIG, f"{name}: is not a JSON object")
    return value


def _read_flag(config: Mapping[str, Any], name: str, otherwise: bool) -> bool:
    value = config.get(name, otherwise)
    if not isinstance(value, bool):
        raise CniError(INVALID_CONFIG, f"{name}: {value!r} is neither true nor false")
    return value


def _read_mtu(config: Mapping[str, Any]) -> int:
    value = config.get("mtu", 0)
    if isinstance(value, bool) or not isinstance(value, int) or not (value == 0 or 68 <= value <= 65535):
        raise CniError(INVALID_CONFIG, f"mtu: {value!r} is not between 68 and 65535 bytes")
    return value


def _read_mac(request: Request, runtime: Mapping[str, Any]) -> str:
    cni = _read_object(_read_object(request.config, "args"), "cni")
    for value, where in (
        (runtime.get("mac"), "runtimeConfig.mac"),
        (cni.get("mac"), "args.cni.mac"),
        (request.args.get("MAC"), "CNI_ARGS MAC"),
    ):
        if value:
            return parse_mac(value, where)
    return ""


def _read_requested(request: Request, runtime: Mapping[str, Any]) -> tuple[IPAddress, ...]:
    cni = _read_object(_read_object(request.config, "args"), "cni")
    given: list[IPAddress] = []
    for value, where in (
        (request.args.get("IP", "").split(","), "CNI_ARGS IP"),
        (cni.get("ips") or [], "args.cni.ips"),
        (runtime.get("ips") or [], "runtimeConfig.ips"),
    ):
        if not isinstance(value, list):
            raise CniError(INVALID_CONFIG, f"{where}: is not a list of addresses")
        given += parse_requested(filter(None, value), where)
    return tuple(dict.fromkeys(given))


def _with_runtime_ranges(ipam: Mapping[str, Any], runtime: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the section with the ``ipRanges`` capability put first, as host-local does."""
    extra = runtime.get("ipRanges")
    if not extra:
        return ipam
    return {**ipam, "ranges": [*extra, *(ipam.get("ranges") or [])]}


def _parse_routes(raw: Iterable[Any]) -> tuple[RouteConfig, ...]:
    routes: list[RouteConfig] = []
    for i, entry in enumerate(raw):
        try:
            gateway = ip_address(entry["gw"]) if entry.get("gw") else None
            routes.append(RouteConfig(ip_network(entry["dst"], strict=False), gateway))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CniError(INVALID_CONFIG, f"ipam.routes[{i}]: {error}") from None
    return tuple(routes)


def parse_ports(raw: Any) -> tuple[PortMapping, ...]:
    """Return the ``portMappings`` capability. Raises CniError(7) naming the entry."""
    ports: list[PortMapping] = []
    for i, entry in enumerate(raw):
        where = f"runtimeConfig.portMappings[{i}]"
        if not isinstance(entry, dict):
            raise CniError(INVALID_CONFIG, f"{where}: is not a JSON object")
        if not entry.get("hostPort"):
            continue  # a containerPort that nobody published
        protocol = str(entry.get("protocol") or "tcp").lower()
        if protocol not in _PROTOCOLS:
            raise CniError(INVALID_CONFIG, f"{where}.protocol: {protocol!r} is not tcp, udp or sctp")
        host, container = entry.get("hostPort"), entry.get("containerPort")
        for name, port in (("hostPort", host), ("containerPort", container)):
            if not isinstance(port, int) or not 0 < port < 65536:
                raise CniError(INVALID_CONFIG, f"{where}.{name}: {port!r} is not a port")
        ports.append(PortMapping(protocol, host, container, _parse_host_ip(entry, where)))  # type: ignore[arg-type]
    return tuple(ports)


def _parse_host_ip(entry: Mapping[str, Any], where: str) -> IPAddress | None:
    try:
        address = ip_address(entry["hostIP"]) if entry.get("hostIP") else None
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f"{where}.hostIP: {error}") from None
    return None if address is None or address.is_unspecified else address
