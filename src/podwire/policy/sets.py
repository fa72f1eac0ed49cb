"""Sets of classes: what a selector, a peer or a subject means, as an int with one bit per class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import compress

from podwire.model.selectors import Requirement, Selector
from podwire.policy.classes import Classes, LabelPairs, NodeTraits, PodTraits, resolved
from podwire.policy.rules import BlockPeer, DomainPeer, NodePeer, Peer, PodPeer


def bits_of(numbers: Iterable[int], count: int) -> int:
    """Return the set of these numbers, each below ``count``."""
    cells = bytearray(count // 8 + 1)
    for n in numbers:
        cells[n >> 3] |= 1 << (n & 7)
    return int.from_bytes(cells, "little")


_ZERO_ONE = bytes.maketrans(b"01", b"\0\1")


def members(bits: int) -> Iterator[int]:
    """Return the numbers in a set, ascending."""
    if bits.bit_count() <= 8:
        return _few(bits)
    digits = format(bits, "b")[::-1].encode().translate(_ZERO_ONE)
    return compress(range(len(digits)), digits)


def _few(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


class Sets:
    """Selectors and peers as sets of classes, within one of the snapshots that the classes are of."""

    def __init__(self, classes: Classes, side: int) -> None:
        self._classes, self._snapshot = classes, classes.snapshots[side]
        self._count = len(classes)
        self._pods = _Labelled()
        self._nodes = _Labelled()
        in_namespace: dict[str, list[int]] = {}
        in_block: dict[int, list[int]] = {}
        for n, entry in enumerate(classes.all):
            traits = entry.traits[side]
            if traits is None:
                continue
            for block in traits.blocks:
                in_block.setdefault(block, []).append(n)
            if isinstance(traits, PodTraits):
                in_namespace.setdefault(traits.namespace, []).append(n)
                self._pods.add(n, traits.labels)
            elif isinstance(traits, NodeTraits):
                self._nodes.add(n, traits.labels)
        self._pods.close(self._count)
        self._nodes.close(self._count)
        self._in_namespace = {name: bits_of(ns, self._count) for name, ns in in_namespace.items()}
        self._in_block = {block: bits_of(ns, self._count) for block, ns in in_block.items()}
        self._namespaces: dict[Selector, int] = {}
        self.pods = self._pods.everyone

    def of(self, peer: Peer) -> int:
        """Return the classes that a peer or a subject means."""
        match peer:
            case PodPeer():
                if peer.namespace is not None:
                    within = self._in_namespace.get(peer.namespace, 0)
                else:
                    within = self._of_namespaces(peer.namespaces)
                return within & self._pods.of(peer.pods) if within and peer.pods.requirements else within
            case BlockPeer():
                number = self._classes.vocabulary.block_number.get((peer.cidr, peer.excepts))
                return self._in_block.get(number, 0) if number is not None else 0
            case NodePeer():
                return self._nodes.of(peer.nodes)
            case DomainPeer():
                found = 0
                for cidr in resolved(self._snapshot, peer):
                    found |= self.of(BlockPeer(cidr))
                return found

    def _of_namespaces(self, selector: Selector) -> int:
        if not selector.requirements:
            return self.pods
        found = self._namespaces.get(selector)
        if found is None:
            found = 0
            for name, bits in self._in_namespace.items():
                if selector.matches(self._snapshot.namespace_labels(name)):
                    found |= bits
            self._namespaces[selector] = found
        return found


class _Labelled:
    """Classes by their labels."""

    def __init__(self) -> None:
        self._lists: dict[str, dict[str, list[int]]] = {}
        self._numbers: list[int] = []
        self._bits: dict[str, dict[str, int]] = {}
        self._present: dict[str, int] = {}
        self._known: dict[Selector, int] = {}
        self.everyone = 0

    def add(self, number: int, labels: LabelPairs) -> None:
        self._numbers.append(number)
        for key, value in labels:
            self._lists.setdefault(key, {}).setdefault(value, []).append(number)

    def close(self, count: int) -> None:
        """Turn lists into sets; after that, ``of`` may be asked."""
        self.everyone = bits_of(self._numbers, count)
        for key, values in self._lists.items():
            self._bits[key] = {v: bits_of(ns, count) for v, ns in values.items()}
            self._present[key] = bits_of((n for ns in values.values() for n in ns), count)
        self._lists.clear()

    def of(self, selector: Selector) -> int:
        """Return the classes that a selector matches."""
        found = self._known.get(selector)
        if found is None:
            found = self.everyone
            for requirement in selector.requirements:
                found &= self._requirement(requirement)
            self._known[selector] = found
        return found

    def _requirement(self, r: Requirement) -> int:
        present = self._present.get(r.key, 0)
        if r.operator in ("Exists", "DoesNotExist"):
            return present if r.operator == "Exists" else self.everyone & ~present
        values = self._bits.get(r.key, {})
        found = 0
        for value in r.values:
            found |= values.get(value, 0)
        return found if r.operator == "In" else self.everyone & ~found
