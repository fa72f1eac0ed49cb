"""Fifty kills at random instants, under churn: nothing acknowledged is lost, nothing leaks, no address doubles."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable

import pytest
from labkit import Lab, eventually

from podwire.client.errors import ApiError
from podwire.client.http import HttpClient, from_kubeconfig
from podwire.lab import cluster as commands
from podwire.lab.home import ClusterDir
from podwire.model.resources import CONFIGMAPS, PODS

pytestmark = pytest.mark.e2e

KILLS = 50
NODES = ("node-0", "node-1")


class Churn:
    """Writes without pause: config maps that must all be kept, pods that come and go."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.acknowledged: set[str] = set()
        self._number = 0

    async def run(self) -> None:
        """Write until cancelled."""
        client = HttpClient(from_kubeconfig(self._lab.home / self._lab.name / "kubeconfig"), timeout_s=5)
        try:
            while True:
                self._number += 1
                try:
                    await self._write(client, f"w{self._number}")
                except ApiError:
                    await asyncio.sleep(0.05)
        finally:
            await client.close()

    async def _write(self, client: HttpClient, name: str) -> None:
        meta = {"name": name, "namespace": "default"}
        await client.create(
            CONFIGMAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"n": name}}
        )
        self.acknowledged.add(name)
        container = {"name": "c", "image": "pause"}
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
        await client.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        await asyncio.sleep(0.1)
        if self._number > 5:
            await client.delete(PODS, f"w{self._number - 5}", "default", grace_period_s=0)


def crash(lab: Lab, place: ClusterDir, victim: str) -> None:
    """Kill one process of the cluster; "everything" is init, with which all others die."""
    if victim != "everything":
        lab.kill(victim)
        return
    os.kill(commands.init_pid(place), signal.SIGKILL)
    lab.podwire("up", "--nodes", "2", timeout_s=90)


def test_fifty_kills(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab("chaos", "--nodes", "2")
    place = ClusterDir(lab.home / "chaos")
    dice = random.Random(4)
    victims = ["apiserver"] * 4 + ["controllers"] * 2 + [f"{n}-agent" for n in NODES] * 5 + ["everything"] * 2

    async def storm() -> Churn:
        churn = Churn(lab)
        writing = asyncio.create_task(churn.run())
        for _ in range(KILLS):
            await asyncio.sleep(dice.uniform(0.05, 0.7))
            await asyncio.to_thread(crash, lab, place, dice.choice(victims))
        await asyncio.sleep(0.5)
        writing.cancel()
        return churn

    churn = asyncio.run(storm())
    eventually(lambda: settled(lab), timeout_s=90, every_s=0.5)
    kept = {c["metadata"]["name"] for c in lab.get("configmaps")["items"]}
    assert churn.acknowledged, "the storm wrote nothing"
    assert churn.acknowledged <= kept, f"lost: {sorted(churn.acknowledged - kept)}"


def settled(lab: Lab) -> bool:
    """Whether the kernel of each node holds exactly what its pods need. Raises AssertionError naming what is not so."""
    pods = lab.get("pods", "-A")["items"]
    waiting = [
        p["metadata"]["name"]
        for p in pods
        if p["status"].get("phase") != "Running" or "deletionTimestamp" in p["metadata"]
    ]
    assert not waiting, f"not settled: {waiting}"
    ips = [p["status"]["podIP"] for p in pods]
    doubled = [ip for ip, count in Counter(ips).items() if count > 1]
    assert not doubled, f"doubled addresses: {doubled}"
    for node in NODES:
        mine = [p for p in pods if p["spec"]["nodeName"] == node]
        ports = lab.node(node, "sh", "-c", "ls /sys/class/net/cni0/brif 2>/dev/null || true").split()
        assert len(ports) == len(mine), f"{node}: {len(ports)} veths for {len(mine)} pods"
        pinned = lab.node(node, "sh", "-c", "ls /run/podwire/netns | grep -c . || true").strip()
        assert int(pinned) == len(mine), f"{node}: {pinned} namespaces for {len(mine)} pods"
        held = lab.node(node, "sh", "-c", "find /var/lib/podwire/cni -name '10.244.*' | wc -l").strip()
        assert int(held) == len(mine), f"{node}: {held} addresses held for {len(mine)} pods"
        peers = lab.node(node, "sh", "-c", "ip route show dev flannel.1 | wc -l").strip()
        assert int(peers) == len(NODES) - 1, f"{node}: {peers} routes to other nodes"
    return True
