"""Make and unmake the namespaces of a pod. Done by the shim itself, without a process of its own.

A namespace lives as long as the shim holds a descriptor of it or a process is in it. The path that CNI gets
is a symbolic link to that descriptor, so nothing is mounted, and nothing is left when the shim dies.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from podwire.kernel import libc
from podwire.model.errors import MachineError
from podwire.node.runtime.values import SandboxSpec

_KINDS: Mapping[str, int] = {
    "net": libc.CLONE_NEWNET,
    "uts": libc.CLONE_NEWUTS,
    "ipc": libc.CLONE_NEWIPC,
}
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_ROOM = "node/runtime"

_DEFAULT_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0"}
"""As containerd sets it: a server that does not run as root may listen on port 80."""


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Descriptors of a sandbox's namespaces; a kind that is missing is shared with the node."""

    fds: Mapping[str, int]
    netns: Path

    def join(self) -> None:
        """Move the calling process in."""
        for kind, fd in self.fds.items():
            libc.setns(fd, _KINDS[kind])

    def close(self) -> None:
        """Let go; the kernel ends them with their last process."""
        for fd in self.fds.values():
            os.close(fd)
        if "net" in self.fds:
            self.netns.unlink(missing_ok=True)


class NamespaceMaker:
    """Makes namespaces and always comes back to the ones it was born in."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._home = {kind: _open(kind) for kind in _KINDS}

    def make(self, spec: SandboxSpec) -> Namespaces:
        """Return new namespaces with the loopback up, the host name and the sysctls set.

        Raises MachineError; nothing is left behind then.
        """
        kinds = [k for k in _KINDS if not (spec.host_ipc if k == "ipc" else spec.host_network)]
        if not kinds:
            return Namespaces({}, Path(f"/proc/{os.getpid()}/ns/net"))
        flags = 0
        for kind in kinds:
            flags |= _KINDS[kind]
        fds: dict[str, int] = {}
        try:
            libc.unshare(flags)
            fds = {kind: _open(kind) for kind in kinds}
            if "net" in fds:
                _set_loopback_up()
                libc.sethostname(spec.hostname)
            _set_sysctls({**(_DEFAULT_SYSCTLS if "net" in fds else {}), **spec.sysctls}, spec)
        except OSError as error:
            _close(fds)
            raise MachineError(_ROOM, "make sandbox", f"{spec.namespace}/{spec.name}", error) from error
        except MachineError:
            _close(fds)
            raise
        finally:
            for kind in kinds:
                libc.setns(self._home[kind], _KINDS[kind])
        return Namespaces(fds, self._link(spec.id, fds))

    def _link(self, id: str, fds: Mapping[str, int]) -> Path:
        if "net" not in fds:
            return Path(f"/proc/{os.getpid()}/ns/net")
        path = self._directory / id
        path.unlink(missing_ok=True)
        path.symlink_to(f"/proc/{os.getpid()}/fd/{fds['net']}")
        return path


def _open(kind: str) -> int:
    return os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def _close(fds: Mapping[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def _set_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16sh", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _set_sysctls(sysctls: Mapping[str, str], spec: SandboxSpec) -> None:
    for name, value in sysctls.items():
        try:
            fd = os.open("/proc/sys/" + name.replace(".", "/"), os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            if name in _DEFAULT_SYSCTLS and name not in spec.sysctls:
                continue
            raise MachineError(
                _ROOM, "set sysctl", f"{name} of {spec.namespace}/{spec.name}", error.strerror
            ) from error
        try:
            os.write(fd, value.encode())
        except OSError as error:
            if name in spec.sysctls:
                raise MachineError(
                    _ROOM, "set sysctl", f"{name}={value} of {spec.namespace}/{spec.name}", error.strerror
                ) from error
        finally:
            os.close(fd)
