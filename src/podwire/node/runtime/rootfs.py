"""Build a container's file system in the forked child: a private writable layer over the host's root.

    run_dir/containers/ID/upper   what the container writes (and the mount points that it needs)
                          work    overlayfs' own
                          root    where it is put together, before it becomes /

As real root one overlay covers "/". In a user namespace the kernel refuses that (mounts below "/" are locked
to it), so each top-level directory gets an overlay of its own; where even that is refused, the directory is
bound read-only. Mount points are made in the upper layer before it is mounted: a rootless container has no
rights in directories of the host's root user, but owns whatever is in its upper layer.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from podwire.kernel import libc
from podwire.node.runtime.values import Mount

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_PRIVILEGED_DEVICES = ("net/tun", "fuse", "kmsg")
_DEV_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_FRESH = ("proc", "sys", "dev", "run", "tmp")
_WRITABLE = ("etc", "usr", "var", "root", "opt", "srv", "mnt", "media", "bin", "sbin", "lib", "lib64")
_OWN_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")  # never what the host's links lead to
_OWN_ROOTLESS = ("usr/local/bin", "var/lib", "var/log", "var/cache", "var/tmp", "root")
_MASKED = ("kcore", "keys", "sched_debug", "timer_list", "latency_stats", "acpi", "scsi")
_READ_ONLY_PROC = ("sys", "sysrq-trigger", "irq", "bus", "fs")
# fmt: off
_REAL_FILE_SYSTEMS = frozenset((
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "nfs", "nfs4", "overlay", "virtiofs",
    "9p", "erofs", "squashfs", "fuse.sshfs",
))
# fmt: on
_NODE_LAYERS = ("/proc", "/sys", "/dev", "/run", "/tmp", "/etc", "/var", "/opt", "/snap", "/boot", "/mnt")

_MOUNT_ATTR_RDONLY = 0x1
_AT_RECURSIVE = 0x8000
_SYS_MOUNT_SETATTR = 442
_READ_ONLY = struct.pack("4Q", _MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_PRESERVED = {
    os.ST_NOSUID: libc.MS_NOSUID,
    os.ST_NODEV: libc.MS_NODEV,
    os.ST_NOEXEC: libc.MS_NOEXEC,
    os.ST_NOATIME: 1024,
    os.ST_NODIRATIME: 2048,
    os.ST_RELATIME: 1 << 21,
}


Piece = Literal["link", "empty", "overlay", "bind"]


@dataclass(frozen=True, slots=True)
class HostView:
    """What containers of this node stand on; found out once, when the shim starts.

    ``lower``: the directory seen as "/". ``whole``: one overlay may cover it. ``binds``: file systems of the
    host that are mounted below it and are shown read-only. ``hidden``: directories that look empty.
    ``pieces``: what lies in "/" by name, and how it is shown where one overlay may not cover it all.
    """

    lower: str
    whole: bool
    rootless: bool
    binds: tuple[str, ...]
    hidden: tuple[str, ...]
    dev: str
    pieces: tuple[tuple[str, Piece], ...]


@dataclass(frozen=True, slots=True)
class RootPlan:
    """One container's file system."""

    base: Path
    lower: str | None  # a directory image's own root; None: the host's
    hostname: str
    mounts: tuple[Mount, ...]
    read_only: bool
    privileged: bool
    own_proc: bool = True  # False: the node's processes are seen (hostPID)


def observe_host(lower: str, rootless: bool, hidden: Sequence[str], run_dir: Path) -> HostView:
    """Return the view of the host's files that containers of this node get, and make its /dev."""
    with open("/proc/self/mountinfo") as file:
        points = find_file_systems(file.read(), str(run_dir), hidden)
    binds = [p for p in points if os.path.isdir(p)]
    dev = run_dir / "dev"
    try:
        libc.umount(str(dev), libc.MNT_DETACH)  # an earlier shim's
    except OSError:
        pass
    _make_dev(str(dev))
    return HostView(lower, not rootless, rootless, tuple(binds), tuple(hidden), str(dev), _sort_pieces(lower))


