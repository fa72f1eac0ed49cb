"""CNI as values: requests, results and errors of the specification 0.3.0 to 1.1.0.

Pure: nothing here opens a file, a socket or a process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any, TypeAlias

from podwire.model.errors import PodwireError

Json: TypeAlias = dict[str, Any]
IPAddress: TypeAlias = IPv4Address | IPv6Address
IPInterface: TypeAlias = IPv4Interface | IPv6Interface
IPNetwork: TypeAlias = IPv4Network | IPv6Network

SUPPORTED_VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST_VERSION = "1.1.0"
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}

# Error codes of the specification (section "Error"); 100 and above are the plugin's own.
INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
NOT_AVAILABLE_LIMITED = 51
MACHINE_FAILURE = 100
RANGE_EXHAUSTED = 101
ADDRESS_TAKEN = 102
HOST_PORT_TAKEN = 103
CHECK_FAILED = 110

_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_NETWORK_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


class CniError(PodwireError):
    """What a plugin answers instead of a result: the specification's code, a message, details."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        self.code, self.msg, self.details = code, msg, details
        super().__init__(f"{msg}: {details}" if details else msg)

    def render(self, version: str = LATEST_VERSION) -> Json:
        """Return the error as the JSON that a plugin prints."""
        answer: Json = {"cniVersion": version, "code": self.code, "msg": self.msg}
        if self.details:
            answer["details"] = self.details
        return answer


def parse_error(answer: Mapping[str, Any]) -> CniError:
    """Return the error that a plugin printed; fields of the wrong type are shown, not trusted."""
    code = answer.get("code")
    return CniError(
        code if isinstance(code, int) else MACHINE_FAILURE,
        str(answer.get("msg") or "the plugin failed and said nothing"),
        str(answer.get("details") or ""),
    )


def version_key(version: str) -> tuple[int, ...]:
    """Return the version as numbers, to be compared. Raises CniError(1)."""
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion {version!r} is not a version") from None


def supports(version: str, command: str) -> bool:
    """Return whether ``command`` exists in this version of the specification."""
    return version_key(version) >= version_key(SINCE.get(command, "0.0.0"))


def require_version(version: str) -> None:
    """Raise CniError(1) unless this is a version that podwire speaks."""
    if version not in SUPPORTED_VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} is not supported",
            f"supported: {', '.join(SUPPORTED_VERSIONS)}",
        )


def require_container_id(container_id: str) -> None:
    """Raise CniError(4) unless the id is alphanumeric first, then also of ``_ . -``."""
    if not _CONTAINER_ID.fullmatch(container_id):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_CONTAINERID {container_id!r} is not a container id")


def require_ifname(ifname: str) -> None:
    """Raise CniError(4) unless Linux takes this as the name of an interface (``dev_valid_name``)."""
    bad = ifname in ("", ".", "..") or len(ifname) > 15 or any(c in "/:" or c.isspace() for c in ifname)
    if bad:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME {ifname!r} is not an interface name")


def require_network_name(name: object) -> str:
    """Return the network's name. Raises CniError(7)."""
    if not isinstance(name, str) or not _NETWORK_NAME.fullmatch(name):
        raise CniError(INVALID_CONFIG, f"name: {name!r} is not a network name")
    return name


def parse_mac(text: object, where: str) -> str:
    """Return a hardware address in lower case. Raises CniError(7)."""
    if not isinstance(text, str) or not _MAC.fullmatch(text):
        raise CniError(INVALID_CONFIG, f"{where}: {text!r} is not a hardware address")
    return text.lower()


@dataclass(frozen=True, slots=True)
class Request:
    """One execution of a plugin: the CNI_* environment and the configuration from standard input.

    ``netns_fd`` is the namespace already opened by the caller, or -1: then ``netns`` is opened.
    """

    command: str
    container_id: str
    netns: str
    ifname: str
    args: Mapping[str, str]
    path: str
    config: Json
    netns_fd: int = -1

    @property
    def version(self) -> str:
        """The configuration's cniVersion ("0.1.0" where it has none, as the specification says)."""
        return str(self.config.get("cniVersion") or "0.1.0")


_NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}


