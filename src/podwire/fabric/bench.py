"""Throughput between pods of two nodes: podwire's VXLAN beside the same made by hand with `ip`.

Both in one run, turn by turn, in namespaces of their own without a route to anywhere. Run as a program it
prints the figures as JSON; ``measure`` runs it so, as an ordinary user inside a user namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, Protocol, TypeVar

from podwire.model.errors import MachineError

_SECONDS, _ROUNDS = 1, 7
_ANYWHERE = ip_network("0.0.0.0/0")


def measure() -> dict[str, float | None]:
    """Return ``throughput_ratio`` (podwire / by hand) and both medians in Gbit/s; None without iperf3.

    Raises MachineError when the machine forbids the namespaces.
    """
    if shutil.which("iperf3") is None or shutil.which("ip") is None:
        return {"throughput_ratio": None, "throughput_gbit": None, "reference_gbit": None}
    command = [sys.executable, "-m", "podwire.fabric.bench"]
    if os.geteuid() != 0:
        command = ["unshare", "--user", "--map-root-user", "--net", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        cause = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise MachineError("fabric", "measure", "throughput", cause)
    figures: dict[str, float | None] = json.loads(done.stdout)
    return figures


class _Pair:
    """Two nodes with a pod each, on an underlay bridge; what joins them is the caller's."""

    def __init__(self) -> None:
        from podwire.kernel.link.real import RealLinks
        from podwire.kernel.link.values import Bridge
        from podwire.kernel.netns.real import RealNetns

        self.netns = RealNetns()
        self._open: list[_Closable] = []
        self.under = self.bind(self.netns.make(), RealLinks)
        self.bridge = self.under.create(Bridge("underlay0")).index
        self.under.set_up(self.bridge)
        self.nodes = [self._node(n) for n in range(2)]
        self.pods = [self._pod(n) for n in range(2)]

    def bind(self, fd: int, factory: Callable[[], _C]) -> _C:
        """Return what ``factory`` makes inside a namespace; it is closed with the pair."""
        made = self.netns.within(fd, factory)
        self._open.append(made)
        return made

    def _node(self, n: int) -> int:
        from podwire.kernel.link.real import RealLinks
        from podwire.kernel.link.values import Veth
        from podwire.kernel.sysctl.real import RealSysctl

        fd = self.netns.make()
        near = self.under.create(Veth(f"n{n}", "eth0", fd, master=self.bridge, up=True))
        self.bind(fd, RealLinks).add_addresses(near.peer, [ip_interface(f"192.168.71.{10 + n}/24")], up=True)
        self.netns.within(fd, lambda: RealSysctl().set("net/ipv4/ip_forward", "1"))
        return fd

    def _pod(self, n: int) -> int:
        from podwire.kernel.link.real import RealLinks
        from podwire.kernel.link.values import Bridge, Veth
        from podwire.kernel.route.real import RealRoutes
        from podwire.kernel.route.values import Route

        links, fd = self.bind(self.nodes[n], RealLinks), self.netns.make()
        cni0 = links.create(Bridge("cni0", 1450))
        links.add_addresses(cni0.index, [ip_interface(f"10.244.{n}.1/24")], up=True)
        near = links.create(Veth("pod0", "eth0", fd, 1450, master=cni0.index, up=True))
        inside = self.bind(fd, RealLinks)
        inside.add_addresses(near.peer, [ip_interface(f"10.244.{n}.5/24")], up=True)
        self.bind(fd, RealRoutes).replace(Route(_ANYWHERE, near.peer, ip_address(f"10.244.{n}.1")))
        return fd

    def run(self, fd: int, *command: str) -> str:
        """Return the output of a command run inside a namespace."""

        def enter() -> str:
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

        return self.netns.within(fd, enter)

    def throughput_gbit(self) -> float:
        """Return what iperf3 moves from the pod of node 0 to that of node 1."""

        def serve() -> subprocess.Popen[str]:
            quiet = subprocess.DEVNULL
            command = ["iperf3", "--server", "--one-off", "--forceflush"]
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True)

        server = self.netns.within(self.pods[1], serve)
        try:
            assert server.stdout is not None
            while "listening" not in server.stdout.readline():
                if server.poll() is not None:
                    raise MachineError("fabric", "start", "iperf3", f"exit status {server.returncode}")
            seconds = str(_SECONDS)
            report = self.run(self.pods[0], "iperf3", "--json", "--client", "10.244.1.5", "--time", seconds)
            end: dict[str, Any] = json.loads(report)["end"]
            return float(end["sum_received"]["bits_per_second"]) / 1e9
        finally:
            server.kill()
            server.wait()

    def close(self) -> None:
        """Close every socket; the namespaces end with the process."""
        for each in self._open:
            each.close()


