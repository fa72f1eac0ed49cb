"""Answering for addresses: one contract for the fake and the kernel; then what neighbours hear."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from podwire.kernel.announce.fake import FakeAnnounce
from podwire.kernel.announce.real import RealAnnounce
from podwire.kernel.netns.real import RealNetns
from podwire.kernel.sysctl.real import RealSysctl
from podwire.wire.neighbours import checksum, encode_announcement

FOUR, SIX = ip_address("192.0.2.200"), ip_address("fd00:2::c8")
MAC = "02:00:00:00:00:0b"


class Segment:
    """Two machines on one wire: ``here`` announces, ``there`` listens."""

    def __init__(self) -> None:
        self.netns = RealNetns()
        self.here, self.there = self.netns.make(), self.netns.make()
        self._ip(
            self.here, f"link add eth0 address {MAC} type veth peer name eth0 netns /proc/{os.getpid()}/fd/{self.there}"
        )
        for fd, last in ((self.here, "b"), (self.there, "a")):
            number = int(last, 16)
            for words in ("link set lo up", "link set eth0 up", f"addr add 192.0.2.{number}/24 dev eth0",
                          f"addr add fd00:2::{last}/64 dev eth0 nodad"):  # fmt: skip
                self._ip(fd, words)
        for knob in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):  # as on every node
            self.netns.within(self.here, lambda k=knob: subprocess.run(["sysctl", "-qw", k], check=True))

    def _ip(self, fd: int, words: str) -> None:
        self.netns.within(fd, lambda: subprocess.run(["ip", *words.split()], check=True))

    def ping(self, address: object) -> bool:
        command = ["ping", "-c", "1", "-W", "2", str(address)]
        for _ in range(3):  # a link that has just come up
            if self.netns.within(self.there, lambda: subprocess.run(command, capture_output=True)).returncode == 0:
                return True
        return False

    def close(self) -> None:
        os.close(self.here)
        os.close(self.there)


@pytest.fixture
def segment() -> Iterator[Segment]:
    if os.getuid() != 0:
        pytest.skip("needs root")
    made = Segment()
    yield made
    made.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kernel)])
def port(request: pytest.FixtureRequest) -> Any:
    if request.param == "fake":
        return FakeAnnounce()
    made = request.getfixturevalue("segment")
    return made.netns.within(made.here, lambda: RealAnnounce((ip_address("192.0.2.11"),), RealSysctl()))


def test_hold_and_release(port: Any) -> None:
    assert port.held() == frozenset()
    port.release([FOUR])
    port.hold([])
    port.hold([FOUR, FOUR])
    port.hold([FOUR])
    assert port.held() == {FOUR}
    port.release([FOUR, ip_address("192.0.2.201")])
    assert port.held() == frozenset()


@pytest.mark.kernel
def test_neighbours_find_the_addresses_and_lose_them(segment: Segment) -> None:
    def announce() -> RealAnnounce:
        made = RealAnnounce((ip_address("192.0.2.11"),), RealSysctl())
        made.hold([FOUR, SIX])
        return made

    port = segment.netns.within(segment.here, announce)
    assert port.held() == {FOUR, SIX}
    assert segment.ping(FOUR)
    assert segment.ping(SIX)
    again = segment.netns.within(segment.here, lambda: RealAnnounce((ip_address("192.0.2.11"),), RealSysctl()))
    assert again.held() == {FOUR, SIX}  # what a restarted agent adopts
    again.release([FOUR, SIX])
    segment._ip(segment.there, "neigh flush all")
    assert not segment.ping(FOUR)


@pytest.mark.kernel
def test_a_shout_is_heard_by_everybody(segment: Segment) -> None:
    def listen() -> socket.socket:
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        ear.bind(("eth0", 0))
        ear.settimeout(3)
        return ear

    with segment.netns.within(segment.there, listen) as ear:

        def shout() -> None:
            RealAnnounce((ip_address("192.0.2.11"),), RealSysctl()).shout([FOUR, SIX])

        segment.netns.within(segment.here, shout)
        wanted = {encode_announcement(MAC, FOUR), encode_announcement(MAC, SIX)}
        while wanted:
            wanted.discard(ear.recv(2000))


def test_the_frames_are_what_the_specifications_say() -> None:
    arp = encode_announcement(MAC, FOUR)
    assert arp.hex(" ", -2) == (
        "ffff ffff ffff 0200 0000 000b 0806 0001 0800 0604 0001 0200 0000 000b c000 02c8 0000 0000 0000 c000 02c8"
    )
    advertisement = encode_announcement(MAC, SIX)
    assert advertisement[:14].hex() == "333300000001" + "02000000000b" + "86dd"
    payload, head = advertisement[54:], advertisement[14:54]
    assert (head[6], head[7]) == (58, 255)
    assert payload[0] == 136
    assert payload[4] == 0x20  # override, neither solicited nor a router's
    pseudo = head[8:40] + struct.pack("!II", len(payload), 58)
    assert checksum(pseudo + payload) == 0