def parse_request(env: Mapping[str, str], config: Any, netns_fd: int = -1) -> Request:
    """Return the request that environment and configuration make. Raises CniError 1, 4, 6 or 7."""
    command = env.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_COMMAND {command!r} is not one of {', '.join(COMMANDS)}")
    missing = [name for name in _NEEDS.get(command, ()) if not env.get(name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"{command} needs {', '.join(missing)} in the environment")
    if not isinstance(config, dict):
        raise CniError(DECODING_FAILURE, "the network configuration is not a JSON object")
    request = Request(
        command,
        env.get("CNI_CONTAINERID", ""),
        env.get("CNI_NETNS", ""),
        env.get("CNI_IFNAME", ""),
        parse_args(env.get("CNI_ARGS", "")),
        env.get("CNI_PATH", ""),
        config,
        netns_fd,
    )
    if command == "VERSION":
        return request
    require_version(request.version)
    require_network_name(config.get("name"))
    if command in _NEEDS:
        require_container_id(request.container_id)
        require_ifname(request.ifname)
    if not supports(request.version, command):
        raise CniError(INCOMPATIBLE_VERSION, f"{command} does not exist in cniVersion {request.version}")
    return request


def parse_args(text: str) -> Mapping[str, str]:
    """Return CNI_ARGS ("A=1;B=2") as a mapping. Raises CniError(4)."""
    pairs: dict[str, str] = {}
    for part in filter(None, text.split(";")):
        name, equals, value = part.partition("=")
        if not equals:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {part!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def render_args(args: Mapping[str, str]) -> str:
    """Return CNI_ARGS; the inverse of ``parse_args``."""
    return ";".join(f"{name}={value}" for name, value in args.items())


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of a result. ``sandbox`` "" means the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu_bytes: int = 0  # since 1.1.0


@dataclass(frozen=True, slots=True)
class IPConfig:
    """One address of a result; ``interface`` indexes ``Result.interfaces``, None when unsaid."""

    address: IPInterface
    gateway: IPAddress | None = None
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """One route of a result. ``gateway`` None: the plugin's own choice."""

    destination: IPNetwork
    gateway: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a successful ADD says, whatever the version. ``dns`` is passed through as it came."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[RouteConfig, ...] = ()
    dns: Mapping[str, Any] = field(default_factory=dict)


def render_result(result: Result, version: str) -> Json:
    """Return the result as JSON of the given version.

    Before 1.0.0 an address says its family in ``version``; before 1.1.0 an interface has no ``mtu``.
    """
    key = version_key(version)
    ips: list[Json] = []
    for ip in result.ips:
        entry: Json = {"address": str(ip.address)}
        if key < (1, 0, 0):
            entry["version"] = str(ip.address.version)
        if ip.gateway is not None:
            entry["gateway"] = str(ip.gateway)
        if ip.interface is not None:
            entry["interface"] = ip.interface
        ips.append(entry)
    answer: Json = {"cniVersion": version}
    if result.interfaces:
        answer["interfaces"] = [_render_interface(i, key >= (1, 1, 0)) for i in result.interfaces]
    if ips:
        answer["ips"] = ips
    if result.routes:
        answer["routes"] = [
            {"dst": str(r.destination)} | ({"gw": str(r.gateway)} if r.gateway is not None else {})
            for r in result.routes
        ]
    answer["dns"] = dict(result.dns)
    return answer


def _render_interface(interface: Interface, with_mtu: bool) -> Json:
    entry: Json = {"name": interface.name}
    if interface.mac:
        entry["mac"] = interface.mac
    if interface.sandbox:
        entry["sandbox"] = interface.sandbox
    if with_mtu and interface.mtu_bytes:
        entry["mtu"] = interface.mtu_bytes
    return entry


def parse_result(answer: Any) -> Result:
    """Return the result that a plugin printed, of any supported version. Raises CniError(6)."""
    if not isinstance(answer, dict):
        raise CniError(DECODING_FAILURE, "the result is not a JSON object")
    require_version(str(answer.get("cniVersion") or "0.3.1"))
    try:
        return Result(
            tuple(
                Interface(i["name"], i.get("mac") or "", i.get("sandbox") or "", int(i.get("mtu") or 0))
                for i in answer.get("interfaces") or ()
            ),
            tuple(
                IPConfig(
                    ip_interface(ip["address"]),
                    ip_address(ip["gateway"]) if ip.get("gateway") else None,
                    ip.get("interface"),
                )
                for ip in answer.get("ips") or ()
            ),
            tuple(
                RouteConfig(ip_network(r["dst"], strict=False), ip_address(r["gw"]) if r.get("gw") else None)
                for r in answer.get("routes") or ()
            ),
            dict(answer.get("dns") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CniError(DECODING_FAILURE, "the result cannot be read", f"{error!r} in {answer}") from error


def render_versions(version: str = LATEST_VERSION) -> Json:
    """Return the answer to VERSION."""
    return {"cniVersion": version, "supportedVersions": list(SUPPORTED_VERSIONS)}
