"""The directory of network configurations: which one is in force, read again when it changes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from podwire.cni.netconf import NetworkList, parse_list
from podwire.cni.spec import INVALID_CONFIG, NOT_AVAILABLE, CniError

_ENDINGS = (".conflist", ".conf", ".json")


class ConfigDirectory:
    """/etc/cni/net.d of a node: the lexically first usable-looking file wins, as in every runtime."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stamp: tuple[str, int, int, int] | None = None
        self._network: NetworkList | None = None

    def current(self) -> NetworkList:
        """Return the network in force.

        Raises CniError(50) when there is no configuration, CniError(7) naming file and field when the
        first one is wrong: falling back to the next file would attach pods to a network nobody chose.
        """
        path = self._first()
        stamp = self._stamp_of(path)
        if self._network is None or stamp != self._stamp:
            self._network, self._stamp = _load(path), stamp
        return self._network

    def _first(self) -> Path:
        try:
            names = sorted(n for n in os.listdir(self.directory) if n.endswith(_ENDINGS))
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise CniError(NOT_AVAILABLE, f"cannot read {self.directory}: {error.strerror}") from error
        if not names:
            raise CniError(NOT_AVAILABLE, f"no network configuration in {self.directory}")
        return self.directory / names[0]

    @staticmethod
    def _stamp_of(path: Path) -> tuple[str, int, int, int]:
        try:
            found = path.stat()
        except OSError as error:
            raise CniError(NOT_AVAILABLE, f"cannot read {path}: {error.strerror}") from error
        # The inode changes when the file was replaced by rename within one tick of the clock.
        return (path.name, found.st_mtime_ns, found.st_size, found.st_ino)


def _load(path: Path) -> NetworkList:
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise CniError(NOT_AVAILABLE, f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f"{path} is not JSON: {error}") from None
    try:
        return parse_list(raw)
    except CniError as error:
        raise CniError(error.code, f"{path}: {error.msg}", error.details) from None
