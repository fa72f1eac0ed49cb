"""The system calls that Python's standard library lacks (before 3.12): namespaces, mounts, prctl.

Each raises OSError with the kernel's errno. Safe to use between fork and exec.
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_UNBINDABLE = 0x2_0000
MS_PRIVATE = 0x4_0000
MS_SLAVE = 0x8_0000
MS_SHARED = 0x10_0000
MNT_DETACH = 0x2

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "armv7l": 218, "ppc64le": 203, "s390x": 217, "riscv64": 41}


def _check(result: int, *subject: object) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *[str(s) for s in subject if s])


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces: unshare(2)."""
    _check(_libc.unshare(flags))


def setns(fd: int, kind: int = 0) -> None:
    """Enter the namespace that ``fd`` refers to; ``kind`` 0 takes any: setns(2)."""
    _check(_libc.setns(fd, kind))


def mount(source: str, target: str, fstype: str = "", flags: int = 0, options: str = "") -> None:
    """Mount: mount(2)."""
    _check(
        _libc.mount(
            source.encode(),
            os.fsencode(target),
            fstype.encode() or None,
            ctypes.c_ulong(flags),
            options.encode() or None,
        ),
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """Unmount: umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make ``new_root`` the root of this mount namespace: pivot_root(2)."""
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, os.fsencode(new_root), os.fsencode(put_old)), new_root)


def prctl(option: int, *arguments: int) -> None:
    """Operate on the process: prctl(2)."""
    values = [ctypes.c_ulong(a) for a in arguments] + [ctypes.c_ulong(0)] * (4 - len(arguments))
    _check(_libc.prctl(option, *values))


def set_process_name(name: str) -> None:
    """Set what `ps` and `top` show as the command name; the kernel keeps 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _check(_libc.prctl(PR_SET_NAME, buffer, *[ctypes.c_ulong(0)] * 3))


def sethostname(name: str) -> None:
    """Set the host name of this UTS namespace: sethostname(2)."""
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)), name)
