"""`podwire bench services`: how long the proxy takes for many Services, in a network namespace of its own.

The agent runs whole, over an API in memory: what is measured goes from the watch event to the kernel's answer.
Run as a program it prints the figures as JSON; ``measure`` runs it so, in a throw-away namespace.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from podwire.model.errors import MachineError
from podwire.model.objects import Obj

_CHANGES = 200
_PODS = ip_network("10.0.0.0/9")
_SERVICES = ip_network("10.128.0.0/12")


def measure(
    say: Callable[[str], None], services: int = 10_000, endpoints: int = 10, mode: str = "nftables"
) -> dict[str, float | None]:
    """Return full_sync_s, change_p50_ms, change_p99_ms, netlink_bytes, rss_mb and what lies around them.

    Raises MachineError when the machine forbids the namespace.
    """
    say(f"{services} Services x {endpoints} endpoints in mode {mode}")
    command = [sys.executable, "-m", "podwire.proxy.bench", str(services), str(endpoints), mode]
    inside = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    done = subprocess.run([*inside, *command], capture_output=True, text=True, timeout=3600, check=False)
    if done.returncode != 0:
        cause = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise MachineError("proxy", "measure", "Services", cause)
    figures: dict[str, float | None] = json.loads(done.stdout)
    return figures


def explain() -> dict[str, str]:
    """Return what each figure means, and its unit."""
    return {
        "full_sync_s": "from an empty table to every Service programmed, seconds",
        "full_sync_cpu_s": "of that, processor time",
        "change_p50_ms": "one changed endpoint, from watch event to the kernel's answer, median",
        "change_p99_ms": "the same, the 99th percentile",
        "change_cpu_ms": "processor time of one changed endpoint, mean",
        "netlink_bytes": "sent to the kernel for the full sync (nftables)",
        "change_bytes": "sent to the kernel for one changed endpoint (nftables)",
        "rss_mb": "memory of the process, without the pretended API, MiB",
        "adopt_s": "a restarted agent compares with what the kernel holds, seconds",
    }


def service(number: int) -> Obj:
    """Return a Service with one TCP port."""
    address = str(_SERVICES[number + 1])
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": "bench", "name": f"svc-{number}", "uid": f"uid-{number}", "resourceVersion": str(number + 1),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    }  # fmt: skip


def endpoint_slice(number: int, endpoints: int, version: int = 0) -> Obj:
    """Return its slice. ``version`` changes the last endpoint."""
    first = number * endpoints + 1
    numbers = [*range(first, first + endpoints - 1), 2_000_000 + (number * 7 + version) % 1_000_000]
    name = f"svc-{number}"
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "bench", "name": f"{name}-abcde", "labels": {"kubernetes.io/service-name": name},
            "resourceVersion": str(10_000_000 + number * 1000 + version),
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [str(_PODS[n])], "nodeName": f"node-{n % 100}",
             "conditions": {"ready": True, "serving": True, "terminating": False}}
            for n in numbers
        ],
    }  # fmt: skip


class _Feed:
    """An API in memory that hands over each list once, and then what is pushed."""

    def __init__(self, services: int, endpoints: int) -> None:
        self.pushed: asyncio.Queue[Obj] = asyncio.Queue()
        self._services, self._endpoints = services, endpoints

    async def list(self, resource: Any, namespace: str = "", *, labels: str = "", fields: str = "") -> Any:
        from podwire.client.port import Listing

        if resource.plural == "services":
            return Listing(_Made(service, self._services), "1")  # type: ignore[arg-type]
        if resource.plural == "endpointslices":
            return Listing(_Made(lambda n: endpoint_slice(n, self._endpoints), self._services), "1")  # type: ignore[arg-type]
        return Listing((), "1")  # type: ignore[arg-type]

    async def pages(self, resource: Any, namespace: str = "", **where: Any) -> Any:
        yield await self.list(resource, namespace)

    async def watch(self, resource: Any, namespace: str = "", **_: Any) -> Any:
        from podwire.client.port import WatchEvent

        while resource.plural == "endpointslices":
            yield WatchEvent("MODIFIED", await self.pushed.get())
        await asyncio.Event().wait()


class _Made:
    """Objects made as they are read: a list that was decoded would cost memory that is not the proxy's."""

    def __init__(self, make: Callable[[int], Obj], count: int) -> None:
        self._make, self._count = make, count

    def __iter__(self) -> Any:
        return map(self._make, range(self._count))


