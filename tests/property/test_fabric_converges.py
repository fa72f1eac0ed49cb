"""Whatever the order of events, equal clusters end in equal kernels, and with nothing too much."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Home
from podwire.fabric.keeper import Keeper
from podwire.kernel.fake import FakeMachine
from podwire.kernel.link.values import Dummy
from podwire.model.objects import Key

PREFIX = "flannel.alpha.coreos.com/"
NET = ip_network("10.244.0.0/16")
OWN = {"metadata": {"name": "n0"}, "spec": {"podCIDR": "10.244.0.0/24"}}

# Few names, subnets, addresses and MACs: collisions are the point.
nodes = st.builds(
    lambda subnet, ip, mac, backend, managed: {
        "kind": "Node",
        "metadata": {
            "annotations": {
                PREFIX + "kube-subnet-manager": managed,
                PREFIX + "backend-type": backend,
                PREFIX + "backend-data": f'{{"VNI":1,"VtepMAC":"02:00:00:00:00:0{mac}"}}',
                PREFIX + "public-ip": f"192.168.{ip}",
            }
        },
        "spec": {"podCIDR": f"10.244.{subnet}"},
    },
    st.sampled_from(["0.0/24", "1.0/24", "1.0/25", "2.0/24", "2.128/25", "3.0/24"]),
    st.sampled_from(["71.11", "71.12", "71.13", "99.1", "bad"]),
    st.integers(1, 4),
    st.sampled_from(["vxlan", "vxlan", "vxlan", "host-gw"]),
    st.sampled_from(["true", "true", "true", "false"]),
)
events = st.lists(
    st.tuples(st.sampled_from(["n1", "n2", "n3", "n4", "n5"]), st.one_of(st.none(), nodes, nodes, nodes)), max_size=14
)
configs = st.sampled_from(
    [FabricConfig((NET,)), FabricConfig((NET,), "host-gw"), FabricConfig((NET,), direct_routing=True)]
)


def start(config):
    machine = FakeMachine()
    links, routes = machine.links(), machine.routes()
    eth0 = links.create(Dummy("eth0"))
    links.set_up(eth0.index)
    links.add_address(eth0.index, ip_interface("192.168.71.10/24"))
    home = Home(4, NET, ip_network("10.244.0.0/24"), ip_address("192.168.71.10"), eth0.index, 1500)
    keeper = Keeper("n0", links, routes, machine.sysctl())
    keeper.settle(config, (home,), OWN, {})
    return machine, keeper, home


def state(machine):
    space = machine.current
    return (
        frozenset(space.routes.values()),
        frozenset(space.neighbours.values()),
        frozenset(space.fdb.values()),
        frozenset((link.name, link.mac, link.up, link.mtu_bytes) for link in space.links.values()),
    )


def feed(keeper, cluster, name, node):
    if node is None:
        cluster.pop(Key("", name), None)
    else:
        cluster[Key("", name)] = {**node, "metadata": {**node["metadata"], "name": name}}
    keeper.replan(keeper.ledger, name, cluster.get(Key("", name)))


@settings(max_examples=150, deadline=None)
@given(configs, events, st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter(config, story, random):
    machine, keeper, home = start(config)
    cluster = {}
    for name, node in story:
        feed(keeper, cluster, name, node)

    other_machine, other, _ = start(config)
    final, names = dict(cluster), [key.name for key in cluster]
    random.shuffle(names)
    for name in [*names, *names]:  # and told twice is told once
        feed(other, {}, name, final[Key("", name)])

    fresh_machine, fresh, fresh_home = start(config)
    fresh.settle(config, (fresh_home,), OWN, final)

    assert state(machine) == state(other_machine) == state(fresh_machine)
    assert keeper.ledger.problems == other.ledger.problems == fresh.ledger.problems

    told = []
    machine.current.listeners.append(told.append)
    keeper.settle(config, (home,), OWN, final)
    assert told == []


@settings(max_examples=60, deadline=None)
@given(configs, configs, events, events)
def test_a_change_of_backend_leaves_nothing_behind(before, after, one, two):
    machine, keeper, home = start(before)
    cluster = {}
    for name, node in one:
        feed(keeper, cluster, name, node)
    keeper.settle(after, (home,), OWN, cluster)
    for name, node in two:
        feed(keeper, cluster, name, node)

    fresh_machine, fresh, fresh_home = start(after)
    fresh.settle(after, (fresh_home,), OWN, cluster)
    ours, theirs = state(machine), state(fresh_machine)
    assert [x[3] for x in (ours, theirs)].count(ours[3]) == 2
    assert {(r.destination, r.via) for r in ours[0]} == {(r.destination, r.via) for r in theirs[0]}
    assert {(n.ip, n.mac) for n in ours[1]} == {(n.ip, n.mac) for n in theirs[1]}
    assert {(e.mac, e.remote) for e in ours[2]} == {(e.mac, e.remote) for e in theirs[2]}


@settings(max_examples=100, deadline=None)
@given(configs, events)
def test_never_a_route_over_the_own_subnet_or_outside_the_network(config, story):
    machine, keeper, _ = start(config)
    for name, node in story:
        feed(keeper, {}, name, node)
        for route in machine.current.routes.values():
            if route.protocol != 2:
                assert route.destination.subnet_of(NET)
                assert not route.destination.overlaps(ip_network("10.244.0.0/24"))
