"""What ConntrackPort promises, held against the kernel (flows of real sockets) and against the fake."""

from __future__ import annotations

import os
import socket
import subprocess
from ipaddress import ip_address

import pytest

from podwire.kernel.conntrack.fake import FakeConntrack
from podwire.kernel.conntrack.real import RealConntrack
from podwire.kernel.conntrack.values import Flow, FlowTuple
from podwire.kernel.netns.real import RealNetns

UDP = 17
TRACK = "table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }"


def lo(last):
    return ip_address(f"127.0.0.{last}")


def send(source_port, last, port):
    """Send one datagram to 127.0.0.LAST:PORT; return the flow that it makes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", source_port))
        s.sendto(b"x", (f"127.0.0.{last}", port))


def flow(source_port, last, port):
    original = FlowTuple(lo(1), lo(last), UDP, source_port, port)
    return Flow(original, FlowTuple(lo(last), lo(1), UDP, port, source_port))


FLOWS = [(4001, 2, 53), (4002, 2, 53), (4003, 2, 54), (4004, 3, 53)]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kernel)])
def tracker(request):
    if request.param == "fake":
        yield FakeConntrack(flow(*f) for f in FLOWS)
        return
    netns = RealNetns()
    fd = netns.make()

    def prepare():
        subprocess.run(["nft", "-f", "-"], input=TRACK, text=True, check=True, timeout=10)
        sinks = []
        for last, port in {(f[1], f[2]) for f in FLOWS}:  # else ICMP errors would end the flows
            sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sink.bind((f"127.0.0.{last}", port))
            sinks.append(sink)
        for f in FLOWS:
            send(*f)
        return RealConntrack(), sinks

    made, sinks = netns.within(fd, prepare)
    yield made
    for s in sinks:
        s.close()
    made.close()
    os.close(fd)


def ports(tracker):
    return sorted(f.original.source_port for f in tracker.flows() if f.original.protocol == UDP)


def test_flows_are_listed(tracker):
    assert ports(tracker) == [4001, 4002, 4003, 4004]
    found = next(f for f in tracker.flows() if f.original.source_port == 4001)
    assert (found.original, found.reply) == (flow(*FLOWS[0]).original, flow(*FLOWS[0]).reply)


def test_forget_takes_what_went_to_one_address_and_port(tracker):
    assert tracker.forget(UDP, lo(2), 53) == 2
    assert ports(tracker) == [4003, 4004]
    assert tracker.forget(UDP, lo(2), 53) == 0


def test_forget_looks_at_who_answers(tracker):
    assert tracker.forget(UDP, lo(2), 53, lo(9), 53) == 0
    assert tracker.forget(UDP, lo(2), 53, lo(2), 99) == 0
    assert tracker.forget(UDP, lo(2), 53, lo(2), 53) == 2


def test_forget_knows_the_protocol(tracker):
    assert tracker.forget(6, lo(2), 53) == 0


def test_flush_forgets_all(tracker):
    tracker.flush()
    assert ports(tracker) == []