def _counted(nft: Any) -> list[int]:
    """Let an nftables count the bytes that it sends; return the growing count."""
    sent = [0]
    commit = nft._commit

    def count(pending: Sequence[Any]) -> None:
        sent[0] += sum(len(p.raw) for p in pending)
        commit(pending)

    nft._commit = count
    return sent


def _rss_mb() -> float:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize() / 2**20


async def _run(services: int, endpoints: int, mode: str) -> dict[str, float]:
    from podwire.kernel.iptables.real import RealIptables
    from podwire.kernel.nft.real import RealNft
    from podwire.proxy.agent import ProxyAgent

    def agent(feed: _Feed, nft: RealNft) -> ProxyAgent:
        return ProxyAgent(
            "node-1", [ip_address("192.168.71.10")], [_PODS], feed, nft,  # type: ignore[arg-type]
            service_cidrs=[_SERVICES], listen=False, iptables=RealIptables(), mode=mode,
        )  # fmt: skip

    nft, feed = RealNft(), _Feed(services, endpoints)
    sent = _counted(nft)
    one = agent(feed, nft)
    lists_s = _time_of_lists(services, endpoints)
    began_s, cpu_s = time.perf_counter(), _cpu_s()
    running = asyncio.create_task(one.run())
    await _until(one.synced, running)
    figures = {
        "full_sync_s": time.perf_counter() - began_s - lists_s,
        "full_sync_cpu_s": _cpu_s() - cpu_s - lists_s,
        "netlink_bytes": float(sent[0]),
    }
    figures |= await _change(one, feed, services, endpoints, sent)
    figures["rss_mb"] = _rss_mb()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    again = agent(_Feed(services, endpoints), nft)
    began_s = time.perf_counter()
    running = asyncio.create_task(again.run())
    await _until(again.synced, running)
    figures["adopt_s"] = time.perf_counter() - began_s - lists_s
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return figures


async def _until(done: asyncio.Event, running: asyncio.Task[None]) -> None:
    """Wait for the agent's first round; raise what ended it before."""
    waiting = asyncio.ensure_future(done.wait())
    await asyncio.wait((waiting, running), return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()


def _time_of_lists(services: int, endpoints: int) -> float:
    """Return the seconds that making up the objects costs, which are not the proxy's."""
    began_s = time.perf_counter()
    for n in range(services):
        service(n)
        endpoint_slice(n, endpoints)
    return time.perf_counter() - began_s


def _cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


async def _change(one: Any, feed: _Feed, services: int, endpoints: int, sent: list[int]) -> dict[str, float]:
    took_ms, cpu_s, before = [], _cpu_s(), sent[0]
    for turn in range(1, _CHANGES + 1):
        await asyncio.sleep(0.008)  # a change by itself, not one of a burst
        done = one.status.rounds
        began_s = time.perf_counter()
        feed.pushed.put_nowait(endpoint_slice((turn * 7919) % services, endpoints, turn))
        while one.status.rounds == done:
            await asyncio.sleep(0)
        took_ms.append((time.perf_counter() - began_s) * 1000)
    took_ms.sort()
    return {
        "change_p50_ms": statistics.median(took_ms),
        "change_p99_ms": took_ms[int(len(took_ms) * 0.99) - 1],
        "change_cpu_ms": (_cpu_s() - cpu_s) * 1000 / _CHANGES,
        "change_bytes": (sent[0] - before) / _CHANGES,
    }


def _main() -> None:
    import uvloop

    from podwire.runtime import logging as log

    parser = argparse.ArgumentParser()
    parser.add_argument("services", type=int)
    parser.add_argument("endpoints", type=int)
    parser.add_argument("mode")
    arguments = parser.parse_args()
    log.get("proxy")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(_run(arguments.services, arguments.endpoints, arguments.mode))
    print(json.dumps(figures))


if __name__ == "__main__":
    _main()
