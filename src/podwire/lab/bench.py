"""`podwire bench up`: what a person waits for, measured from outside, on throw-away clusters.

Times are wall-clock seconds from the moment the command is started or the objects are created. Clusters live
in a state directory of the benchmark's own and are gone afterwards.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from podwire.client.http import HttpClient, from_kubeconfig
from podwire.client.informer import Informer
from podwire.lab import cluster as commands
from podwire.lab.home import ClusterDir
from podwire.model.errors import MachineError
from podwire.model.objects import Key, Obj, is_ready
from podwire.model.resources import PODS

Say = Callable[[str], None]


def measure(say: Say) -> dict[str, float | None]:
    """Return every figure of the benchmark, in the order in which they were taken.

    None: it could not be measured here (a program that is not installed).
    """
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as home:
        os.environ["PODWIRE_HOME"] = home
        with _cluster(ClusterDir(Path(home) / "warm"), 1) as _:
            say("warmed the file cache")
        place = ClusterDir(Path(home) / "three")
        with _cluster(place, 3) as times:
            figures |= times
            say(f"3 nodes ready after {times['ready_s']:.2f} s")
            time.sleep(3.0)  # let the first seconds' work settle: idle is what is asked
            figures["pss_mb"] = proportional_mb(commands.init_pid(place))
            figures["pods30_s"] = asyncio.run(_time_pods(place, 30))
            say(f"30 pods ready after {figures['pods30_s']:.2f} s")
            figures["down_s"] = _time_down(place)
        place = ClusterDir(Path(home) / "ten")
        with _cluster(place, 10):
            figures["pods300_s"] = asyncio.run(_time_pods(place, 300))
            say(f"300 pods on 10 nodes ready after {figures['pods300_s']:.2f} s")
    from podwire.cni import bench as cni
    from podwire.fabric import bench as fabric

    figures |= cni.measure()
    say("measured the CNI plugin beside Debian's")
    figures |= fabric.measure()
    return figures


@contextmanager
def _cluster(place: ClusterDir, nodes: int) -> Iterator[dict[str, float]]:
    """Bring a cluster up with the command; yield when the API answered and when all was ready."""
    began = time.monotonic()
    command = [sys.executable, "-m", "podwire", "up", "--name", place.name, "--nodes", str(nodes), "--quiet"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        api_s = _wait_for_api(place, child, began)
        _, words = child.communicate(timeout=120)
        ready_s = time.monotonic() - began
        if child.returncode:
            raise MachineError("lab", "bring up", place.name, words.strip())
        yield {"api_s": api_s, "ready_s": ready_s}
    finally:
        commands.down(place.name)


def _wait_for_api(place: ClusterDir, child: subprocess.Popen[str], began: float) -> float:
    """Return the seconds after which /readyz answered 200."""
    import http.client
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while child.poll() is None:
        try:
            port = commands.status(place.name)["server"].rpartition(":")[2]
            connection = http.client.HTTPSConnection("127.0.0.1", int(port), timeout=0.5, context=context)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return time.monotonic() - began
        except Exception:  # not there yet, in one of many ways
            pass
        time.sleep(0.01)
    return time.monotonic() - began


async def _time_pods(place: ClusterDir, count: int) -> float:
    """Create ``count`` pods with a built-in server and return the seconds until all are Ready."""
    client = HttpClient(from_kubeconfig(place.kubeconfig))
    informer = Informer(client, PODS, "default")
    ready: set[Key] = set()
    done = asyncio.Event()

    def heard(key: Key, old: Obj | None, new: Obj | None) -> None:
        if new is not None and is_ready(new):
            ready.add(key)
            if len(ready) == count:
                done.set()

    informer.listen(heard)
    following = asyncio.create_task(informer.run())
    await informer.synced.wait()
    began = time.monotonic()
    gate = asyncio.Semaphore(16)

    async def create(index: int) -> None:
        async with gate:
            await client.create(PODS, _pod(index))

    await asyncio.gather(*(create(i) for i in range(count)))
    try:
        async with asyncio.timeout(120):
            await done.wait()
    except TimeoutError:
        raise MachineError("lab", "start", f"{count} pods", f"only {len(ready)} were ready after 120 s") from None
    finally:
        following.cancel()
    took_s = time.monotonic() - began
    await client.close()
    return took_s


def _pod(index: int) -> Obj:
    container = {"name": "web", "image": "nginx", "ports": [{"containerPort": 80}]}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"bench-{index}", "namespace": "default"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }  # fmt: skip


def _time_down(place: ClusterDir) -> float:
    began = time.monotonic()
    command = [sys.executable, "-m", "podwire", "down", "--name", place.name]
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def proportional_mb(root: int) -> float:
    """Return the PSS of a process and all its descendants, in MiB: shared pages are counted once."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    total_kb, todo = 0, [root]
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total_kb += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total_kb / 1024


def explain() -> dict[str, Any]:
    """Return what each figure means, and its unit."""
    return {
        "api_s": "`podwire up --nodes 3` until /readyz answers 200",
        "ready_s": "until all three nodes are Ready and the command has returned",
        "pss_mb": "memory of the whole idle 3-node cluster, MiB, shared pages counted once",
        "pods30_s": "30 pods on 3 nodes, from creation until all are Ready",
        "down_s": "`podwire down`",
        "pods300_s": "300 pods on 10 nodes, from creation until all are Ready",
        "cni_add_ms": "CNI ADD by podwire-cni in the agent, median",
        "cni_exec_ms": "CNI ADD by the podwire-cni executable, median",
        "reference_cni_ms": "CNI ADD by Debian's bridge + host-local, median, same run",
        "throughput_ratio": "TCP between pods on two nodes, relative to the same VXLAN made by hand with ip",
    }
