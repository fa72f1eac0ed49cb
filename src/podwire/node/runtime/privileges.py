"""Who a container's process is: user, groups, capabilities. Runs in the forked child."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from functools import cache

from podwire.kernel import libc

# fmt: off
_NAMES = (  # by number: include/uapi/linux/capability.h
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
    "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM",
    "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)
# fmt: on
_NUMBERS = {name: number for number, name in enumerate(_NAMES)}

# fmt: off
_DEFAULT_NAMES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)
# fmt: on
_DEFAULT = frozenset(_NUMBERS[name] for name in _DEFAULT_NAMES)
"""What containerd gives, without MKNOD: no device cgroup stands between a node made here and the disk."""

_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x2008_0522


def choose_capabilities(add: Iterable[str], drop: Iterable[str], *, privileged: bool) -> frozenset[int] | None:
    """Return the numbers of the capabilities that a container keeps; None means all of them.

    Names come with or without "CAP_"; "ALL" means every one. Drops are done first, as in containerd.
    Raises ValueError for a name that no kernel knows.
    """
    if privileged:
        return None
    added, dropped = [[_plain(n) for n in names] for names in (add, drop)]
    kept = frozenset() if "ALL" in dropped else _DEFAULT - {_number(n) for n in dropped}
    if "ALL" in added:
        everything = frozenset(range(len(_NAMES)))
        return everything - {_number(n) for n in dropped if n != "ALL"}
    return kept | {_number(n) for n in added}


def _plain(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def _number(name: str) -> int:
    if name not in _NUMBERS:
        raise ValueError(f"unknown capability {name}")
    return _NUMBERS[name]


def is_rootless() -> bool:
    """Return whether this process lives in a user namespace other than the machine's first."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() != ["0", "0", "4294967295"]


def is_mapped(id: int, kind: str) -> bool:
    """Return whether user or group ``id`` exists in this user namespace; ``kind`` is "uid" or "gid"."""
    for line in _id_map(kind):
        first, count = line[0], line[2]
        if first <= id < first + count:
            return True
    return False


@cache
def _id_map(kind: str) -> list[list[int]]:
    with open(f"/proc/self/{kind}_map") as file:
        return [[int(word) for word in line.split()] for line in file]


@cache
def last_capability() -> int:
    """Return the highest capability number that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def limit_capabilities(kept: frozenset[int] | None) -> None:
    """Drop every other capability from the bounding set, so that no program can get it by execve."""
    if kept is None:
        return
    for number in range(last_capability() + 1):
        if number not in kept:
            libc.prctl(_PR_CAPBSET_DROP, number)


def hold_capabilities(kept: frozenset[int] | None) -> None:
    """Reduce what the process itself holds: for built-in programs, which never call execve."""
    if kept is None:
        return
    held = sum(1 << n for n in kept if n <= last_capability())
    words = [held & 0xFFFF_FFFF, held >> 32]
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(words[0], words[0], 0, words[1], words[1], 0)
    if ctypes.CDLL(None, use_errno=True).capset(ctypes.byref(header), ctypes.byref(sets)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "capset")


def become(user: int, group: int, groups: tuple[int, ...], kept: frozenset[int] | None) -> None:
    """Become ``user`` and ``group`` with these supplementary groups, and keep these capabilities at most.

    Supplementary groups that do not exist in the user namespace are left out: they could own nothing here.
    """
    try:
        os.setgroups(sorted({g for g in groups if is_mapped(g, "gid")}))
    except PermissionError:
        pass  # an unprivileged user namespace (setgroups "deny") has no supplementary groups
    os.setresgid(group, group, group)
    limit_capabilities(kept)
    os.setresuid(user, user, user)


def forbid_new_privileges() -> None:
    """Let no execve from here on give more rights (allowPrivilegeEscalation: false)."""
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def find_account(user: int) -> tuple[int, str]:
    """Return primary group and home directory of a user by /etc/passwd; (0, "/") when not listed there."""
    try:
        with open("/etc/passwd") as file:
            for line in file:
                fields = line.split(":")
                if len(fields) >= 6 and fields[2] == str(user):
                    return int(fields[3]), fields[5] or "/"
    except (OSError, ValueError):
        pass
    return 0, "/root" if user == 0 else "/"
