"""What the DNS server costs, beside a rival that Debian ships, in namespaces of its own.

Run as a program it measures and prints JSON; ``measure`` runs it so, as an ordinary user inside a user namespace.
The API server is a stand-in that lists and streams prepared JSON: the mirror, index and sockets are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from podwire.dns.benchapi import StandIn, generate
from podwire.model.errors import MachineError

_SERVICES, _ENDPOINTS_EACH = 10_000, 10
_PORT, _RIVAL_PORT = 5300, 5301
_COREFILE = """.:{port} {{
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
        ttl 30
    }}
    {more}
}}
"""
Say = Callable[[str], None]


def measure(say: Say = lambda text: None) -> dict[str, Any]:
    """Return the figures of issue and rival; None where a program is missing. Raises MachineError."""
    if shutil.which("dnsperf") is None:
        raise MachineError("dns", "measure", "dnsperf", "is not installed", "sudo apt install dnsperf")
    command = [sys.executable, "-m", "podwire.dns.bench"]
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    say("10,000 Services, 100,000 endpoints; 75 % of the queries are for names that do not exist")
    done = subprocess.run([*unshare, *command], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        cause = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise MachineError("dns", "measure", "speed", cause)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def explain() -> dict[str, str]:
    """Return what each figure means."""
    return {
        "cpu_us_per_query": "CPU of the server a query, kernel included (issue: at most 8)",
        "cpu_us_per_query_cold": "the same when no question repeats: each is looked up and its answer built",
        "qps_per_core": "queries a second that one core would answer (issue: at least 80000)",
        "qps": "queries a second answered in this run, one process, dnsperf on the same machine",
        "lost": "queries that dnsperf saw no answer to (issue: 0)",
        "p50_us": "median round trip of one query at a time, the asking Python process included (issue: at most 60)",
        "event_propagation_p50_ms": "watch event to first right answer, median (issue: at most 1)",
        "event_propagation_p99_ms": "the same, 99th percentile",
        "rss_mb": "memory with 10,000 Services and 100,000 endpoints (issue: at most 80)",
        "relist_peak_ratio": "peak memory of a full relist / steady (issue: at most 1.3)",
        "build_s": "process start to first answer at that size, listing and decoding included",
        "rebuild_s": "from listing to a complete index at that size (issue: at most 1.5)",
        "worker_restart_ms": "kill -9 of one of two workers to the next answer from its socket (issue: at most 300)",
        "worker_kill_lost": "queries lost while workers were killed under load",
        "rival": "the program compared with, on the same names and queries",
    }


# --- the measured process


async def _serve(corefile: str, server: str) -> None:
    from podwire.client.http import Access, HttpClient
    from podwire.dns.agent import DnsAgent
    from podwire.dns.corefile import parse_corefile

    client = HttpClient(Access(server), user_agent="bench")
    began_s = time.monotonic()
    agent = DnsAgent(parse_corefile(corefile), client, host="127.0.0.1")
    task = asyncio.create_task(agent.run())
    await agent.ready.wait()
    print(json.dumps({"rebuild_s": time.monotonic() - began_s}), flush=True)
    await task


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a single-threaded process, in seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _memory_kb(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


@contextlib.asynccontextmanager
async def _server(port: int, api: StandIn, more: str = "") -> AsyncIterator[tuple[int, dict[str, float]]]:
    """Run the server; yield its pid and what it said of its start."""
    began_s = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "podwire.dns.bench", "serve", _COREFILE.format(port=port, more=more), api.url,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            said = json.loads(await process.stdout.readline())
        yield process.pid, {**said, "build_s": time.monotonic() - began_s}
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# --- what is asked


def queries(services: Sequence[tuple[str, str]], count: int, seed: int = 1) -> list[str]:
    """Return dnsperf's lines: what pods ask with ndots:5, a quarter of it for names that exist."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count // 8):
        name, namespace = rng.choice(services)
        own = rng.choice(services)[1]
        for type in ("A", "AAAA"):
            lines += [
                f"{name}.{namespace}.{own}.svc.cluster.local {type}",
                f"{name}.{namespace}.svc.cluster.local {type}",
                f"api{rng.randrange(50)}.example.com.{own}.svc.cluster.local {type}",
                f"api{rng.randrange(50)}.example.com.svc.cluster.local {type}",
            ]
    return lines


