"""A small cluster for packets: node, pods, a far pod and an outside client in namespaces.

outside 192.168.71.1 ── 192.168.71.10 node (cni0 10.244.1.1) ── p1 .11, p2 .12, p3 .13
far     192.168.71.11, pod address 10.244.2.21
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar, cast

from podwire.kernel import libc
from podwire.kernel.conntrack.real import RealConntrack
from podwire.kernel.iptables.real import RealIptables
from podwire.kernel.nft.real import RealNft
from podwire.model.objects import Key, Obj, key_of
from podwire.model.serviceslices import SERVICE_NAME_LABEL
from podwire.proxy.apply.iptables import IptablesDataplane
from podwire.proxy.apply.nftables import NftablesDataplane
from podwire.proxy.apply.port import Dataplane
from podwire.proxy.desired import Here, ServiceRules
from podwire.proxy.evaluate import Place
from podwire.proxy.plan import plan_service
from podwire.proxy.programmer import Programmer

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

    def ask_many(self, asks: Sequence[tuple[str, str, int, str]], silent: Set[int] = frozenset()) -> list[str]:
        """Ask (source, address, port, kind) all at once; return as ``ask`` does.

        Those whose numbers are in ``silent`` are waited for only a little longer than the others.
        """
        answers = [SILENT] * len(asks)
        with selectors.DefaultSelector() as waiting:
            for number, (source, address, port, kind) in enumerate(asks):
                s = self.within(source, lambda k=kind: self._start(k))  # type: ignore[misc]
                s.setblocking(False)
                with suppress(BlockingIOError, PermissionError, ConnectionRefusedError):
                    s.connect((address, port))
                if kind == "udp":
                    with suppress(PermissionError, ConnectionRefusedError):
                        s.send(b"?")
                waiting.register(s, selectors.EVENT_READ, number)
            open_ = set(range(len(asks)))
            deadline_s = time.monotonic() + 5
            while open_ and time.monotonic() < deadline_s:
                if open_ <= silent:
                    deadline_s = min(deadline_s, time.monotonic() + 0.12)
                    silent = frozenset()
                for key, _ in waiting.select(0.05):
                    s, number = cast("socket.socket", key.fileobj), key.data
                    try:
                        answers[number] = s.recv(100).decode() or SILENT
                    except BlockingIOError:
                        continue
                    except ConnectionRefusedError:
                        answers[number] = REFUSED
                    except OSError:
                        answers[number] = SILENT
                    open_.discard(number)
                    waiting.unregister(s)
                    s.close()
            for key in list(waiting.get_map().values()):
                cast("socket.socket", key.fileobj).close()
        return answers

    def _start(self, kind: str) -> socket.socket:
        return socket.socket(self.family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)


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
    world.ip("outside", f"route add {plan.service_net} via {plan.node}",
        f"route add {'203.0.113.0/24' if plan.v == 4 else 'fd00:203::/64'} via {plan.node}", f"route add {plan.near_net} via {plan.node}",
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


class Proxy:
    """The programmer in the node's namespace, given objects."""

    def __init__(self, world: World, mode: str) -> None:
        self.world, self.mode = world, mode
        self.known: set[Key] = set()
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

    @property
    def place(self) -> Place:
        p = self.world.plan
        own = frozenset(map(ip_address, (p.node, p.gateway)))
        return Place((ip_network(p.cluster_net),), (ip_network(p.service_net),), own)

    def put(self, services: Iterable[Obj], slices: Iterable[Obj], zone: str = "") -> dict[Key, ServiceRules | None]:
        """Make these all the Services there are; return their plans."""
        here = Here("node", (ip_address(self.world.plan.node),), zone)
        pieces = list(slices)
        plans: dict[Key, ServiceRules | None] = {
            key_of(s): plan_service(
                s,
                [x for x in pieces if x["metadata"].get("labels", {}).get(SERVICE_NAME_LABEL) == key_of(s).name],
                here,
            )
            for s in services
        }
        self.programmer.program(dict.fromkeys(self.known - plans.keys()) | plans)
        self.known = set(plans)
        return plans

    def set(self, service: Obj | None, *slices: Obj) -> int:
        here = Here("node", (ip_address(self.world.plan.node),))
        rules = plan_service(service, slices, here) if service is not None else None
        outcome = self.programmer.program({Key("default", "web"): rules})
        assert not any(outcome.problems.values())
        return outcome.changed


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
