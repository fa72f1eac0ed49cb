"""What may be asked of nftables in one network namespace.

Two ways in. ``apply`` takes a whole script in nft's own syntax: for skeletons (tables, chains, rules),
at start. ``change`` moves set and map elements in one atomic batch over nfnetlink, with no process: for
everything that happens afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set or map: ``key`` and ``value`` are raw bytes, each field padded to 4 bytes.

    ``value`` None: a set's element. ``verdict``: the value is a jump or goto ("accept", "drop",
    "goto chain"). ``comment`` appears in `nft list`.
    """

    key: bytes
    value: bytes | None = None
    verdict: str = ""
    comment: str = ""
    timeout_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ElementChange:
    """Elements to add to and delete from one set or map of one table."""

    family: str  # "ip", "ip6", "inet"
    table: str
    set: str
    add: tuple[Element, ...] = ()
    delete: tuple[Element, ...] = ()


class NftPort(Protocol):
    """nftables of one namespace. Errors: MachineError (room "kernel/nft"), with nft's own words."""

    def apply(self, script: str) -> None:
        """Apply a script atomically (`nft -f -`)."""
        ...

    def change(self, changes: Sequence[ElementChange]) -> None:
        """Apply element changes: one transaction where it fits the socket, else in order, in chunks."""
        ...

    def list_table(self, family: str, table: str) -> str | None:
        """Return `nft list table` as text; None when there is no such table."""
        ...

    def close(self) -> None:
        """Close the sockets."""
        ...
