"""Messages between agent and shim: nothing changes on the way."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from podwire.node.runtime import protocol
from podwire.node.runtime.images import ImageCatalogue
from podwire.node.runtime.values import (
    Container,
    ContainerSpec,
    ContainerUsage,
    Mount,
    PortSpec,
    Sandbox,
    SandboxSpec,
)

SPEC = ContainerSpec(
    "c",
    "s",
    "main",
    2,
    "nginx",
    ("a",),
    ("b", "ü"),
    (("K", "v"),),
    "/w",
    (Mount(Path("/a"), "/b", True, "host-to-container"),),
    (PortSpec(80, "UDP", "dns"),),
    tty=True,
    log_path=Path("/var/log/x"),
    user=7,
    supplemental_groups=(1, 2),
    capabilities_drop=("ALL",),
    hosts_file=Path("/h"),
    server_facts=(("pod", "p"),),
)


def through(value: object) -> protocol.Message:
    """Return what arrives of a value on the other side."""
    packets = protocol.encode({"v": protocol.to_wire(value)})  # type: ignore[arg-type]
    assembler = protocol.Assembler()
    for packet in packets[:-1]:
        assert assembler.feed(packet, []) is None
    whole = assembler.feed(packets[-1], [])
    assert whole is not None
    return whole[0]["v"]  # type: ignore[no-any-return]


def test_values_arrive_as_they_were_sent() -> None:
    sandbox = SandboxSpec("s", "u", "ns", "n", "h", sysctls={"a.b": "1"})
    assert protocol.sandbox_spec(through(sandbox)) == sandbox
    assert protocol.sandbox(through(Sandbox(sandbox, Path("/n"), 1.5))) == Sandbox(sandbox, Path("/n"), 1.5)
    assert protocol.container_spec(through(SPEC)) == SPEC
    assert protocol.container_spec(through(ContainerSpec("c", "s", "m", 0, "i"))) == ContainerSpec(
        "c", "s", "m", 0, "i"
    )
    container = Container(SPEC, "exited", 0, 137, 9, "Error", "m", 1.0, 2.0, 3.0)
    assert protocol.container(through(container)) == container
    image = ImageCatalogue({"x": Path("/bin/sh")}).look_up("x")
    assert protocol.image(through(image)) == image
    assert protocol.image(through(ImageCatalogue().look_up("nginx"))) == ImageCatalogue().look_up("nginx")
    assert protocol.usage(through(ContainerUsage("c", 1, 2, 3))) == ContainerUsage("c", 1, 2, 3)


@given(st.integers(0, 200_000))
def test_messages_of_any_length_are_cut_and_joined(length: int) -> None:
    message = {"t": "x" * length}
    packets = protocol.encode(message)
    assert all(len(p) <= protocol.PACKET_BYTES + 1 for p in packets)
    assembler = protocol.Assembler()
    answers = [assembler.feed(p, []) for p in packets]
    assert answers[:-1] == [None] * (len(packets) - 1)
    assert answers[-1] == (json.loads(json.dumps(message)), [])


def test_descriptors_travel_with_the_message() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    packets = protocol.encode({"t": "x" * 50_000})
    protocol.send_packet(ours, packets[0], [writer])
    protocol.send_packet(ours, packets[1], [])
    os.close(writer)
    assembler = protocol.Assembler()
    assert assembler.feed(*protocol.receive_packet(theirs)) is None
    whole = assembler.feed(*protocol.receive_packet(theirs))
    assert whole is not None
    os.write(whole[1][0], b"through")
    assert os.read(reader, 10) == b"through"
    ours.close()
    assert protocol.receive_packet(theirs) == (b"", [])
    theirs.close()
    for fd in (reader, *whole[1]):
        os.close(fd)
