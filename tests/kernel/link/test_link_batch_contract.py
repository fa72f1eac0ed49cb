"""Many links deleted in one act, and the hairpin flag, on the kernel and on the fake."""

from __future__ import annotations

from podwire.kernel.link.values import Bridge, Veth


def test_delete_all_removes_those_and_no_other(world):
    links = world.links(world.namespace())
    made = [links.create(Veth(f"a{i}", f"b{i}")) for i in range(6)]
    keep = made.pop()
    links.delete_all([link.index for link in made] + [99999])
    assert {link.name for link in links.links()} == {"lo", "a5", "b5"}
    links.delete_all([link.index for link in made])
    links.delete_all([])
    links.delete_all([keep.index])
    assert [link.name for link in links.links()] == ["lo"]


def test_a_port_shows_whether_it_is_a_hairpin(world):
    fd = world.namespace()
    links = world.links(fd)
    bridge = links.create(Bridge("cni0"))
    link = links.create(Veth("veth0", "eth0", master=bridge.index, hairpin=True, up=True))
    plain = links.create(Veth("veth1", "eth1", master=bridge.index))
    assert (link.hairpin, plain.hairpin) == (True, False)
    links.set_bridge_port(link.index, hairpin=False)
    links.set_bridge_port(plain.index, hairpin=True)
    assert (links.find("veth0").hairpin, links.find("veth1").hairpin) == (False, True)
    links.set_master(plain.index, 0)
    assert not links.find("veth1").hairpin
