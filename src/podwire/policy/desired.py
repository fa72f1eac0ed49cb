"""What enforcement needs in the kernel, as values: which sets of addresses, under which names.

A set is named after what it holds, so equal selectors of different policies share one. ``version`` 6 has sets of
its own, with a 6 behind the kind: ``pods-3f2a9c1b`` and ``pods6-3f2a9c1b``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from podwire.kernel.nft.port import FilterRule, SetKind
from podwire.model.selectors import Requirement, Selector
from podwire.policy.rules import Direction, PodPeer

ADDRESS_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
PROTOCOL_NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}
COMMENT_CHARS = 120  # the kernel keeps 127 bytes


def short(text: str) -> str:
    """Return eight hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _six(version: int) -> str:
    return "6" if version == 6 else ""


@dataclass(frozen=True, slots=True)
class PodSet:
    """The addresses of the pods that a peer means; the peer's path is left out so that equal ones meet."""

    peer: PodPeer

    def name(self, version: int) -> str:
        """Return the set's name."""
        return pod_set_name(self.digits, version)

    @property
    def digits(self) -> str:
        """Return what stands for the selector in the names of its sets."""
        return _digits(self.peer)

    def kind(self, version: int) -> SetKind:
        """Return what its elements are."""
        return SetKind((ADDRESS_TYPE[version],), comment=describe_peer(self.peer)[:COMMENT_CHARS])


@lru_cache(65536)
def _digits(peer: PodPeer) -> str:
    return short(describe_peer(peer))


def pod_set_name(digits: str, version: int) -> str:
    """Return the name of the set of pods that has these digits."""
    return f"pods6-{digits}" if version == 6 else f"pods-{digits}"


@dataclass(frozen=True, slots=True)
class NodeSet:
    """The addresses of the nodes that a selector picks."""

    nodes: Selector

    def name(self, version: int) -> str:
        """Return the set's name."""
        return f"nodes{_six(version)}-{short(describe_selector(self.nodes))}"

    def kind(self, version: int) -> SetKind:
        """Return what its elements are."""
        return SetKind((ADDRESS_TYPE[version],), comment=f"nodes: {describe_selector(self.nodes)}"[:COMMENT_CHARS])


@dataclass(frozen=True, slots=True)
class PortSet:
    """Pod address and port, for every pod that names a port so."""

    port: str
    protocol: str

    def name(self, version: int) -> str:
        """Return the set's name."""
        return f"port{_six(version)}-{self.port}-{self.protocol.lower()}"

    def kind(self, version: int) -> SetKind:
        """Return what its elements are."""
        return SetKind((ADDRESS_TYPE[version], "inet_service"), comment=f"port {self.port} of {self.protocol}")


AddressSet: TypeAlias = PodSet | NodeSet | PortSet


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """A chain: its rules, and the sets that they look into. ``rank`` is higher than that of chains it jumps to."""

    name: str
    rules: tuple[FilterRule, ...]
    sets: frozenset[AddressSet] = frozenset()
    parts: tuple[ChainPlan, ...] = ()  # chains of its own that its rules jump to
    rank: int = 0


@dataclass(frozen=True, slots=True)
class PodVerdict:
    """What happens to a local pod's packets in one direction: the policies that speak, in order.

    All three empty: everything passes. ``isolating`` are NetworkPolicies; ids are (kind, namespace/name).
    """

    direction: Direction
    admin: tuple[str, ...] = ()
    isolating: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the policies that speak."""
        return (*self.admin, *self.isolating, *self.baseline)

    @property
    def is_open(self) -> bool:
        """Whether nothing speaks."""
        return not (self.admin or self.isolating or self.baseline)

    @property
    def chain(self) -> str:
        """Return the name of the chain that all pods with this verdict share."""
        text = "|".join(",".join(ids) for ids in (self.admin, self.isolating, self.baseline))
        return f"{self.direction}-of-{short(text)}"


def describe_selector(selector: Selector) -> str:
    """Return a selector in the string form of ``kubectl -l``; "all" when it matches everything."""
    return ",".join(map(_requirement, selector.requirements)) or "all"


def _requirement(r: Requirement) -> str:
    match r.operator:
        case "In" if len(r.values) == 1:
            return f"{r.key}={r.values[0]}"
        case "In" | "NotIn":
            return f"{r.key} {r.operator.lower()} ({','.join(r.values)})"
        case "Exists":
            return r.key
        case _:
            return f"!{r.key}"


def describe_peer(peer: PodPeer) -> str:
    """Return whom a peer means, in words that tell equal peers from others."""
    where = f"namespace {peer.namespace}" if peer.namespace is not None else describe_namespaces(peer.namespaces)
    return f"{where}; pods {describe_selector(peer.pods)}"


def describe_namespaces(selector: Selector) -> str:
    """Return "namespaces SELECTOR"."""
    return f"namespaces {describe_selector(selector)}"


def shorten(name: str, tail: str) -> str:
    """Return "NAME TAIL", the name cut in its middle if the kernel would cut the end."""
    room = COMMENT_CHARS - len(tail) - 1
    if len(name) > room:
        half = max(4, (room - 2) // 2)
        name = f"{name[:half]}..{name[-half:]}"
    return f"{name} {tail}".strip()


def list_names(names: Iterable[str]) -> str:
    """Return the names joined, as many as fit a comment."""
    shown: list[str] = []
    rest = list(names)
    while rest and sum(map(len, shown)) + len(shown) * 2 + len(rest[0]) < COMMENT_CHARS - 40:
        shown.append(rest.pop(0))
    return ", ".join(shown) + (f" and {len(rest)} more" if rest else "")
