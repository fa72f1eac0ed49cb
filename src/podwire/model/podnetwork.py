"""A pod's place in the network, as the node asks for it and as the CNI gives it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class HostPort:
    """One ``ports[].hostPort``. ``host_ip`` "" means every address of the node."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's place in the network: what identifies it to CNI."""

    sandbox_id: str
    netns: Path
    namespace: str
    name: str
    uid: str
    host_ports: tuple[HostPort, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
