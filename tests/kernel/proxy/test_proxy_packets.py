"""What the plan promises, sent as real packets: node, pods, a far pod and an outside client in namespaces.

outside 192.168.71.1 ── 192.168.71.10 node (cni0 10.244.1.1) ── p1 .11, p2 .12, p3 .13
far     192.168.71.11, pod address 10.244.2.21
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

import pytest

from podwire.kernel import libc
from podwire.kernel.conntrack.real import RealConntrack
from podwire.kernel.iptables.real import RealIptables
from podwire.kernel.nft.real import RealNft
from podwire.model.objects import Key, Obj
from podwire.proxy.apply.iptables import IptablesDataplane
from podwire.proxy.apply.nftables import NftablesDataplane
from podwire.proxy.apply.port import Dataplane
from podwire.proxy.desired import Here
from podwire.proxy.plan import plan_service
from podwire.proxy.programmer import Programmer

pytestmark = pytest.mark.kernel
T = TypeVar("T")

REFUSED, SILENT = "refused", "silent"
PORT = 8080


@dataclass(frozen=True)
class Plan:
    """The addresses of one IP family."""

    v: int
    outside: str
    node: str
    gateway: str
    far_node: str
    pods: dict[str, str]  # name -> address; "far" is on the other node
    near_net: str
    far_net: str
    cluster_net: str
    service_net: str
    vip: str
    other_vip: str
    bits: tuple[int, int]


V4 = Plan(
    4, "192.168.71.1", "192.168.71.10", "10.244.1.1", "192.168.71.11",
    {"p1": "10.244.1.11", "p2": "10.244.1.12", "p3": "10.244.1.13", "far": "10.244.2.21"},
    "10.244.1.0/24", "10.244.2.0/24", "10.244.0.0/16", "10.96.0.0/12", "10.96.0.50", "10.96.0.51", (24, 32),
)  # fmt: skip
V6 = Plan(
    6, "fd00:71::1", "fd00:71::10", "fd00:10:244:1::1", "fd00:71::11",
    {"p1": "fd00:10:244:1::11", "p2": "fd00:10:244:1::12", "p3": "fd00:10:244:1::13", "far": "fd00:10:244:2::21"},
    "fd00:10:244:1::/64", "fd00:10:244:2::/64", "fd00:10:244::/48", "fd00:10:96::/112", "fd00:10:96::50",
    "fd00:10:96::51", (64, 128),
)  # fmt: skip


@dataclass
class World:
    """Namespaces by name, and servers that say who they are and whom they saw."""

    plan: Plan
    fds: dict[str, int] = field(default_factory=dict)
    home: int = -1
    stop: threading.Event = field(default_factory=threading.Event)
    selector: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)

    def within(self, name: str, act: Callable[[], T]) -> T:
        libc.setns(self.fds[name], libc.CLONE_NEWNET)
        try:
            return act()
        finally:
            libc.setns(self.home, libc.CLONE_NEWNET)

    def ip(self, name: str, *commands: str) -> None:
        for command in commands:
            family = ["-6"] if self.plan.v == 6 and command.split()[0] in ("route",) else []
            self.within(name, lambda c=command, f=family: subprocess.run(["ip", *f, *c.split()], check=True))  # type: ignore[misc]

    def sysctl(self, name: str, **values: str) -> None:
        def write() -> None:
            for key, value in values.items():
                with open("/proc/sys/net/" + key.replace("__", "/"), "w") as f:
                    f.write(value)

        self.within(name, write)

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if self.plan.v == 6 else socket.AF_INET

    def serve(self, name: str, port: int) -> None:
        def listen() -> tuple[socket.socket, socket.socket]:
            tcp, udp = socket.socket(self.family, socket.SOCK_STREAM), socket.socket(self.family, socket.SOCK_DGRAM)
            for s in (tcp, udp):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind((self.plan.pods[name], port))
            tcp.listen(64)
            return tcp, udp

        for s in self.within(name, listen):
            self.selector.register(s, selectors.EVENT_READ, name)

    def answer_for_ever(self) -> None:
        while not self.stop.is_set():
            for key, _ in self.selector.select(0.05):
                s: socket.socket = key.fileobj  # type: ignore[assignment]
                if s.type == socket.SOCK_STREAM:
                    peer, address = s.accept()
                    with peer:
                        peer.sendall(f"{key.data} {address[0]}".encode())
                else:
                    _, address = s.recvfrom(100)
                    s.sendto(f"{key.data} {address[0]}".encode(), address)

    def ask(self, source: str, address: str, port: int, kind: str = "tcp", timeout_s: float = 0.5) -> str:
        """Return "server seen-source", REFUSED or SILENT."""

        def talk() -> str:
            tcp = kind == "tcp"
            with socket.socket(self.family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as s:
                s.settimeout(timeout_s)
                try:
                    s.connect((address, port))
                    if not tcp:
                        with suppress(PermissionError):  # refused on the way out; the ICMP error is on its way in
                            s.send(b"?")
                    return s.recv(100).decode()
                except ConnectionRefusedError:
                    return REFUSED
                except (TimeoutError, OSError):
                    return SILENT

        return self.within(source, talk)


def build(plan: Plan) -> World:
    world = World(plan, home=os.open("/proc/self/ns/net", os.O_RDONLY))
    for name in ("outside", "node", *plan.pods):
        libc.unshare(libc.CLONE_NEWNET)
        world.fds[name] = os.open("/proc/self/ns/net", os.O_RDONLY)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        libc.setns(world.home, libc.CLONE_NEWNET)
        world.sysctl(name, ipv4__icmp_ratelimit="0", ipv6__icmp__ratelimit="0")
        if plan.v == 6:
            world.sysctl(name, ipv6__conf__all__accept_dad="0", ipv6__conf__default__accept_dad="0")
    me = os.getpid()
    net, host = plan.bits

    def path(name: str) -> str:
        return f"/proc/{me}/fd/{world.fds[name]}"

    nodad = " nodad" if plan.v == 6 else ""
    world.ip("outside", "link add br0 type bridge", f"addr add {plan.outside}/{net} dev br0{nodad}", "link set br0 up")
    for name, address in (("node", plan.node), ("far", plan.far_node)):
        world.ip("outside", f"link add v-{name} type veth peer name eth0 netns {path(name)}",
                 f"link set v-{name} master br0 up")  # fmt: skip
        world.ip(name, f"addr add {address}/{net} dev eth0{nodad}", "link set eth0 up",
                 f"route add default via {plan.outside}")  # fmt: skip
    world.ip("outside", f"route add {plan.service_net} via {plan.node}", f"route add {plan.near_net} via {plan.node}",
             f"route add {plan.far_net} via {plan.far_node}")  # fmt: skip
    world.ip("far", f"addr add {plan.pods['far']}/{host} dev lo{nodad}", f"route add {plan.near_net} via {plan.node}")
    world.ip("node", f"route add {plan.far_net} via {plan.far_node}", "link add cni0 type bridge",
             f"addr add {plan.gateway}/{net} dev cni0{nodad}", "link set cni0 up")  # fmt: skip
    for name in ("p1", "p2", "p3"):
        world.ip("node", f"link add v-{name} type veth peer name eth0 netns {path(name)}",
                 f"link set v-{name} master cni0 up", f"link set v-{name} type bridge_slave hairpin on")  # fmt: skip
        world.ip(name, f"addr add {plan.pods[name]}/{net} dev eth0{nodad}", "link set eth0 up",
                 f"route add default via {plan.gateway}")  # fmt: skip
    world.sysctl("node", ipv4__ip_forward="1", ipv6__conf__all__forwarding="1",
                 **{"bridge__bridge-nf-call-iptables": "1", "bridge__bridge-nf-call-ip6tables": "1"})  # fmt: skip
    for name in plan.pods:
        world.serve(name, PORT)
        world.serve(name, PORT + 1)
    return world


@pytest.fixture(scope="module", params=[V4, V6], ids=["ipv4", "ipv6"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    try:
        w = build(request.param)
    except PermissionError as error:
        pytest.skip(f"no network namespaces: {error}")
    thread = threading.Thread(target=w.answer_for_ever)
    thread.start()
    yield w
    w.stop.set()
    thread.join()
    for key in list(w.selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    for fd in (*w.fds.values(), w.home):
        os.close(fd)


class Proxy:
    """The programmer in the node's namespace, given objects."""

    def __init__(self, world: World, mode: str) -> None:
        self.world, self.mode = world, mode
        self.nft = world.within("node", RealNft)
        self.iptables = world.within("node", RealIptables)
        self.flows = world.within("node", RealConntrack)
        self.programmer = self.fresh()

    def fresh(self) -> Programmer:
        return Programmer(self.dataplane(self.mode), self.flows)

    def dataplane(self, mode: str) -> Dataplane:
        p = self.world.plan
        nets = [ip_network(p.cluster_net)], [ip_network(p.service_net)]
        if mode == "iptables":
            return IptablesDataplane(self.iptables, [p.v], *nets, self.nft.generation)
        return NftablesDataplane(self.nft, [p.v], *nets)

    def set(self, service: Obj | None, *slices: Obj) -> int:
        here = Here("node", (ip_address(self.world.plan.node),))
        rules = plan_service(service, slices, here) if service is not None else None
        outcome = self.programmer.program({Key("default", "web"): rules})
        assert not any(outcome.problems.values())
        return outcome.changed


