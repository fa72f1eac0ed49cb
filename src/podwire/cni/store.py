"""Who holds what, on disk: one symbolic link per reservation.

    /var/lib/podwire/cni/cbr0/10.244.1.4 -> 3f0c...e1 eth0 /run/podwire/netns/3f0c...e1

A symbolic link is made by one system call that fails when the name exists and that carries the owner
with it: at no instant is there a reservation without an owner, or one with two. Its owner can be read
with `ls -l`. Nothing is synchronised to the disk, because what a power failure loses, the sandboxes,
the reservations may lose too (``reclaim``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from podwire.cni.spec import IO_FAILURE, TRY_AGAIN_LATER, CniError

LOCK = "lock"
EPOCH = "epoch"
LAST = "last_reserved_ip."
_SCRATCH = ".new"
_LOCK_PATIENCE_S = 5.0


class Syscalls(Protocol):
    """The file system as the store uses it: ``os``, or a test's that dies on purpose."""

    def symlink(self, target: str, path: str) -> None: ...
    def readlink(self, path: str) -> str: ...
    def unlink(self, path: str) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def listdir(self, path: str) -> list[str]: ...


class _Linux:
    """The real ones."""

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, path)

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a reservation. ``netns`` and ``note`` are memory, no part of the identity.

    ``note`` is what the holder wants to find again (host ports: the pod's address and port).
    """

    container_id: str
    ifname: str
    netns: str = ""
    note: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the attachment: container id and interface name."""
        return (self.container_id, self.ifname)

    def render(self) -> str:
        """Return the link's target. The netns comes last: it alone may hold blanks."""
        return f"{self.container_id} {self.ifname} {self.note or '-'} {self.netns or '-'}"


def parse_owner(text: str) -> Owner:
    """Return the owner in a link's target; fields that are not there are ""."""
    parts = [*text.split(" ", 3), "", "", ""][:4]
    container_id, ifname, note, netns = (("" if part == "-" else part) for part in parts)
    return Owner(container_id, ifname, netns, note)


class Reservations:
    """The reservations of one directory. Every method but ``locked`` wants the lock to be held.

    Errors: CniError(5) when the disk refuses, CniError(11) when somebody else keeps the lock.
    """

    def __init__(self, directory: Path, syscalls: Syscalls | None = None) -> None:
        self.directory = directory
        self._base = str(directory)
        self._sys: Syscalls = syscalls or _Linux()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory's lock, against other processes and threads alike (flock)."""
        # Opened anew each time: a descriptor inherited through fork would share the parent's lock.
        fd = self._open_lock()
        try:
            self._wait_for(fd)
            yield
        finally:
            os.close(fd)

    def _open_lock(self) -> int:
        path = f"{self._base}/{LOCK}"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._refusal("open", path, error) from error
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            return os.open(path, flags, 0o600)
        except OSError as error:
            raise self._refusal("create", path, error) from error

    def _wait_for(self, fd: int) -> None:
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CniError(
                        TRY_AGAIN_LATER,
                        f"{self._base}/{LOCK} is held by another process since {_LOCK_PATIENCE_S:g} s",
                    ) from None
                time.sleep(0.0005)

    def names(self) -> list[str]:
        """Return the names of all reservations."""
        listed = self._sys.listdir(self._base)
        return [n for n in listed if n not in (LOCK, EPOCH, _SCRATCH) and not n.startswith(LAST)]

    def owners(self) -> dict[str, Owner]:
        """Return every reservation with its owner.

        A name that is no symbolic link was not made here (a directory, a stray file): it is left out,
        and ``take`` refuses it, so it is neither given away nor removed.
        """
        held: dict[str, Owner] = {}
        for name in self.names():
            target = self.read(name)
            if target is not None:
                held[name] = parse_owner(target)
        return held

    def names_of(self, key: tuple[str, str], names: Iterable[str]) -> list[str]:
        """Return those of the names that this container id and interface hold."""
        prefix = f"{key[0]} {key[1]} "
        return [n for n in names if (self.read(n) or "").startswith(prefix)]

    def read(self, name: str) -> str | None:
        """Return the target of a link; None when there is none of that name."""
        try:
            return self._sys.readlink(f"{self._base}/{name}")
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return None
            raise self._refusal("read", name, error) from error

    def take(self, name: str, owner: Owner) -> bool:
        """Reserve a name; False when it is held already."""
        try:
            self._sys.symlink(owner.render(), f"{self._base}/{name}")
        except FileExistsError:
            return False
        except OSError as error:
            raise self._refusal("reserve", name, error) from error
        return True

    def give_back(self, name: str) -> None:
        """Free a name; free already: no error."""
        try:
            self._sys.unlink(f"{self._base}/{name}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refusal("free", name, error) from error

    def remember(self, name: str, value: str) -> None:
        """Set one of the directory's own links (``EPOCH``, ``LAST``), replacing what it said."""
        scratch = f"{self._base}/{_SCRATCH}"
        try:
            try:
                self._sys.symlink(value, scratch)
            except FileExistsError:  # left by somebody who was killed between the two calls
                self._sys.unlink(scratch)
                self._sys.symlink(value, scratch)
            self._sys.rename(scratch, f"{self._base}/{name}")
        except OSError as error:
            raise self._refusal("remember", name, error) from error

    def reclaim(self, epoch: str, is_live: Callable[[str], bool]) -> list[Owner]:
        """Free what was held before this boot; return the owners that lost something.

        Done once per epoch (``current_epoch``). A reservation whose network namespace is still there
        stays, so that an agent that merely moved to another pid namespace takes nothing from the living.
        """
        if self.read(EPOCH) == epoch:
            return []
        lost = [(name, owner) for name, owner in self.owners().items() if not is_live(owner.netns)]
        for name, _ in lost:
            self.give_back(name)
        self.remember(EPOCH, epoch)
        return [owner for _, owner in lost]

    def _refusal(self, act: str, name: str, error: OSError) -> CniError:
        where = name if name.startswith("/") else f"{self._base}/{name}"
        hint = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return CniError(IO_FAILURE, f"cannot {act} {where}: {os.strerror(error.errno or 0)}{hint}")


def current_epoch() -> str:
    """Return a word that changes whenever every sandbox must be gone.

    Boot id, pid namespace and the start of its first process: the inode of a pid namespace alone is
    given out again after the namespace died. Parts that cannot be read are "-".
    """
    return ":".join((_read_boot_id(), _read_pid_namespace(), _read_init_start()))


def _read_boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def _read_pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").removeprefix("pid:")
    except OSError:
        return "-"


def _read_init_start() -> str:
    try:
        line = Path("/proc/1/stat").read_text()
    except OSError:
        return "-"
    return line.rpartition(")")[2].split()[19]  # proc(5): field 22, starttime in ticks


def is_live_netns(path: str) -> bool:
    """Return whether ``path`` is a pinned network namespace (a file of nsfs, not what is left of a pin)."""
    try:
        found = os.stat(path)
        return stat.S_ISREG(found.st_mode) and found.st_dev == os.stat("/proc/self/ns/net").st_dev
    except (OSError, ValueError):
        return False
