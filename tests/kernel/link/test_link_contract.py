"""What LinkPort promises, held against the kernel and against the fake."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_interface

import pytest

from podwire.kernel.link.values import Bridge, Dummy, FdbEntry, Neighbour, Veth, Vxlan
from podwire.model.errors import AlreadyInUse, MachineError, Unsupported


@pytest.fixture
def fd(world):
    return world.namespace()


@pytest.fixture
def links(world, fd):
    return world.links(fd)


def ours(addresses):
    return [a for a in addresses if not a.interface.ip.is_link_local and a.link != 1]


def test_a_fresh_namespace_has_loopback_up(links):
    (lo,) = links.links()
    assert (lo.index, lo.name, lo.kind, lo.up) == (1, "lo", "loopback", True)
    assert {str(a.interface) for a in links.addresses(1)} == {"127.0.0.1/8", "::1/128"}


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (Bridge("br0", 1450, "02:00:00:00:00:01"), "bridge"),
        (Veth("v0", "v1", None, 1450), "veth"),
    ],
)
def test_create_returns_the_link_down(links, spec, kind):
    link = links.create(spec)
    assert (link.name, link.kind, link.mtu_bytes, link.up) == (spec.name, kind, 1450, False)
    assert links.find(spec.name) == link
    assert link in links.links()


def test_a_dummy_where_the_kernel_has_them(links):
    try:
        link = links.create(Dummy("d0", 1450))
    except Unsupported as missing:
        pytest.skip(str(missing))
    assert (link.kind, link.mtu_bytes, link.up) == ("dummy", 1450, False)


def test_create_keeps_the_wanted_mac(links):
    assert links.create(Bridge("br0", mac="02:00:00:00:00:01")).mac == "02:00:00:00:00:01"


def test_a_name_is_taken_once(links):
    links.create(Bridge("d0"))
    with pytest.raises(AlreadyInUse, match="kernel/link: create d0"):
        links.create(Bridge("d0"))


def test_a_name_has_fifteen_characters(links):
    with pytest.raises(MachineError):
        links.create(Bridge("sixteen-letters!"))
    assert len(links.links()) == 1


def test_find_of_nothing_is_none(links):
    assert links.find("nope") is None


def test_delete_is_fulfilled_twice(links):
    link = links.create(Bridge("d0"))
    links.delete(link.index)
    links.delete(link.index)
    assert links.find("d0") is None


def test_changing_what_is_not_there_is_an_error(links):
    for act in (lambda: links.set_up(99), lambda: links.set_mtu(99, 1400), lambda: links.set_master(99, 0)):
        with pytest.raises(MachineError, match="No such device"):
            act()


def test_set_mtu_mac_name(links):
    link = links.create(Bridge("d0"))
    links.set_mtu(link.index, 1400)
    links.set_mac(link.index, "02:00:00:00:00:07")
    links.rename(link.index, "d1")
    found = links.find("d1")
    assert (found.mtu_bytes, found.mac) == (1400, "02:00:00:00:00:07")
    with pytest.raises(MachineError):
        links.set_mtu(link.index, 10)


def test_a_veth_spans_namespaces_and_dies_on_both_sides(world, links):
    pod = world.namespace()
    inside = world.links(pod)
    near = links.create(Veth("veth0", "eth0", pod, 1450, peer_mac="02:00:00:00:00:09"))
    far = inside.find("eth0")
    assert (far.index, far.mtu_bytes, far.mac, far.up) == (near.peer, 1450, "02:00:00:00:00:09", False)
    assert far.peer == near.index
    assert near.peer_netns_id >= 0
    links.delete(near.index)
    assert inside.find("eth0") is None


def test_a_veth_in_one_namespace_names_its_peer(links):
    near = links.create(Veth("v0", "v1"))
    assert near.peer == links.find("v1").index
    assert near.peer_netns_id == -1


def test_a_pod_is_plugged_in_with_one_call_a_side(world, links):
    pod = world.namespace()
    inside = world.links(pod)
    bridge = links.create(Bridge("cni0"))
    near = links.create(Veth("veth0", "eth0", pod, master=bridge.index, hairpin=True, up=True))
    inside.add_addresses(near.peer, [ip_interface("10.244.0.2/24"), ip_interface("fd00::2/64")], up=True)
    assert (near.master, near.up) == (bridge.index, True)
    assert inside.find("eth0").up
    assert [str(a.interface) for a in ours(inside.addresses())] == ["10.244.0.2/24", "fd00::2/64"]


def test_a_half_made_pair_does_not_stay(world, links):
    pod = world.namespace()
    world.links(pod).create(Bridge("eth0"))
    with pytest.raises(AlreadyInUse):
        links.create(Veth("veth0", "eth0", pod))
    assert links.find("veth0") is None


def test_masters_and_port_flags(links):
    bridge, port = links.create(Bridge("br0")), links.create(Veth("d0", "d1"))
    with pytest.raises(MachineError):
        links.set_bridge_port(port.index, hairpin=True)
    links.set_master(port.index, bridge.index)
    links.set_bridge_port(port.index, hairpin=True, isolated=True)
    links.set_bridge_port(port.index)
    assert links.find("d0").master == bridge.index
    links.delete(bridge.index)
    assert links.find("d0").master == 0


def test_move_takes_a_link_down_and_bare(world, links):
    other = world.namespace()
    there = world.links(other)
    link = links.create(Veth("d0", "d1"))
    links.set_up(link.index)
    links.add_address(link.index, ip_interface("10.0.0.1/24"))
    links.move(link.index, other)
    assert links.find("d0") is None
    moved = there.find("d0")
    assert not moved.up
    assert ours(there.addresses(moved.index)) == []


def test_addresses_come_and_go(links):
    link = links.create(Bridge("d0"))
    for text in ("10.0.0.1/24", "fd00::1/64", "10.9.0.0/32"):
        links.add_address(link.index, ip_interface(text))
        links.add_address(link.index, ip_interface(text))
    found = {str(a.interface): a for a in ours(links.addresses(link.index))}
    assert set(found) == {"10.0.0.1/24", "fd00::1/64", "10.9.0.0/32"}
    assert found["10.0.0.1/24"].broadcast == IPv4Address("10.0.0.255")
    assert found["10.9.0.0/32"].broadcast is None
    assert found["10.0.0.1/24"].scope == "global"
    links.delete_address(link.index, ip_interface("10.0.0.1/24"))
    links.delete_address(link.index, ip_interface("10.0.0.1/24"))
    assert {str(a.interface) for a in ours(links.addresses())} == {"fd00::1/64", "10.9.0.0/32"}


def test_addresses_have_a_scope(links):
    link = links.create(Bridge("d0"))
    links.add_address(link.index, ip_interface("169.254.1.1/32"), scope="link")
    assert [a.scope for a in links.addresses(link.index) if a.interface.version == 4] == ["link"]


def test_addresses_of_nothing_are_none(links):
    assert links.addresses(77) == ()


@pytest.fixture
def vxlan(links):
    under = links.create(Veth("eth0", "wire", mtu_bytes=1500))
    links.set_up(under.index)
    spec = Vxlan("flannel.1", 1, 8472, ip_address("192.168.71.10"), under.index, mac="02:00:00:00:00:11")
    return links.create(spec)


def test_a_vxlan_says_what_it_is(links, vxlan):
    assert (vxlan.kind, vxlan.mtu_bytes, vxlan.mac) == ("vxlan", 1450, "02:00:00:00:00:11")
    found = vxlan.vxlan
    assert (found.vni, found.port, found.learning) == (1, 8472, False)
    assert found.local == ip_address("192.168.71.10")
    assert found.dev == links.find("eth0").index


def test_one_tunnel_per_vni_and_port(links, vxlan):
    with pytest.raises(AlreadyInUse):
        links.create(Vxlan("other", 1, 8472, ip_address("192.168.71.10"), vxlan.vxlan.dev))


def test_neighbours_are_replaced_and_removed(links, vxlan):
    links.set_up(vxlan.index)
    ip = ip_address("10.244.1.0")
    links.replace_neighbour(Neighbour(vxlan.index, ip, "02:00:00:00:00:01"))
    links.replace_neighbour(Neighbour(vxlan.index, ip, "02:00:00:00:00:02"))
    links.replace_neighbour(Neighbour(vxlan.index, ip_address("fd00:1::"), "02:00:00:00:00:03"))
    assert links.neighbours(vxlan.index) == (
        Neighbour(vxlan.index, ip, "02:00:00:00:00:02"),
        Neighbour(vxlan.index, ip_address("fd00:1::"), "02:00:00:00:00:03"),
    )
    links.delete_neighbour(vxlan.index, ip)
    links.delete_neighbour(vxlan.index, ip)
    assert len(links.neighbours(vxlan.index)) == 1


def test_fdb_entries_are_replaced_and_removed(links, vxlan):
    old = FdbEntry(vxlan.index, "02:00:00:00:00:01", ip_address("192.168.71.11"))
    new = FdbEntry(vxlan.index, "02:00:00:00:00:01", ip_address("192.168.71.12"))
    links.replace_fdb(old)
    links.replace_fdb(new)
    assert links.fdb(vxlan.index) == (new,)
    links.delete_fdb(new)
    links.delete_fdb(new)
    assert links.fdb(vxlan.index) == ()


def test_down_forgets_neighbours_and_keeps_fdb(links, vxlan):
    links.set_up(vxlan.index)
    links.replace_neighbour(Neighbour(vxlan.index, ip_address("10.244.1.0"), "02:00:00:00:00:01"))
    links.replace_fdb(FdbEntry(vxlan.index, "02:00:00:00:00:01", ip_address("192.168.71.11")))
    links.set_up(vxlan.index, False)
    assert links.neighbours(vxlan.index) == ()
    assert len(links.fdb(vxlan.index)) == 1
