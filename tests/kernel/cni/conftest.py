"""A node of one's own: a child process in fresh network and mount namespaces, as root and rootless."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from podwire.cni import conflist
from podwire.cni.network import CniNetwork
from podwire.cni.plugin import PodwireCni
from podwire.cni.real import real_kernel
from podwire.kernel import libc
from podwire.kernel.netns.real import RealNetns
from podwire.model.podnetwork import Attachment, HostPort

_PR_SET_DUMPABLE = 4
V4 = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n"
V6 = "FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n"
REST = "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"


@dataclass
class Node:
    """Namespaces, a state directory and the plugin, as an agent has them."""

    scratch: Path
    plugin: PodwireCni
    network: CniNetwork
    netns: RealNetns

    def subnet_env(self, text: str) -> None:
        """Write what the fabric would."""
        (self.scratch / "subnet.env").write_text(text)

    def configure(self, network: dict[str, Any]) -> None:
        """Put a configuration list in force."""
        path = self.scratch / "net.d" / "10-test.conflist"
        path.with_suffix(".new").write_bytes(conflist.encode(network))
        path.with_suffix(".new").rename(path)

    def restart(self) -> Node:
        """Return the node with a new agent: nothing remembered but what is on disk."""
        plugin = PodwireCni(real_kernel(), self.scratch / "data")
        return replace(self, plugin=plugin, network=make_network(self.scratch, plugin))

    def pod(self, name: str, *ports: HostPort, annotations: dict[str, str] | None = None) -> Attachment:
        """Make a sandbox."""
        path = self.scratch / "netns" / name
        self.netns.create(path)
        return Attachment(name, path, "default", name, f"uid-{name}", ports, tuple((annotations or {}).items()))

    def outside(self, name: str, address: str, gateway: str) -> Attachment:
        """Make a machine beyond the node, on a wire of its own (the node has ``gateway``)."""
        machine = self.pod(name)
        run("ip", "link", "add", f"u-{name}", "type", "veth", "peer", "name", "eth0")
        run("ip", "link", "set", "eth0", "netns", str(machine.netns))
        run("ip", "address", "add", gateway, "dev", f"u-{name}", "nodad")
        run("ip", "link", "set", f"u-{name}", "up")
        self.inside(machine, "ip", "address", "add", address, "dev", "eth0", "nodad")
        self.inside(machine, "ip", "link", "set", "eth0", "up")
        self.inside(machine, "ip", "route", "add", "default", "via", gateway.partition("/")[0])
        return machine

    def inside(self, pod: Attachment, *command: str, check: bool = True) -> str:
        """Run a command in the pod's network."""
        return run("nsenter", f"--net={pod.netns}", *command, check=check)

    def serve(self, pod: Attachment, port: int, answer: str, protocol: str = "TCP") -> None:
        """Answer every connection (or datagram) to a port with a word and the client's address."""
        listener = self._socket(pod, socket.AF_INET6, protocol)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        if protocol == "TCP":
            listener.listen()
        act = _answer_connections if protocol == "TCP" else _answer_datagrams
        threading.Thread(target=act, args=(listener, answer), daemon=True).start()

    def ask(self, pod: Attachment | None, address: str, port: int, protocol: str = "TCP") -> str:
        """Return what answers at an address, seen from a pod or (None) the node; "" when it is refused."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self._socket(pod, family, protocol) as client:
            client.settimeout(20)
            try:
                client.connect((address, port))
                client.send(b"x")
                return client.recv(1000).decode()
            except ConnectionError:
                return ""

    def _socket(self, pod: Attachment | None, family: int, protocol: str) -> socket.socket:
        kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
        if pod is None:
            return socket.socket(family, kind)
        fd = self.netns.open(pod.netns)
        try:
            return self.netns.within(fd, lambda: socket.socket(family, kind))
        finally:
            os.close(fd)


def _say(answer: str, peer: tuple[str, int]) -> bytes:
    return f"{answer} {peer[0].removeprefix('::ffff:')}".encode()


def _answer_connections(listener: socket.socket, answer: str) -> None:
    while True:
        connection, peer = listener.accept()
        with connection:
            connection.recv(1)
            connection.sendall(_say(answer, peer))


def _answer_datagrams(listener: socket.socket, answer: str) -> None:
    while True:
        _, peer = listener.recvfrom(100)
        listener.sendto(_say(answer, peer), peer)


def run(*command: str, check: bool = True) -> str:
    """Return what a command prints; on failure raise with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise AssertionError(f"{command}: exit {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout


def make_network(scratch: Path, plugin: PodwireCni) -> CniNetwork:
    """Return the node's pod network on a state directory."""
    return CniNetwork(
        config_directory=scratch / "net.d",
        cache_directory=scratch / "cache",
        in_process={"podwire-cni": plugin.run},
    )


def make_node(scratch: Path) -> Node:
    """Return a node on an empty state directory, IPv4, configured as by default."""
    for name in ("net.d", "netns"):
        (scratch / name).mkdir()
    plugin = PodwireCni(real_kernel(), scratch / "data")
    node = Node(scratch, plugin, make_network(scratch, plugin), RealNetns())
    node.subnet_env(V4 + REST)
    node.configure(conflist.render_default(subnet_file=str(scratch / "subnet.env")))
    return node


def _enter(scratch: Path, rootless: bool) -> None:
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    own = libc.CLONE_NEWNET | libc.CLONE_NEWNS
    if rootless:
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            libc.prctl(_PR_SET_DUMPABLE, 1)
            libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
        uid, gid = os.getuid(), os.getgid()
        libc.unshare(own | libc.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    else:
        libc.unshare(own)
    libc.mount("none", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    libc.mount("tmpfs", str(scratch), "tmpfs")
    libc.mount("tmpfs", "/run", "tmpfs")  # iptables' lock, /run/netns
    libc.mount("sysfs", "/sys", "sysfs")
    run("ip", "link", "set", "lo", "up")


RunNode = Callable[[Callable[[Node], Awaitable[None]]], None]


@pytest.fixture(params=["root", "rootless"])
def run_node(request: pytest.FixtureRequest, tmp_path: Path) -> RunNode:
    """Run a coroutine function on a node of its own, in a child process; its failure is the test's."""
    rootless = request.param == "rootless"
    if not rootless and os.getuid() != 0:
        pytest.skip("needs root")
    scratch = Path(f"/tmp/podwire-cni-test-{os.getpid()}")

    def start(body: Callable[[Node], Awaitable[None]]) -> None:
        scratch.mkdir(exist_ok=True)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reader)
                _enter(scratch, rootless)
                asyncio.run(_call(body, scratch))
            except BaseException:
                os.write(writer, traceback.format_exc().encode())
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as source:
            failure = source.read()
        os.waitpid(child, 0)
        scratch.rmdir()
        if failure:
            pytest.fail(failure, pytrace=False)

    return start


async def _call(body: Callable[[Node], Awaitable[None]], scratch: Path) -> None:
    async with asyncio.timeout(120):
        await body(make_node(scratch))
