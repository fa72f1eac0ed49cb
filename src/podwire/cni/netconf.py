"""Network configuration lists: what an administrator writes in /etc/cni/net.d, and what a plugin is sent.

Pure. CNI 1.1 section 1 (format) and section 3, "Deriving execution configuration".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from podwire.cni.spec import (
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    SUPPORTED_VERSIONS,
    CniError,
    Json,
    require_network_name,
    version_key,
)

GC_KEY = "cni.dev/valid-attachments"
# What the first runtimes of 1.1 called it; written beside the right name, read when that is missing.
GC_KEY_OLD = "cni.dev/attachments"


@dataclass(frozen=True, slots=True)
class PluginConf:
    """One entry of ``plugins``. ``capabilities`` are the names that the plugin declares as true."""

    type: str
    capabilities: frozenset[str]
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NetworkList:
    """A configuration list that passed validation. ``raw`` is what was read, for the result cache."""

    name: str
    version: str
    plugins: tuple[PluginConf, ...]
    disable_check: bool
    disable_gc: bool
    raw: Mapping[str, Any]


def parse_list(raw: Any) -> NetworkList:
    """Return the configuration list that ``raw`` (decoded JSON) is; a single plugin becomes a list of one.

    Raises CniError(7) naming the field, CniError(1) for a version that is not spoken.
    """
    if not isinstance(raw, dict):
        raise CniError(INVALID_CONFIG, "the network configuration is not a JSON object")
    if "plugins" not in raw:
        if "type" not in raw:
            raise CniError(INVALID_CONFIG, "plugins: is missing")
        top = {key: raw[key] for key in ("cniVersion", "name") if key in raw}
        raw = {**top, "plugins": [raw]}
    name = require_network_name(raw.get("name"))
    plugins = raw["plugins"]
    if not isinstance(plugins, list) or not plugins:
        raise CniError(INVALID_CONFIG, "plugins: is not a list of at least one plugin")
    return NetworkList(
        name,
        _choose_version(raw),
        tuple(_parse_plugin(p, f"plugins[{i}]") for i, p in enumerate(plugins)),
        _read_flag(raw, "disableCheck"),
        _read_flag(raw, "disableGC"),
        raw,
    )


def _parse_plugin(raw: Any, where: str) -> PluginConf:
    if not isinstance(raw, dict):
        raise CniError(INVALID_CONFIG, f"{where}: is not a JSON object")
    kind = raw.get("type")
    # The type is a file name in CNI_PATH: one with a slash would escape from it.
    if not isinstance(kind, str) or not kind or "/" in kind or kind in (".", ".."):
        raise CniError(INVALID_CONFIG, f"{where}.type: {kind!r} is not the name of a plugin")
    capabilities = raw.get("capabilities") or {}
    if not isinstance(capabilities, dict):
        raise CniError(INVALID_CONFIG, f"{where}.capabilities: is not a JSON object")
    return PluginConf(kind, frozenset(name for name, on in capabilities.items() if on is True), raw)


def _choose_version(raw: Mapping[str, Any]) -> str:
    """Return the highest version that both list and podwire know (``cniVersions`` came with 1.1.0)."""
    single = raw.get("cniVersion")
    offered = raw.get("cniVersions") or []
    if not isinstance(offered, list) or not all(isinstance(v, str) for v in offered):
        raise CniError(INVALID_CONFIG, "cniVersions: is not a list of versions")
    if single is not None and not isinstance(single, str):
        raise CniError(INVALID_CONFIG, f"cniVersion: {single!r} is not a version")
    everything = [*offered, *([single] if single else [])]
    known: list[str] = [v for v in everything if v in SUPPORTED_VERSIONS]
    if not known:
        said = ", ".join(everything) or "none given"
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion: {said} is not supported",
            f"supported: {', '.join(SUPPORTED_VERSIONS)}",
        )
    return max(known, key=version_key)


def _read_flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name, False)
    if value in ("true", "false"):  # the specification allows the words
        return bool(value == "true")
    if not isinstance(value, bool):
        raise CniError(INVALID_CONFIG, f"{name}: {value!r} is neither true nor false")
    return value


def derive(
    network: NetworkList,
    plugin: PluginConf,
    *,
    capability_args: Mapping[str, Any] | None = None,
    prev_result: Mapping[str, Any] | None = None,
    valid_attachments: Iterable[tuple[str, str]] | None = None,
) -> Json:
    """Return what one plugin of the list gets on standard input.

    "capabilities" is replaced by "runtimeConfig", which holds those arguments that the plugin declared.
    """
    config = {key: value for key, value in plugin.raw.items() if key != "capabilities"}
    config["cniVersion"], config["name"] = network.version, network.name
    wanted = {key: value for key, value in (capability_args or {}).items() if key in plugin.capabilities}
    if wanted:
        config["runtimeConfig"] = wanted
    if prev_result is not None:
        config["prevResult"] = dict(prev_result)
    if valid_attachments is not None:
        alive = [{"containerID": c, "ifname": i} for c, i in valid_attachments]
        config[GC_KEY] = config[GC_KEY_OLD] = alive
    return config


def read_valid_attachments(config: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return container id and interface name of every attachment that GC must keep.

    Raises CniError(7) when the list is missing: an absent list is not an empty one, and taking it for
    one would cut off every pod.
    """
    listed = config.get(GC_KEY, config.get(GC_KEY_OLD))
    if not isinstance(listed, list):
        raise CniError(INVALID_CONFIG, f"{GC_KEY}: is missing")
    try:
        return frozenset((str(a["containerID"]), str(a["ifname"])) for a in listed)
    except (TypeError, KeyError):
        raise CniError(INVALID_CONFIG, f"{GC_KEY}: an entry lacks containerID or ifname") from None
