"""What a monitor tells of what others do."""

from __future__ import annotations

import asyncio
import os
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from podwire.kernel.link.fake import FakeMonitor
from podwire.kernel.link.monitor import RealMonitor
from podwire.kernel.link.values import FdbEntry, Neighbour, Veth, Vxlan
from podwire.kernel.route.values import Route
from podwire.wire.netlink import Message


@pytest.fixture
def stage(world):
    fd = world.namespace()
    links, routes = world.links(fd), world.routes(fd)
    if world.kind == "real":
        monitor = world.netns.within(fd, RealMonitor)
    else:
        monitor = world.netns.within(fd, lambda: FakeMonitor(world.machine))
    yield links, routes, monitor
    monitor.close()


async def hear(monitor, kind, gone, wanted):
    """Return the first change of a kind for which ``wanted(value)`` holds."""
    async with asyncio.timeout(5):
        async for changes in monitor.changes():
            for change in changes:
                if change.kind == kind and change.gone == gone and wanted(change.value):
                    return change.value
    raise AssertionError("the monitor ended")


async def test_a_monitor_hears_of_everything(stage):
    links, routes, monitor = stage
    eth0 = links.create(Veth("eth0", "wire"))
    links.set_up(eth0.peer)
    links.set_up(eth0.index)
    assert (await hear(monitor, "link", False, lambda v: v.name == "eth0" and v.up)).index == eth0.index
    links.add_address(eth0.index, ip_interface("192.168.71.10/24"))
    await hear(monitor, "address", False, lambda v: str(v.interface) == "192.168.71.10/24")
    route = Route(ip_network("10.244.1.0/24"), eth0.index, ip_address("192.168.71.11"))
    routes.replace(route)
    await hear(monitor, "route", False, lambda v: v == route)
    routes.delete(route)
    await hear(monitor, "route", True, lambda v: v == route)

    vxlan = links.create(Vxlan("flannel.1", 1, 8472, ip_address("192.168.71.10"), eth0.index))
    links.set_up(vxlan.index)
    neighbour = Neighbour(vxlan.index, ip_address("10.244.1.0"), "02:00:00:00:00:01")
    entry = FdbEntry(vxlan.index, "02:00:00:00:00:01", ip_address("192.168.71.11"))
    links.replace_neighbour(neighbour)
    await hear(monitor, "neighbour", False, lambda v: v == neighbour)
    links.replace_fdb(entry)
    await hear(monitor, "fdb", False, lambda v: v == entry)
    links.delete_neighbour(vxlan.index, neighbour.ip)
    await hear(monitor, "neighbour", True, lambda v: v.ip == neighbour.ip)
    links.delete_fdb(entry)
    await hear(monitor, "fdb", True, lambda v: v == entry)
    links.delete(vxlan.index)
    await hear(monitor, "link", True, lambda v: v.name == "flannel.1")


@pytest.mark.kernel
def test_an_unreadable_message_is_a_loss_and_no_crash():
    monitor = RealMonitor.__new__(RealMonitor)

    class Torn:
        packets = [[Message(16, 0, 0, 0, b"\1")], None]

        def receive(self):
            packet = self.packets.pop(0)
            if packet is None:
                raise BlockingIOError
            return packet

    monitor._socket = Torn()
    assert [c.kind for c in monitor.read()] == ["lost"]


@pytest.mark.kernel
def test_an_overflow_is_told_as_a_loss():
    from podwire.kernel.link.real import RealLinks
    from podwire.kernel.netns.real import RealNetns

    netns = RealNetns()
    fd = netns.make()
    links, monitor = netns.within(fd, RealLinks), netns.within(fd, RealMonitor)
    try:
        monitor._socket._socket.setsockopt(1, 8, 2304)  # SOL_SOCKET, SO_RCVBUF: the least there is
        veth = links.create(Veth("a", "b"))
        for mtu_bytes in range(1400, 1450):
            links.set_mtu(veth.index, mtu_bytes)
        assert "lost" in [c.kind for c in monitor.read()]
    finally:
        monitor.close()
        links.close()
        os.close(fd)
