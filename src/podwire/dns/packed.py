"""Services and EndpointSlices as few bytes as answering needs: JSON lists. Pure.

A hundred thousand endpoints as dictionaries are 100 MB; as these they are four. What they say is planned
when somebody asks (index.py), and sent to workers as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from podwire.model.objects import Key, Obj

Port = tuple[str, str, int]
"""Name, protocol, number."""


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """A Service as DNS sees it. ``addresses``: its cluster IPs, ("None",) when headless, () when it has none yet."""

    key: Key
    addresses: tuple[str, ...]
    external_name: str
    unready_too: bool
    ports: tuple[Port, ...]

    @property
    def headless(self) -> bool:
        """Whether names lead to the endpoints themselves."""
        return self.addresses == ("None",)


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """One endpoint. ``hostname`` and ``pod`` may be ""."""

    address: str
    hostname: str
    pod: str
    ready: bool
    ports: tuple[Port, ...]


def pack_service(service: Obj) -> bytes:
    """Return a Service's facts, packed; b"" when no name can lead to it (yet)."""
    spec = service.get("spec") or {}
    external = str(spec.get("externalName") or "") if spec.get("type") == "ExternalName" else ""
    if external:
        return _dump(["", external, 0, []])
    addresses = spec.get("clusterIPs") or [spec["clusterIP"]] if spec.get("clusterIP") else []
    if not addresses:
        return b""
    unready = int(bool(spec.get("publishNotReadyAddresses")))
    return _dump([" ".join(addresses), "", unready, _ports(spec.get("ports"))])


def unpack_service(key: Key, raw: bytes) -> ServiceFacts:
    """Return the facts of a packed Service."""
    addresses, external, unready, ports = orjson.loads(raw)
    return ServiceFacts(key, tuple(addresses.split()), external, bool(unready), tuple(map(tuple, ports)))


def pack_slice(piece: Obj) -> bytes:
    """Return an EndpointSlice's endpoints and ports, packed. Of an endpoint's addresses the first counts."""
    endpoints = []
    for raw in piece.get("endpoints") or ():
        addresses = raw.get("addresses") or ()
        if not addresses:
            continue
        target = raw.get("targetRef") or {}
        pod = target.get("name") if target.get("kind") == "Pod" else ""
        entry = [addresses[0], raw.get("hostname") or "", pod or ""]
        if (raw.get("conditions") or {}).get("ready") is False:
            entry.append(0)
        endpoints.append(entry)
    return _dump([_ports(piece.get("ports")), endpoints])


def unpack_slices(pieces: Sequence[bytes]) -> Iterator[EndpointFacts]:
    """Yield the endpoints of packed slices, ready or not."""
    for raw in pieces:
        ports, endpoints = orjson.loads(raw)
        named = tuple(map(tuple, ports))
        for address, hostname, pod, *unready in endpoints:
            yield EndpointFacts(address, hostname, pod, not unready, named)


def _ports(raw: Any) -> list[list[Any]]:
    return [
        [p.get("name") or "", p.get("protocol") or "TCP", p["port"]]
        for p in raw or ()
        if isinstance(p.get("port"), int)
    ]


def _dump(value: Any) -> bytes:
    return bytes(memoryview(orjson.dumps(value)))  # a copy of just this size: orjson's own occupies 4 KB
