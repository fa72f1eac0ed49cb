"""Write a volume's files so that readers see either all old or all new ones.

    VOLUME/config.yaml -> ..data/config.yaml     stable; made once per top-level name
    VOLUME/..data -> ..2026_11_21_10_00_00.12345 replaced by rename(2): the moment of change
    VOLUME/..2026_11_21_10_00_00.12345/config.yaml

Programs that watch their configuration watch for exactly this (fsnotify on ``..data``).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from podwire.node.volumes.payload import Payload

_DATA = "..data"


def write(directory: Path, payload: Payload, stamp: str, group: int | None = None) -> bool:
    """Make ``directory`` hold exactly ``payload``; return whether anything changed.

    ``stamp`` names the new generation ("..2026_11_21_10_00_00.1"). ``group`` is the pod's fsGroup; where
    it cannot be given (one mapped id in a user namespace) the files stay the agent's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / _DATA
    old = os.readlink(link) if link.is_symlink() else ""
    if old and _holds(directory / old, payload):
        return False
    fresh = directory / stamp
    fresh.mkdir(mode=0o755)
    for path, file in payload.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_file(target, file.content, file.mode, group)
    temporary = directory / "..data_tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(stamp)
    os.rename(temporary, link)
    _link_names(directory, {p.split("/")[0] for p in payload})
    if old:
        shutil.rmtree(directory / old, ignore_errors=True)
    return True


def _write_file(target: Path, content: bytes, mode: int, group: int | None) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        written = 0
        while written < len(content):
            written += os.write(fd, content[written:])
        if group is not None:
            mode |= 0o040
            try:
                os.fchown(fd, -1, group)
            except OSError:  # EINVAL, EPERM: the id is not mapped here
                pass
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _holds(generation: Path, payload: Payload) -> bool:
    present = {
        str(Path(root, name).relative_to(generation)) for root, _, names in os.walk(generation) for name in names
    }
    if present != set(payload):
        return False
    return all((generation / p).read_bytes() == f.content for p, f in payload.items())


def _link_names(directory: Path, wanted: set[str]) -> None:
    for name in wanted:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"{_DATA}/{name}")
    for entry in directory.iterdir():
        if not entry.name.startswith("..") and entry.name not in wanted and entry.is_symlink():
            entry.unlink()