@pytest.fixture(params=["nftables", "iptables"])
def proxy(world: World, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    p = Proxy(world, request.param)
    yield p
    for mode in ("nftables", "iptables"):
        p.dataplane(mode).remove()
    p.nft.close()
    p.iptables.close()
    p.flows.close()


def service(world: World, **spec: Any) -> Obj:
    vip = world.plan.vip
    ports = [
        {"name": "t", "port": 80, "protocol": "TCP", "targetPort": PORT, "nodePort": 30080},
        {"name": "u", "port": 80, "protocol": "UDP", "targetPort": PORT, "nodePort": 30080},
    ]
    return {
        "kind": "Service", "metadata": {"namespace": "default", "name": "web", "creationTimestamp": "2026"},
        "spec": {"type": "ClusterIP", "clusterIP": vip, "clusterIPs": [vip], "ports": ports, **spec},
    }  # fmt: skip


def slice_of(world: World, *pods: str, port: int = PORT, **conditions: bool) -> Obj:
    endpoints = [
        {"addresses": [world.plan.pods[p]], "nodeName": "far" if p == "far" else "node",
         "conditions": conditions or {"ready": True, "serving": True, "terminating": False}}
        for p in pods
    ]  # fmt: skip
    ports = [{"name": "t", "port": port, "protocol": "TCP"}, {"name": "u", "port": port, "protocol": "UDP"}]
    return {
        "kind": "EndpointSlice", "metadata": {"namespace": "default", "name": f"web-{'-'.join(pods)}"},
        "addressType": f"IPv{world.plan.v}", "endpoints": endpoints, "ports": ports,
    }  # fmt: skip


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
