"""What becomes of the first packet of a connection on one node, by the rules alone: no kernel is asked. Pure.

model = Model(plans, place)
model.evaluate(Packet(ip_address("10.244.1.5"), ip_address("10.96.0.10"), UDP, 53))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from podwire.model.objects import Key
from podwire.proxy.claims import Settlement
from podwire.proxy.desired import Frontend, FrontKey, IPAddress, IPNetwork, ServiceRules, Target

Verdict = Literal["forward", "pass", "reject", "drop"]
"""forward: rewritten to an endpoint; pass: no business of the proxy's; reject: RST or port unreachable."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection, as it arrives."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the packet is judged. ``own``: every address of the node, its bridge's among them."""

    pod_networks: tuple[IPNetwork, ...]
    service_networks: tuple[IPNetwork, ...]
    own: frozenset[IPAddress]


@dataclass(frozen=True, slots=True)
class Outcome:
    """``targets``: where it may go, with equal chance; ``masqueraded``: those that see the node as its source."""

    verdict: Verdict
    targets: frozenset[Target] = frozenset()
    masqueraded: frozenset[Target] = frozenset()
    service: str = ""  # "namespace/name:port" that decided; "" for none


class Model:
    """The Services of a cluster as one node sees them."""

    def __init__(self, plans: Mapping[Key, ServiceRules | None], place: Place) -> None:
        settled = [r for r in Settlement().take(plans).values() if r is not None]
        self._place = place
        self._fronts: dict[FrontKey, Frontend] = {f.key: f for r in settled for f in r.frontends}
        self._cluster_ips = {a: str(r.service) for r in settled for a in r.cluster_ips}

    def evaluate(self, packet: Packet) -> Outcome:
        """Return the fate of the packet."""
        front = self._fronts.get(FrontKey(packet.destination, packet.protocol, packet.port))
        if front is None:
            return self._without_frontend(packet)
        if front.sources is not None and not any(packet.source in n for n in front.sources):
            return Outcome("drop", service=front.name)
        if not front.targets:
            return Outcome(front.refusal, service=front.name)
        inside = any(packet.source in n for n in self._place.pod_networks)
        at_home = packet.source in self._place.own
        targets = front.targets
        if front.exposure == "external-local" and not inside and not at_home:
            if not front.local_targets:
                return Outcome("drop", service=front.name)
            targets = front.local_targets
        hidden = self._hides_source(front, inside, at_home)
        seen_as_node = {t for t in targets if hidden or t.address == packet.source}
        return Outcome("forward", frozenset(targets), frozenset(seen_as_node), front.name)

    def _without_frontend(self, packet: Packet) -> Outcome:
        if packet.destination in self._cluster_ips:
            return Outcome("reject", service=self._cluster_ips[packet.destination])
        unallocated = any(packet.destination in n for n in self._place.service_networks)
        return Outcome("drop" if unallocated else "pass")

    def _hides_source(self, front: Frontend, inside: bool, at_home: bool) -> bool:
        """Return whether every endpoint sees the node's address, whichever it is."""
        match front.exposure:
            case "external":
                return True
            case "external-local":
                return at_home and not inside
            case _:
                # Without a pod network nobody can say which sources are off-cluster.
                known = any(n.version == front.key.address.version for n in self._place.pod_networks)
                return known and not inside
