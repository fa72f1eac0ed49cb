"""NetworkPolicies as they are written, read leniently: the linter must speak about broken ones, too. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from podwire.model.selectors import EVERYTHING, Selector, from_label_selector
from podwire.verify.located import Located

Direction = Literal["ingress", "egress"]
DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")
METADATA_NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class WrittenRule:
    """One rule of a NetworkPolicy. ``peers`` and ``ports`` None: unrestricted (missing, null and [] alike)."""

    located: Located
    direction: Direction
    path: str  # "spec.ingress[0]"
    peers: Sequence[Mapping[str, Any]] | None
    ports: Sequence[Mapping[str, Any]] | None

    @property
    def peers_field(self) -> str:
        """Where the peers are written."""
        return f"{self.path}.{'from' if self.direction == 'ingress' else 'to'}"

    def peer_paths(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield each peer with its path."""
        for index, peer in enumerate(self.peers or ()):
            if isinstance(peer, dict):
                yield f"{self.peers_field}[{index}]", peer

    def port_paths(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield each port with its path."""
        for index, port in enumerate(self.ports or ()):
            if isinstance(port, dict):
                yield f"{self.path}.ports[{index}]", port


def rules_of(policy: Located, direction: Direction | None = None) -> Iterator[WrittenRule]:
    """Yield the rules of a policy, of one direction or of both."""
    spec = policy.object.get("spec") or {}
    for way in (direction,) if direction else DIRECTIONS:
        for index, rule in enumerate(spec.get(way) or ()):
            if isinstance(rule, dict):
                peers = rule.get("from" if way == "ingress" else "to") or None
                yield WrittenRule(policy, way, f"spec.{way}[{index}]", peers, rule.get("ports") or None)


def policy_types(policy: Located) -> frozenset[Direction]:
    """Return the directions that a policy isolates: as written, or as the API server fills them in."""
    spec = policy.object.get("spec") or {}
    written = spec.get("policyTypes")
    if written:
        return frozenset(d for d in DIRECTIONS if d.capitalize() in written)
    return frozenset(DIRECTIONS if spec.get("egress") else DIRECTIONS[:1])


def selector_of(raw: Any) -> Selector | None:
    """Return a LabelSelector as a value; None when it is no valid one. Absent counts as empty: everything."""
    if raw is None:
        return EVERYTHING
    try:
        return from_label_selector(raw)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def describe_selector(raw: Any) -> str:
    """Return a LabelSelector in kubectl's words: "app=web,tier in (a,b)"; "every pod" or the like is the caller's."""
    selector = selector_of(raw)
    if selector is None:
        return "an invalid selector"
    words = []
    for r in selector.requirements:
        match r.operator:
            case "In" if len(r.values) == 1:
                words.append(f"{r.key}={r.values[0]}")
            case "NotIn" if len(r.values) == 1:
                words.append(f"{r.key}!={r.values[0]}")
            case "In" | "NotIn":
                words.append(f"{r.key} {r.operator.lower()} ({', '.join(r.values)})")
            case "Exists":
                words.append(r.key)
            case "DoesNotExist":
                words.append(f"!{r.key}")
    return ",".join(words)
