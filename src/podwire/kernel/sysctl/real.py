"""Sysctls through /proc/sys. Those of net/ answer for the network namespace that the thread is in."""

from __future__ import annotations

import errno
from pathlib import Path

from podwire.kernel.netlink import machine_error
from podwire.model.errors import NotPermitted


class RealSysctl:
    """See ``kernel.sysctl.port``. ``root`` is for a /proc mounted elsewhere."""

    def __init__(self, root: Path = Path("/proc/sys")) -> None:
        self._root = root

    def get(self, name: str) -> str | None:
        """Return the value, or None when this kernel has no such knob."""
        try:
            return (self._root / name).read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def set(self, name: str, value: str) -> bool:
        """Set it; return False when this kernel has no such knob. Raises NotPermitted.

        A knob that has the value already is not written: a read-only /proc/sys then does no harm.
        """
        if self.get(name) == value:
            return True
        try:
            (self._root / name).write_text(value)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                hint = "needs a writable /proc/sys and CAP_NET_ADMIN"
                raise NotPermitted("kernel/sysctl", "set", f"{name} to {value}", error.strerror, hint) from None
            raise machine_error("kernel/sysctl", "set", f"{name} to {value}", error.errno or errno.EIO) from None
        return True
