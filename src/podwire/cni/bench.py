"""How long an ADD takes: in the agent, through the executable, and by Debian's reference plugins.

All three in one run and in namespaces made for it; nothing of the machine's own network is touched.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from pathlib import Path

from podwire.cni import build, conflist
from podwire.cni.invoke import DEFAULT_PATH, InProcess, Invoker, RuntimeConf
from podwire.cni.netconf import NetworkList, parse_list
from podwire.cni.plugin import PodwireCni
from podwire.cni.real import real_kernel
from podwire.cni.resultcache import ResultCache
from podwire.cni.server import CniServer
from podwire.cni.spec import Json
from podwire.kernel import libc
from podwire.kernel.netns.real import RealNetns
from podwire.kernel.sysctl.real import RealSysctl

_SUBNET = IPv4Network("10.244.1.0/24")
_CLUSTER = IPv4Network("10.244.0.0/16")


def measure(rounds: int = 100) -> dict[str, float | None]:
    """Return medians in milliseconds: ``cni_add_ms``, ``cni_exec_ms``, ``reference_cni_ms``.

    ``reference_cni_ms`` is None where the reference plugins are not installed. The measuring is done in a
    child process, in a network and mount namespace of its own (for an ordinary user, in a user namespace);
    raises OSError when the kernel forbids them.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as answers:
            try:
                json.dump(_measure_here(rounds), answers)
            except BaseException as error:
                json.dump({"failed": f"{type(error).__name__}: {error}"}, answers)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        text = answers.read()
    os.waitpid(child, 0)
    figures: dict[str, float | None] = json.loads(text or '{"failed": "it was killed"}')
    if "failed" in figures:
        raise OSError(f"cni: measure ADD: {figures['failed']}")
    return figures


def _measure_here(rounds: int) -> dict[str, float | None]:
    _enter_namespaces()
    libc.mount("none", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as scratch:
        libc.mount("tmpfs", scratch, "tmpfs")
        try:
            return asyncio.run(_measure_all(Path(scratch), rounds))
        finally:
            libc.umount(scratch, libc.MNT_DETACH)


def _enter_namespaces() -> None:
    own = libc.CLONE_NEWNET | libc.CLONE_NEWNS
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        libc.unshare(own)
        return
    libc.unshare(own | libc.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


async def _measure_all(scratch: Path, rounds: int) -> dict[str, float | None]:
    plugin = PodwireCni(real_kernel(), scratch / "podwire")
    own = parse_list(conflist.render_default(subnets=[_SUBNET], networks=[_CLUSTER], mtu_bytes=1450))
    socket = scratch / "cni.sock"
    build.install(build.build(scratch / "build"), scratch / "bin")
    ready = asyncio.Event()
    server = asyncio.create_task(CniServer(socket, plugin.run).serve(ready))
    await ready.wait()
    os.environ["PODWIRE_CNI_SOCKET"] = str(socket)  # of this child process
    try:
        add_ms = await _median_add(scratch, "add", own, rounds, {"podwire-cni": plugin.run})
        exec_ms = await _median_add(scratch, "exec", own, rounds, {}, scratch / "bin")
        reference_ms = await _measure_reference(scratch, rounds)
    finally:
        server.cancel()
    return {"cni_add_ms": add_ms, "cni_exec_ms": exec_ms, "reference_cni_ms": reference_ms}


async def _measure_reference(scratch: Path, rounds: int) -> float | None:
    place = next((p for p in DEFAULT_PATH if (p / "bridge").exists() and (p / "host-local").exists()), None)
    if place is None:
        return None
    RealSysctl().set("net/ipv4/ip_forward", "1")
    listed: Json = conflist.render_reference(
        subnets=[_SUBNET],
        networks=[_CLUSTER],
        mtu_bytes=1450,
        portmap=False,
        data_directory=str(scratch / "host-local"),
    )
    # A bridge of its own: cni0 is podwire's here, with pods of the same range.
    listed["plugins"][0]["bridge"] = "cni1"
    return await _median_add(scratch, "reference", parse_list(listed), rounds, {}, place)


async def _median_add(
    scratch: Path,
    name: str,
    network: NetworkList,
    rounds: int,
    in_process: dict[str, InProcess],
    place: Path = Path("/nonexistent"),
) -> float:
    invoker = Invoker(ResultCache(scratch / name), path=(place,), in_process=in_process)
    netns = RealNetns()
    pods = [RuntimeConf(f"{name}{i}", str(scratch / "netns" / f"{name}{i}")) for i in range(rounds)]
    for pod in pods:
        netns.create(Path(pod.netns))
    took_ms: list[float] = []
    for pod in pods:
        took_ms.append(await _time_ms(lambda pod=pod: invoker.add(network, pod)))  # type: ignore[misc]
    await asyncio.gather(*(invoker.delete(network, pod) for pod in pods))
    for pod in pods:
        netns.remove(Path(pod.netns))
    return round(statistics.median(took_ms), 2)


async def _time_ms(act: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await act()
    return (time.perf_counter() - start) * 1000