def _dnsperf(port: int, file: Path, *more: str) -> dict[str, float]:
    command = [
        "dnsperf",
        "-s",
        "127.0.0.1",
        "-p",
        str(port),
        "-d",
        str(file),
        "-c",
        "16",
        "-q",
        "256",
        "-t",
        "3",
        *more,
    ]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def number(label: str) -> float:
        found = re.search(rf"{label}:\s+([\d.]+)", text)
        return float(found[1]) if found else 0.0

    return {k: number(v) for k, v in (
        ("completed", "Queries completed"), ("lost", "Queries lost"), ("qps", "Queries per second"),
    )}  # fmt: skip


def _cost(pid: int, port: int, file: Path, *more: str) -> dict[str, float]:
    before = _cpu_s(pid)
    seen = _dnsperf(port, file, *more)
    return {**seen, "cpu_us": (_cpu_s(pid) - before) / max(seen["completed"], 1) * 1e6}


async def _load(pid: int, port: int, file: Path, *more: str) -> dict[str, float]:
    return await asyncio.to_thread(_cost, pid, port, file, *more)


def _round_trips(port: int, name: str, count: int) -> list[float]:
    from podwire.wire import dns as wire

    question = b"\x01\0\0\1\0\0\0\0\0\0" + wire.encode_name(name) + b"\0\1\0\1"
    took = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", port))
        s.settimeout(2)
        for i in range(count):
            raw = i.to_bytes(2, "big") + question
            start = time.perf_counter()
            s.send(raw)
            s.recv(512)
            took.append((time.perf_counter() - start) * 1e6)
    return took


# --- the rival