class _Closable(Protocol):
    def close(self) -> None: ...


_C = TypeVar("_C", bound=_Closable)


def _join_by_hand(pair: _Pair) -> None:
    """Join two nodes with `ip` and `bridge`, as a person would."""
    for n in range(2):
        fd, other = pair.nodes[n], 1 - n
        for line in (
            f"ip link add flannel.1 address 02:00:00:00:00:0{n} type vxlan id 1 dstport 8472"
            f" local 192.168.71.{10 + n} dev eth0 nolearning",
            f"ip addr add 10.244.{n}.0/32 dev flannel.1",
            "ip link set flannel.1 up",
            f"ip neigh add 10.244.{other}.0 lladdr 02:00:00:00:00:0{other} dev flannel.1 nud permanent",
            f"bridge fdb add 02:00:00:00:00:0{other} dev flannel.1 dst 192.168.71.{10 + other} self permanent",
            f"ip route add 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink",
        ):
            pair.run(fd, *line.split())


@contextlib.asynccontextmanager
async def _joined_by_podwire(pair: _Pair, place: Path) -> AsyncIterator[None]:
    """Join two nodes with two agents over an API in memory."""
    from podwire.client.fake import FakeClient
    from podwire.fabric.agent import FabricAgent
    from podwire.kernel.link.monitor import RealMonitor
    from podwire.kernel.link.real import RealLinks
    from podwire.kernel.nft.real import RealNft
    from podwire.kernel.route.real import RealRoutes
    from podwire.kernel.sysctl.fake import FakeSysctl
    from podwire.model.resources import CONFIGMAPS, NODES

    client = FakeClient()
    conf = json.dumps({"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}})
    meta = {"namespace": "kube-flannel", "name": "kube-flannel-cfg"}
    client.seed(
        CONFIGMAPS,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"net-conf.json": conf}},
    )
    agents = []
    for n, fd in enumerate(pair.nodes):
        client.seed(NODES, _node_object(n))
        agents.append(
            FabricAgent(
                f"node-{n}",
                client,
                pair.bind(fd, RealLinks),
                pair.bind(fd, RealRoutes),
                pair.bind(fd, RealNft),
                FakeSysctl(),  # forwarding is on already, on both sides of the comparison
                monitor=pair.bind(fd, RealMonitor),
                subnet_file=place / f"node-{n}" / "subnet.env",
            )
        )
    routes = [pair.bind(fd, RealRoutes) for fd in pair.nodes]
    tasks = [asyncio.create_task(agent.run()) for agent in agents]
    try:
        async with asyncio.timeout(10):
            while not all(any(r.onlink for r in each.routes()) for each in routes):
                await asyncio.sleep(0.01)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _node_object(n: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{n}"},
        "spec": {"podCIDR": f"10.244.{n}.0/24", "podCIDRs": [f"10.244.{n}.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.71.{10 + n}"}]},
    }


async def _compare() -> dict[str, float]:
    ours, theirs = _Pair(), _Pair()
    try:
        _join_by_hand(theirs)
        with tempfile.TemporaryDirectory() as place:
            async with _joined_by_podwire(ours, Path(place)):
                figures = [
                    (ours.throughput_gbit(), theirs.throughput_gbit())
                    if turn % 2
                    else (theirs.throughput_gbit(), ours.throughput_gbit())[::-1]
                    for turn in range(_ROUNDS)
                ]
    finally:
        ours.close()
        theirs.close()
    podwire, reference = (statistics.median(column) for column in zip(*figures, strict=True))
    return {
        # Of neighbours in time: whatever else the machine does weighs on both.
        "throughput_ratio": round(statistics.median(ours / theirs for ours, theirs in figures), 3),
        "throughput_gbit": round(podwire, 2),
        "reference_gbit": round(reference, 2),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_compare())))
