"""What may be asked of nftables in one network namespace.

Two ways in. ``apply`` takes a whole script in nft's own syntax: for skeletons (tables, chains, rules),
at start. ``change`` moves set and map elements, and chains and sets of plain filter rules, in one atomic batch
over nfnetlink, with no process: for everything that happens afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from podwire.wire.nffilter import FilterRule, SetKind
from podwire.wire.nfnetlink import Element
from podwire.wire.nfrules import Rule

__all__ = ["ChainChange", "Change", "Element", "ElementChange", "FilterRule", "NftPort", "Rule", "SetChange", "SetKind"]


@dataclass(frozen=True, slots=True)
class ElementChange:
    """Elements to add to and delete from one set or map of one table. Deletions go first.

    To overwrite a map's value, delete the key and add it again.
    """

    family: str  # "ip", "ip6", "inet"
    table: str
    set: str
    add: tuple[Element, ...] = ()
    delete: tuple[Element, ...] = ()


@dataclass(frozen=True, slots=True)
class ChainChange:
    """A chain that is to hold these rules and no others, made if need be. ``rules`` None: it goes."""

    family: str
    table: str
    chain: str
    rules: tuple[FilterRule, ...] | None


@dataclass(frozen=True, slots=True)
class SetChange:
    """A set or verdict map that is to be there. ``kind`` None: it goes, with its elements."""

    family: str
    table: str
    set: str
    kind: SetKind | None


Change: TypeAlias = ElementChange | ChainChange | SetChange


class NftPort(Protocol):
    """nftables of one namespace. Errors: MachineError (room "kernel/nft"), with nft's own words."""

    def apply(self, script: str) -> None:
        """Apply a script atomically (`nft -f -`)."""
        ...

    def change(self, changes: Sequence[Change]) -> None:
        """Apply changes in order: one transaction where it fits the socket, else in chunks.

        Adding what is there with the same value changes nothing; with another value it is an error
        (AlreadyInUse), as is deleting what is not there. The transaction that fails changes nothing.
        """
        ...

    def append(self, rules: Sequence[Rule]) -> None:
        """Append encoded rules to their chains, in one transaction: for what nft's syntax cannot say."""
        ...

    def elements(self, family: str, table: str, set: str) -> tuple[Element, ...] | None:
        """Return the elements of a set or map, unordered; None when there is no such set."""
        ...

    def generation(self) -> int:
        """Return a number that moves with every transaction of anybody in this namespace."""
        ...

    def list_table(self, family: str, table: str) -> str | None:
        """Return `nft list table` as text; None when there is no such table."""
        ...

    def close(self) -> None:
        """Close the sockets."""
        ...
