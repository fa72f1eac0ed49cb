"""How fast policies get into the kernel, and what they cost there. Works in namespaces of its own.

program_s           an empty node to all of it in force: 200 pods, 2,000 policies, 10,000 peer addresses; planning,
                    writing, and the kernel's acknowledgement
change_p50_ms       one pod's label changes, planned and in force (half of the pods are local ones, half peers)
throughput_ratio    bytes a processor second into a pod under policies, to those into a pod under none
setup_ratio         TCP connections a processor second, likewise
"""

from __future__ import annotations

import gc
import os
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

from podwire.kernel import libc
from podwire.kernel.nft.real import RealNft
from podwire.model.errors import NotPermitted
from podwire.model.objects import Key, Obj
from podwire.policy import fuzz
from podwire.policy.feed import feed_all, feed_change
from podwire.policy.packets import PacketWorld
from podwire.policy.programmer import Programmer
from podwire.policy.table import PolicyTable

LOCAL_PODS, POLICIES, PEERS = 200, 2000, 10_000
_NAMESPACES, _APPS, _CHANGES, _ROUNDS = 20, 10, 200, 9
_STREAM_S, _CONNECTIONS = 0.4, 300
_BIG = 1 << 20
Say = Callable[[str], None]


def measure(say: Say) -> dict[str, float | None]:
    """Return the figures. Raises MachineError when namespaces cannot be made."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    enter_namespace()
    try:
        say(f"programming {LOCAL_PODS} pods under {POLICIES} policies with {PEERS} peers ...")
        figures = _measure_programming()
        say("sending through an open and an isolated pod ...")
        return figures | _measure_traffic()
    finally:
        if os.getuid() == 0 and not _rootless():
            libc.setns(home, libc.CLONE_NEWNET)
        os.close(home)


def _rootless() -> bool:
    return Path("/proc/self/uid_map").read_text().split()[2] == "1"


def enter_namespace() -> None:
    """Put this process into a network namespace of its own; an ordinary user's, into a user namespace for good."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        libc.unshare(libc.CLONE_NEWNET | (0 if uid == 0 else libc.CLONE_NEWUSER))
    except OSError as error:
        hint = "see `podwire doctor`"
        raise NotPermitted("policy", "enter", "a network namespace", error.strerror or error, hint) from None
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1\n")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1\n")


def large_cluster() -> list[Obj]:
    """Return a node with its pods, everybody else's pods, and policies that all mean some local pod."""
    objects: list[Obj] = [
        {"kind": "Node", "metadata": {"name": "node-0"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}, "status": {}}
    ]
    for n in range(_NAMESPACES):
        name = f"team-{n}"
        objects.append({"kind": "Namespace", "metadata": {"name": name, "labels": {"tier": f"t{n % 4}"}}})
    for n in range(POLICIES):
        objects.append(_policy(n))
    for n in range(LOCAL_PODS + PEERS):
        objects.append(_pod(n))
    return objects


def _pod(n: int, role: int | None = None) -> Obj:
    local = n < LOCAL_PODS
    at = n - LOCAL_PODS
    ip = f"10.244.0.{2 + n}" if local else f"10.245.{at // 250}.{2 + at % 250}"
    labels = {"app": f"app-{n // _NAMESPACES % _APPS}", "role": f"role-{n % 97 if role is None else role}"}
    return {
        "kind": "Pod", "metadata": {"name": f"pod-{n}", "namespace": f"team-{n % _NAMESPACES}", "labels": labels},
        "spec": {"nodeName": "node-0" if local else "elsewhere"},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
    }  # fmt: skip


def _policy(n: int) -> Obj:
    namespace, app = n % _NAMESPACES, n // _NAMESPACES % _APPS
    peers = [
        {"podSelector": {"matchLabels": {"role": f"role-{n % 97}"}}},
        {
            "namespaceSelector": {"matchLabels": {"tier": f"t{n % 4}"}},
            "podSelector": {"matchLabels": {"app": f"app-{n % _APPS}"}},
        },
    ]
    spec = {
        "podSelector": {"matchLabels": {"app": f"app-{app}"}},
        "ingress": [{"from": peers, "ports": [{"port": 8000 + n % 100}]}],
    }
    return {"kind": "NetworkPolicy", "metadata": {"name": f"np-{n}", "namespace": f"team-{namespace}"}, "spec": spec}


