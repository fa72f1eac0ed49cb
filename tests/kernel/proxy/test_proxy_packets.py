"""What the plan promises, sent as real packets, in both modes and both IP families."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import pytest
from proxy_world import PORT, REFUSED, SILENT, Proxy, World, service, slice_of

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_pod_reaches_every_endpoint_and_keeps_its_address(world: World, proxy: Proxy, kind: str) -> None:
    proxy.set(service(world), slice_of(world, "p2", "p3", "far"))
    answers = {world.ask("p1", world.plan.vip, 80, kind) for _ in range(40)}
    assert answers == {f"{p} {world.plan.pods['p1']}" for p in ("p2", "p3", "far")}


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_pod_reaches_itself_through_its_service(world: World, proxy: Proxy, kind: str) -> None:
    proxy.set(service(world), slice_of(world, "p1"))
    assert world.ask("p1", world.plan.vip, 80, kind) == f"p1 {world.plan.gateway}"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_node_and_outside_are_masqueraded_to_a_cluster_ip(world: World, proxy: Proxy, kind: str) -> None:
    proxy.set(service(world), slice_of(world, "p1"))
    assert world.ask("node", world.plan.vip, 80, kind) == f"p1 {world.plan.gateway}"
    assert world.ask("outside", world.plan.vip, 80, kind) == f"p1 {world.plan.gateway}"
    proxy.set(service(world), slice_of(world, "far"))
    assert world.ask("outside", world.plan.vip, 80, kind) == f"far {world.plan.node}"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("source", ["p1", "node", "outside"])
def test_without_endpoints_it_is_refused(world: World, proxy: Proxy, kind: str, source: str) -> None:
    proxy.set(service(world), slice_of(world, "p2", ready=False, serving=False))
    assert world.ask(source, world.plan.vip, 80, kind) == REFUSED


def test_an_unknown_port_is_refused_and_an_unallocated_address_is_silent(world: World, proxy: Proxy) -> None:
    proxy.set(service(world), slice_of(world, "p2"))
    assert world.ask("p1", world.plan.vip, 81) == REFUSED
    assert world.ask("node", world.plan.vip, 81, "udp") == REFUSED
    assert world.ask("p1", world.plan.other_vip, 80, timeout_s=0.2) == SILENT


def test_protocols_on_one_port_never_cross(world: World, proxy: Proxy) -> None:
    piece = slice_of(world, "p2")
    piece["ports"][1]["port"] = PORT + 1
    other = slice_of(world, "p3", port=PORT + 1)
    other["ports"] = other["ports"][1:]
    piece["ports"] = piece["ports"][:1]
    proxy.set(service(world), piece, other)
    assert {world.ask("p1", world.plan.vip, 80, "tcp")[:2] for _ in range(6)} == {"p2"}
    assert {world.ask("p1", world.plan.vip, 80, "udp")[:2] for _ in range(6)} == {"p3"}


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_node_port_with_cluster_policy_hides_the_client(world: World, proxy: Proxy, kind: str) -> None:
    proxy.set(service(world, type="NodePort"), slice_of(world, "p1", "far"))
    answers = {world.ask("outside", world.plan.node, 30080, kind) for _ in range(24)}
    assert answers == {f"p1 {world.plan.gateway}", f"far {world.plan.node}"}
    assert {world.ask("p2", world.plan.node, 30080, kind)[:2] for _ in range(24)} == {"p1", "fa"}
    assert {world.ask("node", world.plan.node, 30080, kind)[:2] for _ in range(24)} == {"p1", "fa"}


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_node_port_with_local_policy_keeps_the_client(world: World, proxy: Proxy, kind: str) -> None:
    spec = {"type": "NodePort", "externalTrafficPolicy": "Local"}
    proxy.set(service(world, **spec), slice_of(world, "p1", "far"))
    assert {world.ask("outside", world.plan.node, 30080, kind) for _ in range(12)} == {f"p1 {world.plan.outside}"}
    pod = {world.ask("p2", world.plan.node, 30080, kind) for _ in range(24)}
    assert pod == {f"p1 {world.plan.pods['p2']}", f"far {world.plan.pods['p2']}"}


def test_local_policy_without_a_local_endpoint_is_silent_outside_only(world: World, proxy: Proxy) -> None:
    spec = {"type": "NodePort", "externalTrafficPolicy": "Local"}
    proxy.set(service(world, **spec), slice_of(world, "far"))
    assert world.ask("outside", world.plan.node, 30080, timeout_s=0.2) == SILENT
    assert world.ask("p1", world.plan.node, 30080) == f"far {world.plan.pods['p1']}"
    assert world.ask("node", world.plan.node, 30080) == f"far {world.plan.node}"


def test_internal_local_policy(world: World, proxy: Proxy) -> None:
    spec = {"internalTrafficPolicy": "Local"}
    proxy.set(service(world, **spec), slice_of(world, "p2", "far"))
    assert {world.ask("p1", world.plan.vip, 80)[:2] for _ in range(12)} == {"p2"}
    proxy.set(service(world, **spec), slice_of(world, "far"))
    assert world.ask("p1", world.plan.vip, 80, timeout_s=0.2) == SILENT


def test_terminating_endpoints_serve_when_nothing_else_does(world: World, proxy: Proxy) -> None:
    going = slice_of(world, "p2", ready=False, serving=True, terminating=True)
    proxy.set(service(world), going, slice_of(world, "p3"))
    assert {world.ask("p1", world.plan.vip, 80)[:2] for _ in range(12)} == {"p3"}
    proxy.set(service(world), going)
    assert world.ask("p1", world.plan.vip, 80)[:2] == "p2"


def test_load_balancer_and_external_addresses(world: World, proxy: Proxy) -> None:
    lb = "203.0.113.5" if world.plan.v == 4 else "fd00:203::5"
    external = "203.0.113.6" if world.plan.v == 4 else "fd00:203::6"
    obj = service(world, type="LoadBalancer", externalIPs=[external])
    obj["status"] = {"loadBalancer": {"ingress": [{"ip": lb}]}}
    proxy.set(obj, slice_of(world, "p2"))
    assert world.ask("p1", lb, 80)[:2] == "p2"
    assert world.ask("node", external, 80, "udp")[:2] == "p2"
    obj["status"] = {"loadBalancer": {"ingress": [{"ip": lb, "ipMode": "Proxy"}]}}
    proxy.set(obj, slice_of(world, "p2"))
    assert world.ask("p1", lb, 80, timeout_s=0.2) == SILENT


def test_source_ranges_admit_only_those_named(world: World, proxy: Proxy) -> None:
    lb = "203.0.113.5" if world.plan.v == 4 else "fd00:203::5"
    allowed = world.plan.pods["p1"] + f"/{world.plan.bits[1]}"
    obj = service(world, type="LoadBalancer", loadBalancerSourceRanges=[allowed])
    obj["status"] = {"loadBalancer": {"ingress": [{"ip": lb}]}}
    proxy.set(obj, slice_of(world, "p2"))
    assert world.ask("p1", lb, 80)[:2] == "p2"
    assert world.ask("p3", lb, 80, timeout_s=0.2) == SILENT
    assert world.ask("p3", world.plan.vip, 80)[:2] == "p2"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_affinity_holds_survives_changes_and_ends_with_its_endpoint(world: World, proxy: Proxy, kind: str) -> None:
    spec = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
    proxy.set(service(world, **spec), slice_of(world, "p2", "p3", "far"))
    first = {world.ask("p1", world.plan.vip, 80, kind)[:2] for _ in range(15)}
    assert len(first) == 1
    (mine,) = first
    stay = {"p2": "p2", "p3": "p3", "fa": "far"}[mine]
    gone = [p for p in ("p2", "p3", "far") if p != stay]
    proxy.set(service(world, **spec), slice_of(world, stay, gone[0]))
    assert {world.ask("p1", world.plan.vip, 80, kind)[:2] for _ in range(10)} == {mine}
    proxy.set(service(world, **spec), slice_of(world, *gone))
    after = {world.ask("p1", world.plan.vip, 80, kind)[:2] for _ in range(10)}
    assert len(after) == 1
    assert mine not in after
    proxy.set(service(world), slice_of(world, "p2", "p3", "far"))  # switched off, live
    assert len({world.ask("p1", world.plan.vip, 80, kind)[:2] for _ in range(40)}) == 3


def test_a_restart_adopts_and_writes_only_the_difference(world: World, proxy: Proxy) -> None:
    assert proxy.set(service(world), slice_of(world, "p2", "p3")) > 0
    proxy.programmer = proxy.fresh()
    assert proxy.set(service(world), slice_of(world, "p2", "p3")) == 0
    proxy.programmer = proxy.fresh()
    assert proxy.set(service(world), slice_of(world, "p2")) > 0
    assert {world.ask("p1", world.plan.vip, 80)[:2] for _ in range(8)} == {"p2"}


def test_a_foreign_edit_is_noticed_and_repaired(world: World, proxy: Proxy) -> None:
    proxy.set(service(world), slice_of(world, "p2"))
    assert not proxy.programmer.disturbed()
    six = "6" if world.plan.v == 6 else ""
    if proxy.mode == "iptables":
        chains = ":KUBE-SERVICES - [0:0]\n:POSTROUTING ACCEPT [0:0]\n"
        proxy.iptables.restore(world.plan.v, f"*nat\n{chains}COMMIT\n")
    else:
        table = "inet podwire-proxy"
        proxy.nft.apply(f"flush map {table} tcp-endpoints{six}\nflush chain {table} services{six}")
    assert proxy.programmer.disturbed()
    proxy.programmer.forget()
    proxy.set(service(world), slice_of(world, "p2"))
    assert world.ask("p1", world.plan.vip, 80)[:2] == "p2"


def test_a_deleted_service_leaves_nothing(world: World, proxy: Proxy) -> None:
    spec: dict[str, Any] = {"type": "NodePort", "sessionAffinity": "ClientIP"}
    proxy.set(service(world, **spec), slice_of(world, "p2", "p3", "far"))
    world.ask("p1", world.plan.vip, 80)
    proxy.set(None)
    if proxy.mode == "iptables":
        text: str | None = proxy.iptables.save(world.plan.v)
    else:
        text = proxy.nft.list_table("inet", "podwire-proxy")
    assert text
    assert "default/web" not in text
    assert world.plan.pods["p2"] not in text


def test_a_udp_client_that_never_pauses_moves_to_the_new_endpoint(world: World, proxy: Proxy) -> None:
    client = world.within("p1", lambda: socket.socket(world.family, socket.SOCK_DGRAM))
    with client:
        client.settimeout(1)
        client.connect((world.plan.vip, 80))

        def say() -> str:
            with suppress(ConnectionRefusedError, TimeoutError):
                client.send(b"?")
                return client.recv(100).decode()[:2]
            return REFUSED

        proxy.set(service(world), slice_of(world))
        assert say() == REFUSED
        proxy.set(service(world), slice_of(world, "p2"))
        assert say() == "p2"
        proxy.set(service(world), slice_of(world, "p2", "p3"))
        assert say() == "p2"
        proxy.set(service(world), slice_of(world, "p3"))
        assert say() == "p3"


def test_established_connections_outlive_changes_and_restarts(world: World, proxy: Proxy) -> None:
    def listen() -> socket.socket:
        return socket.create_server((world.plan.pods["p2"], 9000), family=world.family)

    piece = slice_of(world, "p2", port=9000)
    proxy.set(service(world), piece)
    with (
        world.within("p2", listen) as server,
        world.within("p1", lambda: socket.create_connection((world.plan.vip, 80), timeout=1)) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            proxy.set(service(world), slice_of(world, "p3"))
            proxy.programmer = proxy.fresh()
            proxy.set(service(world), slice_of(world, "p3"))
            client.sendall(b"still here")
            assert accepted.recv(100) == b"still here"


def test_modes_change_under_a_live_connection_and_leave_nothing(world: World, proxy: Proxy) -> None:
    def listen() -> socket.socket:
        return socket.create_server((world.plan.pods["p2"], 9100), family=world.family)

    other = "nftables" if proxy.mode == "iptables" else "iptables"
    proxy.set(service(world), slice_of(world, "p2", port=9100))
    with (
        world.within("p2", listen) as server,
        world.within("outside", lambda: socket.create_connection((world.plan.vip, 80), timeout=1)) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            for mode, old in ((other, proxy.mode), (proxy.mode, other)):
                proxy.programmer.switch(proxy.dataplane(mode))
                proxy.set(service(world), slice_of(world, "p2", port=9100))
                proxy.dataplane(old).remove()
                client.sendall(b"still here")
                assert accepted.recv(100) == b"still here"
                table, chains = proxy.nft.list_table("inet", "podwire-proxy"), proxy.iptables.save(world.plan.v)
                assert (table is None, "KUBE-" in chains) == (mode == "iptables", mode == "iptables")
        again = world.within("outside", lambda: socket.create_connection((world.plan.vip, 80), timeout=1))
        again.close()
