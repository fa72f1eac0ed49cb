"""What RoutePort promises, held against the kernel and against the fake."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from podwire.kernel.link.values import Bridge, Veth
from podwire.kernel.route.values import Route
from podwire.model.errors import MachineError


@pytest.fixture
def fd(world):
    return world.namespace()


@pytest.fixture
def links(world, fd):
    return world.links(fd)


@pytest.fixture
def routes(world, fd):
    return world.routes(fd)


@pytest.fixture
def eth0(links):
    link = links.create(Veth("eth0", "wire"))
    links.set_up(link.peer)
    links.set_up(link.index)
    links.add_addresses(link.index, [ip_interface("192.168.71.10/24"), ip_interface("fd00:71::10/64")])
    return link.index


def net(text):
    return ip_network(text)


def ours(routes):
    """Return the routes but for IPv6's own link-local ones, as a set."""
    return {r for r in routes.routes() if not r.destination.is_link_local and not r.destination.is_multicast}


def test_an_address_brings_its_network(routes, eth0):
    assert ours(routes) == {
        Route(net("192.168.71.0/24"), eth0, source=ip_address("192.168.71.10"), protocol=2, scope_link=True),
        Route(net("fd00:71::/64"), eth0, protocol=2, metric=256),
    }


def test_replace_adds_and_overwrites(routes, eth0):
    before = ours(routes)
    first = Route(net("10.244.1.0/24"), eth0, ip_address("192.168.71.11"))
    second = replace(first, via=ip_address("192.168.71.12"), mtu_bytes=1400, protocol=77)
    routes.replace(first)
    routes.replace(second)
    assert ours(routes) - before == {second}


def test_the_kernel_finds_the_link_from_the_gateway(routes, eth0):
    routes.replace(Route(net("10.244.1.0/24"), via=ip_address("192.168.71.11")))
    routes.replace(Route(net("fd00:1::/64"), via=ip_address("fd00:71::11")))
    assert {r.link for r in ours(routes) if r.via} == {eth0}


def test_metrics_stand_side_by_side(routes, eth0):
    low = Route(net("10.1.0.0/16"), eth0, ip_address("192.168.71.11"), metric=10)
    high = Route(net("10.1.0.0/16"), eth0, ip_address("192.168.71.12"), metric=20)
    routes.replace_all([high, low])
    assert {low, high} <= ours(routes)
    assert routes.lookup(ip_address("10.1.2.3")) == low


def test_onlink_needs_no_neighbourhood(routes, eth0):
    route = Route(net("10.244.1.0/24"), eth0, ip_address("10.244.1.0"), onlink=True)
    with pytest.raises(MachineError, match=r"kernel/route: set route 10\.244\.1\.0/24"):
        routes.replace(replace(route, onlink=False))
    routes.replace(route)
    six = Route(net("fd00:1::/64"), eth0, ip_address("fd00:1::"), onlink=True)
    routes.replace(six)
    assert {route, six} <= ours(routes)


def test_replace_all_goes_on_after_a_failure(routes, eth0):
    bad = Route(net("10.1.0.0/16"), eth0, ip_address("9.9.9.9"))
    good = Route(net("10.2.0.0/16"), eth0, ip_address("192.168.71.2"))
    with pytest.raises(MachineError):
        routes.replace_all([bad, good])
    assert good in ours(routes)


def test_delete_is_fulfilled_twice(routes, eth0):
    route = Route(net("10.244.1.0/24"), eth0, ip_address("192.168.71.11"))
    routes.replace(route)
    routes.delete(route)
    routes.delete(route)
    routes.delete(Route(net("fd00:9::/64"), eth0))
    assert route not in ours(routes)


def test_delete_spares_a_route_through_someone_else(routes, eth0):
    theirs = Route(net("10.244.1.0/24"), eth0, ip_address("192.168.71.12"))
    routes.replace(theirs)
    routes.delete(replace(theirs, via=ip_address("192.168.71.11")))
    assert theirs in ours(routes)


def test_lookup_takes_the_longest_prefix(routes, eth0):
    default = Route(net("0.0.0.0/0"), eth0, ip_address("192.168.71.1"))
    narrow = Route(net("10.244.1.0/24"), eth0, ip_address("192.168.71.11"))
    routes.replace_all([default, narrow])
    assert routes.lookup(ip_address("10.244.1.9")) == narrow
    assert routes.lookup(ip_address("10.244.2.9")) == default
    assert routes.lookup(ip_address("192.168.71.10")).type == 2
    assert routes.lookup(ip_address("fd01::1")) is None


def test_blackholes_are_unreachable(routes, eth0):
    for text in ("10.5.0.0/16", "fd00:5::/64"):
        hole = Route(net(text), type=6)
        routes.replace(hole)
        assert hole in ours(routes)
        assert routes.lookup(hole.destination[1]) is None
        routes.delete(hole)
        assert hole not in ours(routes)


def test_a_link_that_goes_takes_its_routes(routes, links, eth0):
    routes.replace(Route(net("0.0.0.0/0"), eth0, ip_address("192.168.71.1")))
    links.set_up(eth0, False)
    assert {r for r in ours(routes) if r.destination.version == 4} == set()
    links.set_up(eth0)
    assert {str(r.destination) for r in ours(routes) if r.destination.version == 4} == {"192.168.71.0/24"}
    links.delete(eth0)
    assert ours(routes) == set()


def test_a_link_that_is_down_takes_no_route(routes, links):
    link = links.create(Bridge("d0"))
    with pytest.raises(MachineError):
        routes.replace(Route(net("10.1.0.0/16"), link.index, ip_address("10.1.0.1"), onlink=True))
