"""Addresses for Services of type LoadBalancer: pools, allocation, election; then the loop on the fake API."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from controllers_world import World, template

from podwire.controllers.loadbalancers import manifests
from podwire.controllers.loadbalancers.plan import elect, plan_allocation
from podwire.controllers.loadbalancers.pools import Pool, parse_pool, parse_range, pick
from podwire.model.loadbalancers import (
    LEASE_NAMESPACE,
    POOLS,
    announcer_of,
    ingress_addresses,
    lease_name,
)
from podwire.model.objects import Key, Obj, condition
from podwire.model.resources import DEPLOYMENTS, EVENTS, LEASES, NODES, SERVICES


def balancer(name: str = "lb", annotations: dict[str, str] | None = None, **spec: Any) -> Obj:
    meta = {"name": name, "namespace": "default", "annotations": annotations or {}, "labels": {"app": name}}
    ports = [{"port": 80, "protocol": "TCP"}]
    spec = {"type": "LoadBalancer", "ports": ports, "ipFamilies": ["IPv4"], "selector": {"app": "web"}} | spec
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def pools(*given: tuple[str, list[str]], **spec: Any) -> list[Pool]:
    return [parse_pool({**manifests.pool(n, a), "spec": {"addresses": a, **spec}}) for n, a in given]


@pytest.mark.parametrize(
    ("text", "first", "last", "size"),
    [
        ("192.0.2.10-192.0.2.12", "192.0.2.10", "192.0.2.12", 3),
        ("192.0.2.8/30", "192.0.2.8", "192.0.2.11", 4),
        ("192.0.2.7", "192.0.2.7", "192.0.2.7", 1),
        ("fd00::1 - fd00::ff", "fd00::1", "fd00::ff", 255),
    ],
)
def test_ranges(text: str, first: str, last: str, size: int) -> None:
    found = parse_range(text)
    assert (found.first, found.last, found.size) == (ip_address(first), ip_address(last), size)
    assert ip_address(first) in found
    assert ip_address(last) in found
    assert ip_address(int(ip_address(last)) + 1) not in found


@pytest.mark.parametrize("text", ["", "192.0.2.9-192.0.2.1", "192.0.2.1-fd00::1", "192.0.2.1/24", "172.30.0.041"])
def test_a_bad_range_is_a_problem_and_the_others_stand(text: str) -> None:
    pool = parse_pool(manifests.pool("p", [text, "192.0.2.1"]))
    assert [p.field for p in pool.problems] == ["spec.addresses[0]"]
    assert pick([pool], 4, ()) == ip_address("192.0.2.1")


@pytest.mark.parametrize(
    ("spec", "annotations", "held", "taken", "wanted", "why"),
    [
        ({}, {}, (), (), ("192.0.2.1",), ""),
        ({}, {}, (), ("192.0.2.1",), ("192.0.2.2",), ""),
        ({}, {}, ("198.51.100.9",), (), ("198.51.100.9",), ""),  # its pool is gone; it stays
        ({}, {}, (), ("192.0.2.1", "192.0.2.2"), (), "no IPv4 address is free in pool a"),
        ({"loadBalancerIP": "192.0.2.2"}, {}, ("192.0.2.1",), (), ("192.0.2.2",), ""),
        ({"loadBalancerIP": "192.0.2.2"}, {}, (), ("192.0.2.2",), (), "in use by another Service"),
        ({"loadBalancerIP": "203.0.113.1"}, {}, (), (), (), "is in no pool"),
        ({"loadBalancerIP": "fd00::1"}, {}, (), (), ("192.0.2.1",), ""),
        ({"ipFamilies": ["IPv6", "IPv4"]}, {}, (), (), ("fd00::1", "192.0.2.1"), ""),
        ({"ipFamilies": ["IPv6"]}, {}, (), ("fd00::1",), (), "no IPv6 address"),
        ({}, {"podwire.dev/ip-pool": "b"}, (), (), ("192.0.2.101",), ""),
        ({}, {"podwire.dev/ip-pool": "c"}, (), (), (), "there is no pool c"),
    ],
)
def test_allocation(spec: Obj, annotations: Any, held: Any, taken: Any, wanted: Any, why: str) -> None:
    known = pools(("a", ["192.0.2.1-192.0.2.2", "fd00::1"])) + pools(("b", ["192.0.2.101"]), autoAssign=False)
    service = balancer(annotations=annotations, **spec)
    found = plan_allocation(service, [ip_address(a) for a in held], known, {ip_address(a) for a in taken})
    assert found.addresses == tuple(ip_address(a) for a in wanted)
    assert why in found.why
    assert bool(why) == bool(found.why)


def test_a_pool_chooses_its_services_by_label() -> None:
    known = pools(("a", ["192.0.2.1"]), serviceSelector={"matchLabels": {"app": "shop"}})
    assert plan_allocation(balancer("shop"), (), known, ()).addresses == (ip_address("192.0.2.1"),)
    assert plan_allocation(balancer("blog"), (), known, ()).why == "there is no pool for this Service"


def test_election_stays_moves_and_spreads() -> None:
    nodes = ["n1", "n2", "n3"]
    keys = [Key("d", f"s{i}") for i in range(60)]
    first = {k: elect(k, "", nodes, ()) for k in keys}
    assert set(first.values()) == set(nodes)
    assert all(elect(k, "n2", nodes, ()) == "n2" for k in keys)
    moved = {k: elect(k, first[k], ["n1", "n3"], ()) for k in keys}
    assert all(moved[k] == first[k] for k in keys if first[k] != "n2")
    assert "n2" not in {elect(k, "n2", nodes, {"n2"}) for k in keys}
    assert elect(keys[0], "n2", ["n2"], {"n2"}) == "n2"  # silent, but there is no other
    assert elect(keys[0], "n2", [], ()) == ""


async def announce_from(world: World, *nodes: str) -> None:
    for number, node in enumerate(nodes):
        lease = {
            "metadata": {"name": lease_name(node), "namespace": LEASE_NAMESPACE},
            "spec": {"renewTime": f"{number}"},
        }
        await world.create(LEASES, lease)


def addresses(world: World, name: str = "lb") -> list[str]:
    return [str(a) for a in ingress_addresses(world.one(SERVICES, name))]


async def test_a_service_gets_an_address_and_a_node_and_gives_them_back(world: World) -> None:
    await world.client.create(POOLS, manifests.pool("default", ["192.0.2.1"]))
    await announce_from(world, "node-0", "node-2")
    await world.client.create(SERVICES, balancer())
    await world.until(lambda: addresses(world) == ["192.0.2.1"])
    await world.until(lambda: announcer_of(world.one(SERVICES, "lb")) in ("node-0", "node-2"))
    assert world.one(SERVICES, "lb")["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.1", "ipMode": "VIP"}]
    await world.until(lambda: world.one(POOLS, "default")["status"]["assigned"] == 1)
    await world.client.create(SERVICES, balancer("late"))
    await world.until(lambda: condition(world.one(SERVICES, "late"), "podwire.dev/AddressAssigned"))
    await world.until(lambda: any(e["reason"] == "AllocationFailed" for e in world.all(EVENTS)))
    await world.client.patch(SERVICES, "lb", {"spec": {"type": "ClusterIP"}}, "default")
    await world.until(lambda: addresses(world) == [] and announcer_of(world.one(SERVICES, "lb")) == "")
    await world.until(lambda: addresses(world, "late") == ["192.0.2.1"])
    assert condition(world.one(SERVICES, "late"), "podwire.dev/AddressAssigned") is None


async def test_services_of_another_class_are_left_alone(world: World) -> None:
    await world.client.create(POOLS, manifests.pool("default", ["192.0.2.1"]))
    theirs = balancer("theirs", loadBalancerClass="example.com/cloud")
    theirs["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}}
    world.client.seed(SERVICES, theirs)
    await world.client.create(SERVICES, balancer())
    await world.until(lambda: addresses(world) == ["192.0.2.1"])
    assert addresses(world, "theirs") == ["203.0.113.5"]


async def test_a_node_that_is_not_ready_hands_over(world: World) -> None:
    await world.client.create(POOLS, manifests.pool("default", ["192.0.2.1"]))
    await announce_from(world, "node-0", "node-1", "node-2")
    await world.client.create(SERVICES, balancer())
    await world.until(lambda: announcer_of(world.one(SERVICES, "lb")))
    first = announcer_of(world.one(SERVICES, "lb"))
    away = {"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}}}
    await world.client.patch(NODES, first, away)
    await world.until(lambda: announcer_of(world.one(SERVICES, "lb")) not in ("", first))


async def test_local_traffic_is_announced_from_where_the_endpoints_are(world: World) -> None:
    await world.client.create(POOLS, manifests.pool("default", ["192.0.2.1"]))
    await announce_from(world, "node-0", "node-1", "node-2")
    await world.client.create(SERVICES, balancer(externalTrafficPolicy="Local"))
    await world.until(lambda: addresses(world) == ["192.0.2.1"])
    assert announcer_of(world.one(SERVICES, "lb")) == ""
    spec = {
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": template({"app": "web"}, "nginx"),
    }  # fmt: skip
    spec["template"]["spec"]["nodeName"] = "node-1"
    await world.create(DEPLOYMENTS, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    await world.until(lambda: announcer_of(world.one(SERVICES, "lb")) == "node-1")
