"""What may be asked of network namespaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")


class NetnsPort(Protocol):
    """Network namespaces by path or descriptor. Synchronous and for single-threaded processes only."""

    def create(self, path: Path) -> None:
        """Make a new namespace, pin it at ``path`` (a bind mount), and set its loopback up."""
        ...

    def make(self) -> int:
        """Return a descriptor of a new namespace, loopback up, that lives as long as something holds it."""
        ...

    def remove(self, path: Path) -> None:
        """Unpin and forget the namespace at ``path``. Absent: no error."""
        ...

    def open(self, path: Path) -> int:
        """Return a descriptor of the namespace at ``path``; the caller closes it."""
        ...

    def within(self, netns_fd: int, act: Callable[[], T]) -> T:
        """Return ``act()`` done inside the namespace, and come back, whatever happens.

        Sockets that ``act`` opens stay in that namespace: this is how a netlink socket of a pod is got.
        """
        ...
