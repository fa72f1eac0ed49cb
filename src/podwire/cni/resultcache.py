"""The results of past ADDs, on disk, so that CHECK and DEL get ``prevResult`` after a restart as well.

The layout is the one that runtimes built on libcni use (``results/NETWORK-CONTAINERID-IFNAME``, kind
"cniCacheV1"), so that their tools can read it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podwire.cni.spec import IO_FAILURE, CniError

_KIND = "cniCacheV1"


@dataclass(frozen=True, slots=True)
class CachedAttachment:
    """What an ADD left: the configuration it ran with, its arguments and its result (None: unfinished).

    Written before the first plugin runs and again with the result, so that there is no plugin run that
    a later DEL would not know of.
    """

    network: str
    container_id: str
    ifname: str
    netns: str
    config: Mapping[str, Any]
    args: Mapping[str, str] = field(default_factory=dict)
    capability_args: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None


class ResultCache:
    """Attachments by network, container and interface."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "results"

    def _path(self, network: str, container_id: str, ifname: str) -> Path:
        return self._directory / f"{network}-{container_id}-{ifname}"

    def write(self, entry: CachedAttachment) -> None:
        """Keep the attachment, replacing what was kept of it. Raises CniError(5)."""
        path = self._path(entry.network, entry.container_id, entry.ifname)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        content = json.dumps(_render(entry)).encode()
        try:
            try:
                _write_whole(scratch, content)
            except FileNotFoundError:
                self._directory.mkdir(parents=True, exist_ok=True)
                _write_whole(scratch, content)
            os.rename(scratch, path)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise CniError(IO_FAILURE, f"cannot write {path}: {error.strerror}") from error

    def read(self, network: str, container_id: str, ifname: str) -> CachedAttachment | None:
        """Return what is kept of an attachment; None when there is nothing, or nothing readable."""
        return _read(self._path(network, container_id, ifname))

    def find(self, container_id: str, ifname: str) -> tuple[CachedAttachment, ...]:
        """Return the attachment of any network: the configuration may have changed since the ADD."""
        ending = f"-{container_id}-{ifname}"
        return tuple(e for e in self.entries(ending) if (e.container_id, e.ifname) == (container_id, ifname))

    def entries(self, ending: str = "") -> Iterator[CachedAttachment]:
        """Yield every attachment kept, by file name; unreadable files are passed over."""
        try:
            names = sorted(os.listdir(self._directory))
        except OSError:
            return
        for name in names:
            if not name.startswith(".") and name.endswith(ending):
                entry = _read(self._directory / name)
                if entry is not None:
                    yield entry

    def forget(self, network: str, container_id: str, ifname: str) -> None:
        """Drop an attachment; unknown: no error."""
        try:
            self._path(network, container_id, ifname).unlink(missing_ok=True)
        except OSError as error:
            raise CniError(IO_FAILURE, f"cannot remove a cached result: {error.strerror}") from error


def _write_whole(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def _render(entry: CachedAttachment) -> dict[str, Any]:
    return {
        "kind": _KIND,
        "containerId": entry.container_id,
        "config": base64.b64encode(json.dumps(dict(entry.config)).encode()).decode(),
        "ifName": entry.ifname,
        "networkName": entry.network,
        "netns": entry.netns,
        "cniArgs": [[name, value] for name, value in entry.args.items()],
        "capabilityArgs": dict(entry.capability_args),
        "result": None if entry.result is None else dict(entry.result),
    }


def _read(path: Path) -> CachedAttachment | None:
    try:
        raw = json.loads(path.read_bytes())
        if raw.get("kind") != _KIND:
            return None
        return CachedAttachment(
            raw["networkName"],
            raw["containerId"],
            raw["ifName"],
            raw.get("netns") or "",
            json.loads(base64.b64decode(raw["config"])),
            dict(raw.get("cniArgs") or ()),
            raw.get("capabilityArgs") or {},
            raw.get("result"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        return None