def _measure_programming() -> dict[str, float | None]:
    nft = RealNft()
    objects = large_cluster()
    gc.freeze()  # as in an agent, which is forked from a frozen parent
    began = time.perf_counter()
    table = PolicyTable("node-0", (4,))
    feed_all(table, objects)
    Programmer(nft, table).program()
    program_s = time.perf_counter() - began
    programmer = Programmer(nft, table)
    programmer.program()
    draw = random.Random(1)
    took = []
    for n in range(_CHANGES):
        index = draw.randrange(LOCAL_PODS) if n % 2 else draw.randrange(LOCAL_PODS, LOCAL_PODS + PEERS)
        pod = _pod(index, draw.randrange(97))
        if n % 4 == 1:
            pod["metadata"]["labels"]["app"] = f"app-{draw.randrange(_APPS)}"
        start = time.perf_counter()
        feed_change(table, None, pod)
        programmer.program()
        took.append(time.perf_counter() - start)
    nft.close()
    ordered = sorted(took)
    return {
        "program_s": program_s,
        "change_p50_ms": statistics.median(took) * 1000,
        "change_p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
    }


def _measure_traffic() -> dict[str, float | None]:
    world = PacketWorld()
    try:
        client, opened, isolated = 0, 2, 4
        table = PolicyTable("node-0", (4, 6))
        programmer = Programmer(world.nft["node-0"], table)
        objects: list[Obj] = [{"kind": "Namespace", "metadata": {"name": "a"}}]
        for slot, app in ((client, "client"), (opened, "open"), (isolated, "isolated")):
            addresses = [{"ip": a} for a in fuzz.slot_addresses(slot, dual=True)]
            objects.append({
                "kind": "Pod", "metadata": {"name": app, "namespace": "a", "labels": {"app": app}},
                "spec": {"nodeName": "node-0"}, "status": {"phase": "Running", "podIPs": addresses},
            })  # fmt: skip
        rules = [{"from": [{"podSelector": {"matchLabels": {"app": f"x{n}"}}}]} for n in range(9)]
        rules.append({"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]})
        spec = {
            "podSelector": {"matchLabels": {"app": "isolated"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": rules,
        }
        objects.append({"kind": "NetworkPolicy", "metadata": {"name": "np", "namespace": "a"}, "spec": spec})
        feed_all(table, objects)
        programmer.program()
        assert table.verdicts_of(Key("a", "isolated")) is not None
        return _compare(world, client, opened, isolated)
    finally:
        world.close()


def _compare(world: PacketWorld, client: int, opened: int, isolated: int) -> dict[str, float | None]:
    """Return ratios of medians, by processor time: both ends and the kernel's way between them are in it."""
    rates: dict[int, list[float]] = {opened: [], isolated: []}
    setups: dict[int, list[float]] = {opened: [], isolated: []}
    for n in range(_ROUNDS):
        for server in (opened, isolated) if n % 2 else (isolated, opened):
            rates[server].append(_stream(world, client, server))
            setups[server].append(_connect(world, client, server))
    rate = {s: statistics.median(r) for s, r in rates.items()}
    setup = {s: statistics.median(r) for s, r in setups.items()}
    return {
        "throughput_ratio": rate[isolated] / rate[opened],
        "setup_ratio": setup[isolated] / setup[opened],
    }


def _listen(world: PacketWorld, slot: int) -> socket.socket:
    def make() -> socket.socket:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((fuzz.slot_addresses(slot, dual=False)[0], 0))
        server.listen(512)
        return server

    return world.within(f"slot-{slot}", make)


def _stream(world: PacketWorld, client: int, server: int) -> float:
    """Return bytes a processor second of TCP from one pod to another."""
    listening = _listen(world, server)
    sender = world.within(f"slot-{client}", socket.socket)
    sender.connect(listening.getsockname())
    receiver, _ = listening.accept()
    done = threading.Event()

    def send() -> None:
        block = bytes(_BIG)
        while not done.is_set():
            try:
                sender.send(block)
            except OSError:
                return

    thread = threading.Thread(target=send)
    thread.start()
    received, began, spent_s = 0, time.perf_counter(), time.process_time()
    room = bytearray(_BIG)
    while time.perf_counter() - began < _STREAM_S:
        received += receiver.recv_into(room)
    spent_s = time.process_time() - spent_s
    done.set()
    receiver.close()
    sender.close()
    thread.join()
    listening.close()
    return received / spent_s


def _connect(world: PacketWorld, client: int, server: int) -> float:
    """Return TCP connections a processor second, one after the other."""
    listening = _listen(world, server)
    address = listening.getsockname()
    sockets = world.within(f"slot-{client}", lambda: [socket.socket() for _ in range(_CONNECTIONS)])
    began = time.process_time()
    for sock in sockets:
        sock.connect(address)
        listening.accept()[0].close()
        sock.close()
    took = time.process_time() - began
    listening.close()
    return _CONNECTIONS / took


def explain() -> dict[str, str]:
    """Return what each figure means."""
    return {
        "program_s": f"{LOCAL_PODS} pods, {POLICIES} policies, {PEERS} peers: from objects to rules in force",
        "change_p50_ms": "one pod's changed label, from object to rules in force: median",
        "change_p99_ms": "the same, 99th percentile",
        "throughput_ratio": "bytes a processor second into an isolated pod, to those into an open one",
        "setup_ratio": "connections a processor second, likewise",
    }
