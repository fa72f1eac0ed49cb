"""What the machine under a node is: read once, from /proc and os-release."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts for a Node object."""

    cpus: int
    memory_bytes: int
    disk_bytes: int
    architecture: str
    kernel: str
    os_image: str
    boot_id: str
    machine_id: str


def observe(disk: Path) -> Machine:
    """Return the facts; ``disk`` is a path on the file system that pods' ephemeral storage comes from."""
    uname = os.uname()
    while not disk.exists():
        disk = disk.parent
    return Machine(
        cpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk_bytes=shutil.disk_usage(disk).total,
        architecture=_ARCHITECTURES.get(uname.machine, uname.machine),
        kernel=uname.release,
        os_image=_os_name(),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        machine_id=_read("/etc/machine-id"),
    )


def _os_name() -> str:
    for line in _read("/etc/os-release").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip('"')
    return "Linux"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
