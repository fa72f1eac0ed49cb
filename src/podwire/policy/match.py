"""Who is meant by which selector, found through labels instead of by asking every pair. Pure.

Most selectors demand one value of some label; such a selector can only mean pods that bear it. Both directions
start from there: from a pod to the selectors that mean it, and from a selector to its pods.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from podwire.model.objects import Key
from podwire.policy.rules import PodPeer
from podwire.policy.snapshot import NAMESPACE_NAME_LABEL, Pod

K = TypeVar("K", bound=Hashable)
_Place = tuple[str | None, str, str]  # namespace or None, label key and value, or "" and ""
_NONE: Mapping[Any, PodPeer] = {}


class SelectorIndex(Generic[K]):
    """Selectors by name; ``find`` answers which of them mean a pod."""

    def __init__(self) -> None:
        self._selectors: dict[K, PodPeer] = {}
        self._places: dict[_Place, dict[K, PodPeer]] = {}

    def __len__(self) -> int:
        return len(self._selectors)

    def add(self, name: K, peer: PodPeer) -> None:
        """Take a selector in, or put it in place of the former one of this name."""
        self.remove(name)
        self._selectors[name] = peer
        for place in _places(peer):
            self._places.setdefault(place, {})[name] = peer

    def remove(self, name: K) -> None:
        """Forget a selector. Absent: nothing happens."""
        peer = self._selectors.pop(name, None)
        for place in _places(peer) if peer is not None else ():
            del self._places[place][name]
            if not self._places[place]:
                del self._places[place]

    def find(self, pod: Pod, namespace_labels: Mapping[str, str]) -> Iterator[K]:
        """Yield the names of the selectors that mean this pod, each once."""
        if not pod.selectable:
            return
        labels = [("", ""), *pod.labels.items()]
        for scope in (pod.key.namespace, None):
            for key, value in labels:
                for name, peer in self._places.get((scope, key, value), _NONE).items():
                    if _means(peer, pod, namespace_labels):
                        yield name


def _places(peer: PodPeer) -> Iterable[_Place]:
    for r in peer.pods.requirements:
        if r.operator == "In":
            return [(peer.namespace, r.key, v) for v in dict.fromkeys(r.values)]
    return [(peer.namespace, "", "")]


def _means(peer: PodPeer, pod: Pod, namespace_labels: Mapping[str, str]) -> bool:
    if peer.namespace is not None:
        if peer.namespace != pod.key.namespace:
            return False
    elif not peer.namespaces.matches(namespace_labels):
        return False
    return peer.pods.matches(pod.labels)


class PodIndex:
    """Pods by key, namespace and label; ``find`` answers which of them a selector means."""

    def __init__(self) -> None:
        self.pods: dict[Key, Pod] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        self._in_namespace: dict[str, dict[Key, None]] = {}
        self._labelled: dict[tuple[str, str], dict[Key, None]] = {}

    def put(self, pod: Pod) -> None:
        """Take a pod in, or put it in place of its former state."""
        self.drop(pod.key)
        self.pods[pod.key] = pod
        self._in_namespace.setdefault(pod.key.namespace, {})[pod.key] = None
        for label in pod.labels.items():
            self._labelled.setdefault(label, {})[pod.key] = None

    def drop(self, key: Key) -> None:
        """Forget a pod. Absent: nothing happens."""
        pod = self.pods.pop(key, None)
        if pod is None:
            return
        _discard(self._in_namespace, key.namespace, key)
        for label in pod.labels.items():
            _discard(self._labelled, label, key)

    def in_namespace(self, name: str) -> tuple[Key, ...]:
        """Return the keys of a namespace's pods."""
        return tuple(self._in_namespace.get(name, ()))

    def labels_of_namespace(self, name: str) -> Mapping[str, str]:
        """Return a namespace's labels; one that is not known yet still has its automatic label."""
        return self.namespaces.get(name) or {NAMESPACE_NAME_LABEL: name}

    def find(self, peer: PodPeer) -> Iterator[Pod]:
        """Yield the pods that a selector means."""
        for key in self._candidates(peer):
            pod = self.pods[key]
            if pod.selectable and _means(peer, pod, self.labels_of_namespace(key.namespace)):
                yield pod

    def _candidates(self, peer: PodPeer) -> Iterable[Key]:
        for r in peer.pods.requirements:
            if r.operator == "In":
                return [k for v in dict.fromkeys(r.values) for k in self._labelled.get((r.key, v), ())]
        if peer.namespace is not None:
            return self._in_namespace.get(peer.namespace, ())
        if peer.namespaces.requirements:
            matching = (n for n in self._in_namespace if peer.namespaces.matches(self.labels_of_namespace(n)))
            return [k for n in matching for k in self._in_namespace[n]]
        return self.pods


def _discard(groups: dict[K, dict[Key, None]], group: K, key: Key) -> None:
    del groups[group][key]
    if not groups[group]:
        del groups[group]
