"""Network namespaces in memory. See ``kernel.fake``."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from podwire.kernel.fake import FakeMachine
from podwire.kernel.netlink import machine_error
from podwire.model.errors import AlreadyInUse

T = TypeVar("T")
_ROOM = "kernel/netns"


class FakeNetns:
    """See ``kernel.netns.port``. Descriptors are numbers of the fake machine, not of the process."""

    def __init__(self, machine: FakeMachine | None = None) -> None:
        self.machine = machine or FakeMachine()

    def create(self, path: Path) -> None:
        """Make a new namespace, pinned at ``path``. Raises AlreadyInUse."""
        if str(path) in self.machine.pinned:
            raise AlreadyInUse(_ROOM, "create", str(path), "a namespace is pinned there already")
        self.machine.pinned[str(path)] = self.machine.make()

    def make(self) -> int:
        """Return a descriptor of a new namespace."""
        return self.machine.descriptor(self.machine.make())

    def remove(self, path: Path) -> None:
        """Unpin the namespace at ``path``. Absent: no error."""
        self.machine.pinned.pop(str(path), None)

    def open(self, path: Path) -> int:
        """Return a descriptor of the namespace at ``path``."""
        namespace = self.machine.pinned.get(str(path))
        if namespace is None:
            raise machine_error(_ROOM, "open", str(path), errno.ENOENT)
        return self.machine.descriptor(namespace)

    def within(self, netns_fd: int, act: Callable[[], T]) -> T:
        """Return ``act()`` done with that namespace as the current one."""
        namespace = self.machine.open.get(netns_fd)
        if namespace is None:
            raise machine_error(_ROOM, "enter", f"fd {netns_fd}", errno.EBADF)
        home, self.machine.current = self.machine.current, namespace
        try:
            return act()
        finally:
            self.machine.current = home