def _sort_pieces(lower: str) -> tuple[tuple[str, Piece], ...]:
    pieces: list[tuple[str, Piece]] = []
    for name in sorted(os.listdir(lower)):
        path = f"{lower.rstrip('/')}/{name}"
        if name in _FRESH:
            continue
        if os.path.islink(path):
            pieces.append((name, "link"))
        elif os.path.isdir(path):
            try:
                full = bool(os.listdir(path))
            except PermissionError:
                full = False  # what this user may not see (/root) is the container's own, and empty
            pieces.append((name, ("overlay" if name in _WRITABLE else "bind") if full else "empty"))
    return tuple(pieces)


def find_file_systems(mountinfo: str, run_dir: str, hidden: Sequence[str]) -> list[str]:
    """Return where file systems of the host's own are mounted below "/", topmost only: /home, /usr ...

    Not the node's writable layers (overlays with their upper layer in ``run_dir``), nor what containers get
    fresh or must not see.
    """
    found: list[str] = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].replace("\\040", " ")
        kind, _, options = right.split(" ", 2)
        if kind not in _REAL_FILE_SYSTEMS or point == "/" or f"upperdir={run_dir}/" in options:
            continue
        above = (*_NODE_LAYERS, run_dir, *hidden, *found)
        if not any(point == p or point.startswith(p + "/") for p in above):
            found.append(point)
    return found


