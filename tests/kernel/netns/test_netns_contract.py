"""What NetnsPort and SysctlPort promise, held against the kernel and against the fakes."""

from __future__ import annotations

import os

import pytest

from podwire.kernel.link.values import Bridge
from podwire.model.errors import AlreadyInUse, MachineError


@pytest.fixture
def pin(world, tmp_path):
    path = tmp_path / "deep" / "blue"
    yield path
    world.netns.remove(path)


def test_create_pins_a_fresh_namespace(world, pin):
    world.netns.create(pin)
    fd = world.netns.open(pin)
    try:
        links = world.links(fd)
        links.create(Bridge("d0"))
        assert [link.name for link in links.links()] == ["lo", "d0"]
        assert links.find("lo").up
    finally:
        if world.kind == "real":
            os.close(fd)


def test_create_refuses_a_pinned_path(world, pin):
    world.netns.create(pin)
    with pytest.raises(AlreadyInUse):
        world.netns.create(pin)


def test_remove_is_fulfilled_twice(world, pin):
    world.netns.create(pin)
    world.netns.remove(pin)
    world.netns.remove(pin)
    with pytest.raises(MachineError):
        world.netns.open(pin)


def test_create_takes_over_a_leftover_file(world, pin):
    if world.kind == "real":
        pin.parent.mkdir(parents=True)
        pin.touch()
    world.netns.create(pin)
    world.netns.create(pin.with_name("green"))
    world.netns.remove(pin.with_name("green"))


def test_within_comes_back_whatever_happens(world):
    home, other = world.namespace(), world.namespace()

    def fail():
        raise KeyError("inside")

    def nested():
        with pytest.raises(KeyError):
            world.netns.within(other, fail)
        return world.links(home).create(Bridge("mine"))

    world.netns.within(home, nested)
    assert world.links(home).find("mine") is not None
    assert world.links(other).find("mine") is None


def test_within_refuses_what_is_no_namespace(world):
    with pytest.raises(MachineError, match="kernel/netns: enter"):
        world.netns.within(987654, lambda: None)


def test_sysctls_belong_to_the_namespace(world):
    one, two = world.namespace(), world.namespace()

    def forward():
        knobs = world.sysctl(one) if world.kind == "fake" else _real()
        assert knobs.set("net/ipv4/ip_forward", "1")
        assert knobs.set("net/ipv4/ip_forward", "1")
        return knobs.get("net/ipv4/ip_forward")

    def read():
        knobs = world.sysctl(two) if world.kind == "fake" else _real()
        assert knobs.get("net/no/such") is None
        assert not knobs.set("net/no/such", "1")
        return knobs.get("net/ipv4/ip_forward")

    assert world.netns.within(one, forward) == "1"
    assert world.netns.within(two, read) == "0"


def _real():
    from podwire.kernel.sysctl.real import RealSysctl

    return RealSysctl()
