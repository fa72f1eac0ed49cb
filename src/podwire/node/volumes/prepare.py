"""Set up a pod's volumes below pods/UID/volumes, keep generated ones current, and take them down.

Paths are the kubelet's: ``pods/UID/volumes/kubernetes.io~configmap/NAME``.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from podwire.kernel import libc
from podwire.node import quantity
from podwire.node.pod.environment import PodFacts
from podwire.node.volumes import atomic
from podwire.node.volumes.objects import ObjectCache
from podwire.node.volumes.payload import GENERATED, VolumeError, payload, tokens_wanted
from podwire.node.volumes.tokens import TokenSource
from podwire.runtime.clock import Clock

_serial = itertools.count(1)


class Volumes:
    """The volumes of the node's pods."""

    def __init__(self, pods_dir: Path, objects: ObjectCache, tokens: TokenSource, clock: Clock) -> None:
        self._pods_dir, self._objects, self._tokens, self._clock = pods_dir, objects, tokens, clock

    def directory(self, uid: str) -> Path:
        """Return the pod's directory."""
        return self._pods_dir / uid

    async def set_up(self, pod: Mapping[str, Any], facts: PodFacts) -> dict[str, Path]:
        """Return where each volume is, by name. Call again to bring generated ones up to date.

        Raises VolumeError, naming the volume.
        """
        paths: dict[str, Path] = {}
        for volume in pod["spec"].get("volumes") or ():
            try:
                paths[volume["name"]] = await self._one(pod, volume, facts)
            except (VolumeError, OSError) as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}') from error
        return paths

    async def _one(self, pod: Mapping[str, Any], volume: Mapping[str, Any], facts: PodFacts) -> Path:
        uid, name = pod["metadata"]["uid"], volume["name"]
        group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        base = self._pods_dir / uid / "volumes"
        if "emptyDir" in volume:
            return _empty_dir(base / "kubernetes.io~empty-dir" / name, volume["emptyDir"] or {}, group)
        if "hostPath" in volume:
            return _host_path(volume["hostPath"])
        kind = next((k for k in GENERATED if k in volume), None)
        if kind is None:
            what = ", ".join(k for k in volume if k != "name")
            raise VolumeError(f"volumes of type {what} are not supported by this node")
        namespace = pod["metadata"].get("namespace", "")
        tokens = {w: await self._tokens.get(pod, w) for w in tokens_wanted(volume)}
        files = payload(pod, volume, lambda k, n: self._objects.peek(k, namespace, n), facts, tokens)
        plugin = {"configMap": "configmap", "downwardAPI": "downward-api"}.get(kind, kind)
        directory: Path = base / f"kubernetes.io~{plugin}" / name
        stamp = self._clock.now().strftime("..%Y_%m_%d_%H_%M_%S.") + f"{os.getpid()}{next(_serial)}"
        atomic.write(directory, files, stamp, group)
        return directory

    def tear_down(self, uid: str) -> None:
        """Remove everything of a pod that is gone; memory-backed volumes are unmounted first."""
        directory = self._pods_dir / uid
        memory = directory / "volumes" / "kubernetes.io~empty-dir"
        if memory.is_dir():
            for entry in memory.iterdir():
                if os.path.ismount(entry):
                    libc.umount(str(entry), libc.MNT_DETACH)
        shutil.rmtree(directory, ignore_errors=True)


def _empty_dir(path: Path, source: Mapping[str, Any], group: int | None) -> Path:
    in_memory = source.get("medium") == "Memory"
    if path.is_dir() and (os.path.ismount(path) or not in_memory):
        return path
    path.mkdir(parents=True, exist_ok=True)
    if in_memory:
        limit = source.get("sizeLimit")
        size = f",size={int(quantity.parse(limit))}" if limit is not None else ""
        try:
            libc.mount("tmpfs", str(path), "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, f"mode=0777{size}")
        except OSError as error:
            path.rmdir()
            raise VolumeError(f"mount of a tmpfs: {error}") from error
    path.chmod(0o777)
    if group is not None:
        try:
            os.chown(path, -1, group)
            path.chmod(0o2777)
        except OSError:  # EINVAL, EPERM: the id is not mapped in this user namespace
            pass
    return path


_KINDS = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


def _host_path(source: Mapping[str, Any]) -> Path:
    """Return the path, made or checked as its ``type`` says; it is one of the node's mount view."""
    path, wanted = Path(source["path"]), source.get("type") or ""
    if ".." in path.parts:
        raise VolumeError(f"hostPath {path}: must not contain '..'")
    if wanted == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        wanted = "Directory"
    elif wanted == "FileOrCreate":
        if not path.exists():
            path.touch(mode=0o644)
        wanted = "File"
    elif wanted == "" and not path.exists():
        path.mkdir(mode=0o755, parents=True)  # as container runtimes do for a bind mount's source
    if wanted in _KINDS:
        check, words = _KINDS[wanted]
        if not path.exists() or not check(path.stat().st_mode):
            raise VolumeError(f"hostPath type check failed: {path} is not {words}")
    return path


def mounted_path(volume: Path, sub_path: str) -> Path:
    """Return what a volumeMount's subPath means; made as a directory when absent.

    Raises VolumeError when it leads out of the volume, through symbolic links too.
    """
    if not sub_path:
        return volume
    parts = Path(sub_path).parts
    if sub_path.startswith("/") or ".." in parts:
        raise VolumeError(f"subPath {sub_path!r} must be relative and must not contain '..'")
    target = volume / sub_path
    real, root = os.path.realpath(target), os.path.realpath(volume)
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise VolumeError(f"subPath {sub_path!r} leads out of its volume")
    if not os.path.lexists(real):
        os.makedirs(real, mode=0o777, exist_ok=True)
    return Path(real)
