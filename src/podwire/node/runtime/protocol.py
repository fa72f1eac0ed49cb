"""The language between agent and shim: JSON messages over SOCK_SEQPACKET, descriptors beside them.

    agent -> shim   {"id": 7, "op": "start_container", "spec": {...}}         [+ descriptors]
    shim -> agent   {"id": 7, "ok": {...}} or {"id": 7, "error": {...}}       [+ descriptors]
    shim -> agent   {"event": {container}}, {"exec_exit": 3, "code": 0}       unasked

A message may be longer than a packet can be, so it is cut: the first byte of each packet says whether more
follow. Descriptors travel with a message's first packet. Pure, but for the sockets handed in.
"""

from __future__ import annotations

import array
import json
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

from podwire.node.runtime.values import (
    Container,
    ContainerSpec,
    ContainerUsage,
    Image,
    Mount,
    PortSpec,
    Sandbox,
    SandboxSpec,
)

Message = dict[str, Any]

PACKET_BYTES = 32 << 10
_MORE, _LAST = b"\x01", b"\x00"
_MOST_FDS = 8


def encode(message: Message) -> list[bytes]:
    """Return the packets of a message."""
    raw = json.dumps(message, separators=(",", ":"), default=str).encode()
    cuts = [raw[i : i + PACKET_BYTES] for i in range(0, len(raw), PACKET_BYTES)]
    return [(_LAST if cut is cuts[-1] else _MORE) + cut for cut in cuts]


class Assembler:
    """Puts the packets of one connection together again."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._fds: list[int] = []

    def feed(self, packet: bytes, fds: list[int]) -> tuple[Message, list[int]] | None:
        """Return the message that this packet completes, with its descriptors; None when more must come."""
        self._parts.append(packet[1:])
        self._fds += fds
        if packet[:1] == _MORE:
            return None
        raw, taken = b"".join(self._parts), self._fds
        self._parts, self._fds = [], []
        message: Message = json.loads(raw)
        return message, taken


def send_packet(sock: socket.socket, packet: bytes, fds: list[int]) -> None:
    """Send one packet. Raises BlockingIOError when the peer must read first."""
    if fds:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        sock.sendmsg([packet], ancillary)
    else:
        sock.send(packet)


def receive_packet(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Return one packet and its descriptors (close-on-exec); an empty packet means the peer has gone."""
    space = socket.CMSG_SPACE(_MOST_FDS * 4)
    packet, ancillary, _, _ = sock.recvmsg(PACKET_BYTES + 1, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return packet, list(fds)


def to_wire(value: Sandbox | Container | Image | ContainerUsage | SandboxSpec | ContainerSpec) -> Message:
    """Return a value as JSON types (paths become text by ``encode``)."""
    return asdict(value)


def sandbox_spec(raw: Message) -> SandboxSpec:
    """Read a sandbox's specification."""
    return SandboxSpec(**raw)


def sandbox(raw: Message) -> Sandbox:
    """Read a sandbox."""
    return Sandbox(**{**raw, "spec": sandbox_spec(raw["spec"]), "netns": Path(raw["netns"])})


def container_spec(raw: Message) -> ContainerSpec:
    """Read a container's specification."""
    fields = dict(raw)
    for name in ("command", "args", "supplemental_groups", "capabilities_add", "capabilities_drop"):
        fields[name] = tuple(fields[name])
    for name in ("env", "server_facts"):
        fields[name] = tuple((k, v) for k, v in fields[name])
    for name in ("hosts_file", "resolv_file", "termination_log"):
        fields[name] = Path(fields[name]) if fields[name] else None
    fields["log_path"] = Path(fields["log_path"])
    fields["mounts"] = tuple(Mount(**{**m, "source": Path(m["source"])}) for m in fields["mounts"])
    fields["ports"] = tuple(PortSpec(**p) for p in fields["ports"])
    return ContainerSpec(**fields)


def container(raw: Message) -> Container:
    """Read a container."""
    return Container(**{**raw, "spec": container_spec(raw["spec"])})


def image(raw: Message) -> Image:
    """Read an image."""
    fields = {**raw, "entrypoint": tuple(raw["entrypoint"]), "default_args": tuple(raw["default_args"])}
    fields["default_ports"] = tuple(PortSpec(**p) for p in raw["default_ports"])
    fields["path"] = Path(raw["path"]) if raw["path"] else None
    return Image(**fields)


def usage(raw: Message) -> ContainerUsage:
    """Read a container's resource use."""
    return ContainerUsage(**raw)