def build_root(plan: RootPlan, host: HostView) -> None:
    """Build the container's root and make it "/" of this process, which is alone in its mount namespace.

    Raises OSError that names the path.
    """
    slave = any(m.propagation != "private" for m in plan.mounts)
    libc.mount("none", "/", "", libc.MS_REC | (libc.MS_SLAVE if slave else libc.MS_PRIVATE))
    lower = plan.lower or host.lower
    upper, root = str(plan.base / "upper"), str(plan.base / "root")
    mounts = sorted(((_resolve(lower, m.target), m) for m in plan.mounts), key=lambda pair: pair[0].count("/"))
    _write_upper(upper, lower, plan.hostname, mounts, _OWN_ROOTLESS if host.rootless else ())
    pieces = _mount_layers(plan, host, lower, upper, root)
    _mount_kernel_files(root, plan, host, any(t.startswith("/dev/") and not _in_dev(t) for t, _ in mounts))
    for target, mount in mounts:
        _bind_volume(root + target, mount)
    if plan.lower is None:
        for path in host.hidden:
            if os.path.isdir(root + path):
                libc.mount("tmpfs", root + path, "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, "mode=755,size=4k")
    _enter(root)
    if plan.read_only:
        for path in ("/", *pieces):
            libc.mount("none", path, "", libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY)


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Show ``source``, with what is mounted below it, at ``target``. Raises OSError that names the target."""
    libc.mount(source, target, "", libc.MS_BIND | libc.MS_REC)
    if read_only:
        _make_read_only(target)


def _write_upper(
    upper: str, lower: str, hostname: str, mounts: Sequence[tuple[str, Mount]], own: Sequence[str]
) -> None:
    """Put into the writable layer what must be there before it is mounted."""
    os.mkdir(upper, 0o755)
    for name in (*_FRESH, "etc"):
        os.mkdir(f"{upper}/{name}", 0o755)
    for path in own:
        _make_directory(upper, lower, "/" + path)
    _touch(upper + "/etc/hostname", hostname.encode() + b"\n")
    for path in _OWN_FILES[1:]:
        _touch(upper + path)
    done: list[str] = []
    for target, mount in mounts:
        inside = any(target.startswith(f"/{fresh}/") for fresh in _FRESH)
        if not inside and not any(target.startswith(d + "/") for d in done):
            if os.path.isdir(mount.source):
                _make_directory(upper, lower, target)
            else:
                _make_directory(upper, lower, os.path.dirname(target))
                _touch(upper + target)
        done.append(target)


def _make_directory(upper: str, lower: str, path: str) -> None:
    """Make ``path`` and its parents in the writable layer, with the modes that they have below."""
    so_far = ""
    for part in path.strip("/").split("/") if path.strip("/") else ():
        so_far += "/" + part
        try:
            os.mkdir(upper + so_far)
        except FileExistsError:
            continue
        try:
            below = os.lstat(lower + so_far)
        except OSError:
            continue
        if stat.S_ISDIR(below.st_mode):
            os.chmod(upper + so_far, stat.S_IMODE(below.st_mode))


def _touch(path: str, text: bytes = b"") -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if text:
        os.write(fd, text)
    os.close(fd)


def _resolve(root: str, path: str) -> str:
    """Return ``path`` as seen inside ``root`` without its symbolic links, so that none leads outside."""
    if path in _OWN_FILES:
        return path
    todo = [p for p in path.split("/") if p and p != "."]
    done: list[str] = []
    for _ in range(200):
        if not todo:
            break
        part = todo.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        try:
            link = os.readlink(f"{root}/{'/'.join([*done, part])}") if not _is_fresh(done) else ""
        except OSError:
            link = ""
        if not link:
            done.append(part)
            continue
        todo = [p for p in link.split("/") if p and p != "."] + todo
        if link.startswith("/"):
            done = []
    return "/" + "/".join(done)


def _is_fresh(done: list[str]) -> bool:
    return bool(done) and done[0] in _FRESH


def _mount_layers(plan: RootPlan, host: HostView, lower: str, upper: str, root: str) -> list[str]:
    """Put the root together; return the directories that have overlays of their own, "/usr" and so on."""
    work = str(plan.base / "work")
    os.mkdir(work, 0o755)
    os.mkdir(root, 0o755)
    if host.whole or plan.lower is not None:
        try:
            _overlay(lower, upper, work, root, host.rootless)
        except OSError:
            if plan.lower is not None:
                raise
        else:
            if plan.lower is None:
                for path in host.binds:
                    bind(path, root + path, read_only=True)
            return []
    return _mount_pieces(host, lower, upper, work, root)


def _mount_pieces(host: HostView, lower: str, upper: str, work: str, root: str) -> list[str]:
    """Cover each top-level directory by itself; the root directory is the upper layer's own."""
    bind(upper, root)
    covered: list[str] = []
    for name, piece in host.pieces if lower == host.lower else _sort_pieces(lower):
        below, target = f"{lower.rstrip('/')}/{name}", f"{root}/{name}"
        if piece == "link":
            if not os.path.lexists(target):
                os.symlink(os.readlink(below), target)
            continue
        try:
            os.mkdir(target)
        except FileExistsError:
            pass
        if piece == "overlay":
            os.mkdir(f"{work}/{name}")
            try:
                _overlay(below, f"{upper}/{name}", f"{work}/{name}", target, host.rootless)
                covered.append(f"/{name}")
                continue
            except OSError:
                pass
        if piece != "empty":
            try:
                bind(below, target, read_only=True)
            except OSError:
                pass  # a directory that this user may not show is empty
    return covered


def _overlay(lower: str, upper: str, work: str, target: str, rootless: bool) -> None:
    options = f"lowerdir={_escape(lower)},upperdir={_escape(upper)},workdir={_escape(work)}"
    if rootless:  # trusted.* attributes are out of reach there; user.* do, since Linux 5.11
        options += ",userxattr"
    libc.mount("overlay", target, "overlay", 0, options)


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _mount_kernel_files(root: str, plan: RootPlan, host: HostView, private_dev: bool) -> None:
    quiet = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
    if plan.own_proc:
        try:
            libc.mount("proc", root + "/proc", "proc", quiet)
        except PermissionError:  # a host whose /proc is partly covered allows no new one in a user namespace
            bind("/proc", root + "/proc")
    else:
        bind("/proc", root + "/proc")
    try:
        libc.mount("sysfs", root + "/sys", "sysfs", quiet | (0 if plan.privileged else libc.MS_RDONLY))
    except PermissionError:
        bind("/sys", root + "/sys", read_only=True)
    if private_dev or plan.privileged:
        _make_dev(root + "/dev", _PRIVILEGED_DEVICES if plan.privileged else ())
    else:
        bind(host.dev, root + "/dev")
    _mount_pts(root + "/dev/pts", host.rootless)
    for path, mode in (("/dev/shm", "1777"), ("/tmp", "1777"), ("/run", "755")):
        libc.mount("tmpfs", root + path, "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, f"mode={mode}")
    try:
        libc.mount("mqueue", root + "/dev/mqueue", "mqueue", quiet)
    except OSError:
        pass  # a kernel without POSIX message queues, or a pod in the machine's own IPC namespace
    if not plan.privileged:
        _protect_proc(root + "/proc", host.rootless)


def _protect_proc(proc: str, rootless: bool) -> None:
    """Keep an unprivileged container's hands off the machine's knobs: what runc masks and write-protects."""
    for name in _READ_ONLY_PROC[:1] if rootless else _READ_ONLY_PROC:
        path = f"{proc}/{name}"
        if os.path.exists(path):
            bind(path, path, read_only=True)
    for name in () if rootless else _MASKED:
        path = f"{proc}/{name}"
        if os.path.isdir(path):
            libc.mount("tmpfs", path, "tmpfs", libc.MS_RDONLY, "size=4k")
        elif os.path.exists(path):
            bind("/dev/null", path)


def _make_dev(path: str, more: Sequence[str] = ()) -> None:
    """Mount a /dev with the usual devices, directories and links at ``path``; made once, it is bound often."""
    os.makedirs(path, exist_ok=True)
    libc.mount("tmpfs", path, "tmpfs", libc.MS_NOSUID | libc.MS_NOEXEC, "mode=755,size=64k")
    for name in (*_DEVICES, *more):
        if os.path.exists(f"/dev/{name}"):
            os.makedirs(os.path.dirname(f"{path}/{name}"), exist_ok=True)
            _touch(f"{path}/{name}")
            libc.mount(f"/dev/{name}", f"{path}/{name}", "", libc.MS_BIND)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{path}/{name}")
    for name in ("termination-log", "console"):
        _touch(f"{path}/{name}")
    for name, to in _DEV_LINKS.items():
        os.symlink(to, f"{path}/{name}")


def _in_dev(target: str) -> bool:
    """Return whether the shared /dev has a mount point for ``target`` already."""
    return target.removeprefix("/dev/") in ("termination-log", "shm", "mqueue")


def _mount_pts(path: str, rootless: bool) -> None:
    options = "newinstance,ptmxmode=0666,mode=0620"
    if not rootless:
        options += ",gid=5"
    libc.mount("devpts", path, "devpts", libc.MS_NOSUID | libc.MS_NOEXEC, options)


def _bind_volume(target: str, mount: Mount) -> None:
    if not os.path.exists(mount.source):
        raise FileNotFoundError(2, f"mount source {mount.source} does not exist", mount.target)
    if not os.path.lexists(target):
        if os.path.isdir(mount.source):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            _touch(target)
    bind(str(mount.source), target, read_only=mount.read_only)
    if mount.propagation == "private":
        libc.mount("none", target, "", libc.MS_REC | libc.MS_PRIVATE)


def _make_read_only(target: str) -> None:
    """Write-protect what is mounted at ``target`` and below: mount_setattr(2), or (before 5.12) the top only."""
    path = os.fsencode(target)
    if _syscall(_SYS_MOUNT_SETATTR, -100, path, _AT_RECURSIVE, _READ_ONLY, ctypes.c_size_t(32)) == 0:
        return
    kept = os.statvfs(target).f_flag
    flags = libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY
    for shown, wanted in _PRESERVED.items():  # locked in a user namespace: leaving one out is refused
        if kept & shown:
            flags |= wanted
    libc.mount("none", target, "", flags)


def _enter(root: str) -> None:
    os.chdir(root)
    libc.pivot_root(".", ".")  # the old root is stacked on the new one: pivot_root(2), "pivot_root(".", ".")"
    libc.umount(".", libc.MNT_DETACH)
    os.chdir("/")
