"""A node's view of the file tree: the host's, behind private writable layers.

Runs in a process that has just unshared its mount namespace. Afterwards /run is empty and the node's own,
/etc /var /opt /home ... can be written without the host seeing it, /sys and /proc show the node's devices
and processes, and the node's persistent directory lies at /var/lib/podwire.
"""

from __future__ import annotations

import os
from pathlib import Path

from podwire.kernel import libc

STATE = Path("/var/lib/podwire")
RUN = Path("/run/podwire")
LAYERED: dict[str, tuple[str, ...]] = {
    "etc": ("cni",),
    "var": ("lib", "log", "tmp", "cache"),
    "opt": ("cni",),
    "tmp": (),
    "home": (),
    "root": (),
    "srv": (),
}
"""Directories that get a writable layer, and those below that must be writable, too.

An ordinary user's namespace does not map the host's root, so what root owns cannot be written even through
overlayfs; but a directory that stands in the upper layer takes its owner from there (overlayfs.rst, Directories).
"""

OWN = {"/etc/cni/net.d": RUN, "/opt/cni/bin": RUN, "/var/log/pods": STATE, "/var/log/containers": STATE}
"""Directories that are the node's alone, whatever the host has there, and where they are kept."""


def build(node: str, state_dir: Path) -> None:
    """Build the view of ``node`` in this process's mount namespace. Raises OSError."""
    libc.mount("none", "/", "", libc.MS_REC | libc.MS_PRIVATE)
    state = os.open(state_dir, os.O_PATH | os.O_DIRECTORY)
    libc.mount("run", "/run", "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, "mode=755")
    RUN.mkdir()
    for name, below in LAYERED.items():
        _layer(Path("/") / name, below)
    libc.mount("proc", "/proc", "proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
    libc.mount("sysfs", "/sys", "sysfs", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
    STATE.mkdir(parents=True, exist_ok=True)
    libc.mount(f"/proc/self/fd/{state}", str(STATE), "", libc.MS_BIND)
    os.close(state)
    _write_files(node)


def _layer(directory: Path, below: tuple[str, ...]) -> None:
    """Put a private writable layer over ``directory``; leave it alone where the kernel refuses."""
    if not directory.is_dir() or directory.is_symlink():
        return
    layer = RUN / "view" / directory.name
    (layer / "upper").mkdir(parents=True)
    (layer / "work").mkdir()
    for name in below:
        if not (directory / name).is_symlink():
            (layer / "upper" / name).mkdir(mode=0o755)
    options = f"lowerdir={directory},upperdir={layer}/upper,workdir={layer}/work"
    mode = directory.stat().st_mode & 0o7777
    os.chmod(layer / "upper", mode)
    try:
        libc.mount("overlay", str(directory), "overlay", libc.MS_NODEV, options + ",userxattr")
    except OSError:
        try:
            libc.mount("overlay", str(directory), "overlay", libc.MS_NODEV, options)
        except OSError:
            if directory.name in ("etc", "var", "opt"):  # the node must write there: an empty one will do
                libc.mount("layer", str(directory), "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, "mode=755")


def _write_files(node: str) -> None:
    _replace(Path("/etc/hostname"), node + "\n")
    hosts = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{node}\n"
    _replace(Path("/etc/hosts"), hosts)
    _replace(Path("/etc/resolv.conf"), "# podwire: a node of the lab has no resolver; pods use the cluster DNS\n")
    Path("/run/netns").mkdir()
    for directory, keeper in OWN.items():
        kept = keeper / "own" / directory.strip("/").replace("/", "-")
        kept.mkdir(parents=True, exist_ok=True)
        Path(directory).mkdir(parents=True, exist_ok=True)
        libc.mount(str(kept), directory, "", libc.MS_BIND)


def _replace(path: Path, text: str) -> None:
    """Write a file in place of one that may be a link, or that only the host's root may write."""
    path.unlink(missing_ok=True)
    path.write_text(text)