@contextlib.contextmanager
def _rival(directory: Path, services: Sequence[tuple[str, str]], addresses: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run unbound or dnsmasq with the same names; yield its name and pid, ("", 0) when there is neither."""
    names = [f"{name}.{namespace}.svc.cluster.local" for name, namespace in services]
    if shutil.which("unbound"):
        data = "".join(f'local-data: "{n}. 30 IN A {a}"\n' for n, a in zip(names, addresses, strict=True))
        (directory / "unbound.conf").write_text(
            "server:\n num-threads: 1\n do-daemonize: no\n use-syslog: no\n username: ''\n chroot: ''\n pidfile: ''\n"
            f" interface: 127.0.0.1@{_RIVAL_PORT}\n do-ip6: no\n module-config: 'iterator'\n verbosity: 0\n"
            f' local-zone: "cluster.local." static\n{data}remote-control:\n control-enable: no\n'
        )
        command = ["unbound", "-d", "-c", str(directory / "unbound.conf")]
    elif shutil.which("dnsmasq"):
        (directory / "hosts").write_text("".join(f"{a} {n}\n" for n, a in zip(names, addresses, strict=True)))
        command = ["dnsmasq", "-k", "-h", "-R", "-C", "/dev/null", "--listen-address=127.0.0.1", "--bind-interfaces",
                   "-p", str(_RIVAL_PORT), f"--addn-hosts={directory}/hosts", "--local=/cluster.local/", "--user=root",
                   "--pid-file=", "--local-ttl=30", "--cache-size=0"]  # fmt: skip
    else:
        yield "", 0
        return
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_port(_RIVAL_PORT, names[0])
        yield Path(command[0]).name, process.pid
    finally:
        process.kill()
        process.wait()


def _await_port(port: int, name: str) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            _round_trips(port, name, 1)
            return
        time.sleep(0.1)
    raise MachineError("dns", "measure", "rival", "does not answer")


# --- propagation, memory, workers


async def _propagation(port: int, api: StandIn, count: int) -> list[float]:
    """Return the ms from a watch event's sending to the first right answer; asked without pause, as a pod might."""
    from podwire.wire import dns as wire

    took = []
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", port))
        s.setblocking(False)
        for i in range(count):
            name = f"fresh-{i}"
            query = b"\0\7\x01\0\0\1\0\0\0\0\0\0" + wire.encode_name(f"{name}.ns-0.svc.cluster.local") + b"\0\1\0\1"
            start = time.perf_counter()
            api.announce_service(name, "ns-0", f"10.111.{i >> 8}.{i & 255}")
            while True:
                await loop.sock_sendall(s, query)
                if (await loop.sock_recv(s, 512))[7]:
                    break
            took.append((time.perf_counter() - start) * 1000)
            await asyncio.sleep(0.002)
    return took


async def _relist(pid: int, api: StandIn) -> float:
    """Return peak / steady memory of a relist that the API server forces."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins again
    steady_kb = _memory_kb(pid, "VmRSS")
    before = api.lists
    await api.expire()
    async with asyncio.timeout(30):
        while api.lists < before + 3:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    return _memory_kb(pid, "VmHWM") / steady_kb


async def _workers(api: StandIn, file: Path, name: str) -> dict[str, float]:
    """Return how long a killed worker is missed, and what is lost under load when workers die."""
    port = _PORT + 10
    async with _server(port, api, "multisocket 2") as (pid, _):
        load = asyncio.create_task(asyncio.to_thread(_dnsperf, port, file, "-l", "4", "-Q", "20000"))
        await asyncio.sleep(1.0)
        for _ in range(2):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            os.kill(int(children[0]), 9)
            await asyncio.sleep(1.0)
        lost = (await load)["lost"]
        waits = []
        for _ in range(5):
            victims = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            start = time.perf_counter()
            os.kill(int(victims[0]), 9)
            waits.append(await asyncio.to_thread(_all_sockets_answer, port, name, start))
            await asyncio.sleep(0.7)
    return {"worker_restart_ms": max(waits), "worker_kill_lost": lost}


def _all_sockets_answer(port: int, name: str, start: float) -> float:
    """Return the ms until 16 fresh clients, spread over the sockets by the kernel, have all been answered."""
    for _ in range(16):
        _round_trips(port, name, 1)
    return (time.perf_counter() - start) * 1000


async def _measure() -> dict[str, Any]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    cluster = generate(_SERVICES, _ENDPOINTS_EACH)
    names = cluster.names
    chosen = random.Random(5).sample(names, 1000)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        hot, cold = directory / "hot", directory / "cold"
        hot.write_text("\n".join(queries(chosen, 8000)) + "\n")
        cold.write_text("\n".join(f"x{i}.{n}.{ns}.svc.cluster.local A" for i, (n, ns) in enumerate(names * 6)) + "\n")
        async with StandIn(cluster) as api:
            async with _server(_PORT, api) as (pid, said):
                figures |= said
                figures["rss_mb"] = _memory_kb(pid, "VmRSS") / 1024
                await _load(pid, _PORT, hot, "-l", "1")
                seen = await _load(pid, _PORT, hot, "-l", "4")
                figures["cpu_us_per_query"], figures["qps"] = seen["cpu_us"], seen["qps"]
                figures["qps_per_core"], figures["lost"] = 1e6 / seen["cpu_us"], seen["lost"]
                figures["cpu_us_per_query_cold"] = (await _load(pid, _PORT, cold, "-n", "1"))["cpu_us"]
                name = ".".join((*chosen[0], "svc.cluster.local"))
                figures["p50_us"] = statistics.median(await asyncio.to_thread(_round_trips, _PORT, name, 3000))
                took = sorted(await _propagation(_PORT, api, 300))
                figures["event_propagation_p50_ms"] = statistics.median(took)
                figures["event_propagation_p99_ms"] = took[int(len(took) * 0.99)]
                figures["rss_after_mb"] = _memory_kb(pid, "VmRSS") / 1024
                figures["relist_peak_ratio"] = await _relist(pid, api)
            figures |= await _workers(api, hot, name)
        with _rival(directory, names, cluster.addresses) as (rival, pid):
            figures["rival"] = rival or None
            if rival:
                await _load(pid, _RIVAL_PORT, hot, "-l", "1")
                seen = await _load(pid, _RIVAL_PORT, hot, "-l", "4")
                figures |= {"rival_cpu_us_per_query": seen["cpu_us"], "rival_qps": seen["qps"]}
                figures["rival_rss_mb"] = _memory_kb(pid, "VmRSS") / 1024
    return figures


if __name__ == "__main__":
    import uvloop

    if sys.argv[1:2] == ["serve"]:
        uvloop.run(_serve(sys.argv[2], sys.argv[3]))
    else:
        print(json.dumps(uvloop.run(_measure())))
