"""Network namespaces, pinned by a bind mount of /proc/thread-self/ns/net as `ip netns` does it.

The calling thread enters the namespace and comes back; no process is forked. Namespaces belong to a
thread, so the other threads of the process never notice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from podwire.kernel import libc
from podwire.kernel.netlink import machine_error
from podwire.model.errors import AlreadyInUse

T = TypeVar("T")
_ROOM = "kernel/netns"
_SELF = "/proc/thread-self/ns/net"
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFREQ = struct.Struct("16sH14x")


class RealNetns:
    """See ``kernel.netns.port``."""

    def create(self, path: Path) -> None:
        """Make a new namespace, pin it at ``path``, and set its loopback up.

        A leftover file without a mount (after a reboot) is taken over. Raises AlreadyInUse when a
        namespace is pinned there.
        """
        if _is_pinned(path):
            raise AlreadyInUse(_ROOM, "create", str(path), "a namespace is pinned there already")
        made = self.make()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
            libc.mount(f"/proc/self/fd/{made}", str(path), flags=libc.MS_BIND)
        except OSError as error:
            self.remove(path)
            raise machine_error(_ROOM, "create", str(path), error.errno or errno.EIO) from None
        finally:
            os.close(made)

    def make(self) -> int:
        """Return a descriptor of a new namespace, loopback up, that lives as long as something holds it."""
        home = os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc.unshare(libc.CLONE_NEWNET)
            try:
                _set_loopback_up()
                return os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
            finally:
                libc.setns(home, libc.CLONE_NEWNET)
        except OSError as error:
            raise machine_error(_ROOM, "make", "a network namespace", error.errno or errno.EIO) from None
        finally:
            os.close(home)

    def remove(self, path: Path) -> None:
        """Unpin and forget the namespace at ``path``. Absent: no error."""
        try:
            while _is_pinned(path):
                libc.umount(str(path), libc.MNT_DETACH)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise machine_error(_ROOM, "remove", str(path), error.errno or errno.EIO) from None

    def open(self, path: Path) -> int:
        """Return a descriptor of the namespace at ``path``; the caller closes it."""
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise machine_error(_ROOM, "open", str(path), error.errno or errno.EIO) from None

    def within(self, netns_fd: int, act: Callable[[], T]) -> T:
        """Return ``act()`` done inside the namespace, and come back, whatever happens.

        ``act`` must not await and should be short: it opens sockets.
        """
        home = os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                libc.setns(netns_fd, libc.CLONE_NEWNET)
            except OSError as error:
                raise machine_error(_ROOM, "enter", f"fd {netns_fd}", error.errno or errno.EIO) from None
            try:
                return act()
            finally:
                libc.setns(home, libc.CLONE_NEWNET)
        finally:
            os.close(home)


def _is_pinned(path: Path) -> bool:
    """Return whether something is mounted on ``path`` (a pin's device is nsfs, not its directory's)."""
    try:
        return path.lstat().st_dev != path.parent.lstat().st_dev
    except FileNotFoundError:
        return False


def _set_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        answer = fcntl.ioctl(s, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        flags = _IFREQ.unpack(answer)[1]
        fcntl.ioctl(s, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | 1))
