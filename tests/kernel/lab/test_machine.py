"""Nodes as machines, in namespaces of the test's own: booted, plugged in, entered, partitioned, powered off."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podwire.kernel.link.real import RealLinks
from podwire.kernel.sysctl.real import RealSysctl
from podwire.lab import machine, namespaces, underlay
from podwire.lab.config import LabConfig
from podwire.lab.machine import Machine
from podwire.lab.supervisor import Supervisor

pytestmark = pytest.mark.kernel


def in_lab(
    tmp_path: Path, act: Callable[[Supervisor, dict[str, Machine], RealLinks], dict[str, Any]]
) -> dict[str, Any]:
    """Run ``act`` as lab init of two booted nodes and return what it answers."""
    read, write = os.pipe()
    config = LabConfig(nodes=2, ip_family="dual")

    def main() -> None:
        try:
            supervisor = Supervisor(tmp_path)
            links = RealLinks()
            bridge = underlay.build(links, RealSysctl(), config)
            nodes: dict[str, Machine] = {}
            for index, name in enumerate(config.node_names):
                (tmp_path / name).mkdir()
                nodes[name] = boot(supervisor, machine.spec_of(config, index, tmp_path / name))
                nodes[name].plug(links, bridge)
            answer = act(supervisor, nodes, links)
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)

    namespaces.launch(main)  # type: ignore[arg-type]
    os.close(write)
    with os.fdopen(read) as source:
        answer = json.loads(source.read())
    assert "failed" not in answer, answer["failed"]
    return answer


def boot(supervisor: Supervisor, spec: machine.MachineSpec) -> Machine:
    ours, theirs = socket.socketpair()
    supervisor.fork(spec.name, lambda: machine.power_on(spec, theirs, lambda: time.sleep(60)), keep=(theirs.fileno(),))
    theirs.close()
    return Machine(spec, ours)


def run_on(supervisor: Supervisor, node: Machine, *argv: str) -> tuple[int, str]:
    """Run a command on a node; return its exit code and output."""
    read, write = os.pipe()

    def body() -> None:
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.execvp(argv[0], argv)

    codes: list[int] = []
    pid = supervisor.fork("run", lambda: machine.enter(node, body), keep=(write, *node.descriptors))
    supervisor.expect_exit(pid, codes.append)
    os.close(write)
    with os.fdopen(read) as source:
        output = source.read()
    while not codes:
        supervisor.turn(5)
    return codes[0], output


def test_nodes_reach_each_other_and_nothing_else(tmp_path: Path) -> None:
    def act(supervisor: Supervisor, nodes: dict[str, Machine], links: RealLinks) -> dict[str, Any]:
        one = nodes["node-0"]
        return {
            "ping4": run_on(supervisor, one, "ping", "-c1", "-W2", "192.168.71.11"),
            "ping6": run_on(supervisor, one, "ping", "-c1", "-W2", "fd00:71::11"),
            "beyond": run_on(supervisor, one, "ping", "-c1", "-W2", "192.0.2.1"),
            "hostname": run_on(supervisor, one, "hostname"),
            "devices": run_on(supervisor, one, "ls", "/sys/class/net"),
            "processes": run_on(supervisor, one, "sh", "-c", "ls -d /proc/[0-9]* | wc -l"),
            "run": run_on(supervisor, one, "ls", "/run"),
        }

    seen = in_lab(tmp_path, act)
    assert seen["ping4"][0] == 0, seen["ping4"]
    assert seen["ping6"][0] == 0, seen["ping6"]
    assert seen["beyond"][0] != 0
    assert "Unreachable" in seen["beyond"][1]
    assert seen["hostname"] == [0, "node-0\n"]
    assert seen["devices"][1].split() == ["eth0", "lo"]
    assert int(seen["processes"][1]) < 8, "a node sees its own processes only"
    assert set(seen["run"][1].split()) == {"podwire", "netns"}


def test_what_a_node_writes_stays_on_the_node(tmp_path: Path) -> None:
    names = [f"/{d}/podwire-test-{os.getpid()}" for d in ("etc", "var", "opt", "run", "tmp")]

    def act(supervisor: Supervisor, nodes: dict[str, Machine], links: RealLinks) -> dict[str, Any]:
        written = run_on(supervisor, nodes["node-0"], "touch", *names, "/var/lib/podwire/kept")
        other = run_on(supervisor, nodes["node-1"], "ls", "-d", *names)
        return {"written": written, "other": other}

    seen = in_lab(tmp_path, act)
    assert seen["written"] == [0, ""]
    assert seen["other"][0] != 0
    assert not [n for n in names if os.path.exists(n)]
    assert (tmp_path / "node-0" / "kept").exists()


def test_cut_and_heal(tmp_path: Path) -> None:
    def act(supervisor: Supervisor, nodes: dict[str, Machine], links: RealLinks) -> dict[str, Any]:
        ping = ("ping", "-c15", "-i0.2", "-W1", "192.168.71.10")  # a carrier takes a moment to be seen
        underlay.cut(links, 0, heal=False)
        cut = run_on(supervisor, nodes["node-1"], *ping)
        underlay.cut(links, 0, heal=True)
        healed = run_on(supervisor, nodes["node-1"], *ping)
        return {"cut": cut, "healed": healed}

    seen = in_lab(tmp_path, act)
    assert seen["cut"][0] != 0
    assert seen["healed"][0] == 0, seen["healed"]


def test_power_off_ends_every_process_of_the_node(tmp_path: Path) -> None:
    def act(supervisor: Supervisor, nodes: dict[str, Machine], links: RealLinks) -> dict[str, Any]:
        node = nodes["node-0"]
        codes: list[int] = []
        pid = supervisor.fork("sleeper", lambda: machine.enter(node, lambda: time.sleep(60)), keep=node.descriptors)
        supervisor.expect_exit(pid, codes.append)
        time.sleep(0.1)
        os.kill(node.pid1, signal.SIGKILL)
        while not codes:
            supervisor.turn(5)
        return {"code": codes[0], "port": links.find("n0") is not None}

    assert in_lab(tmp_path, act)["code"] == 128 + signal.SIGKILL


def test_the_host_sees_nothing(tmp_path: Path) -> None:
    def snapshot() -> tuple[str, ...]:
        commands = ["ip -j link", "ip -j route show table all", "ip -j rule"]
        commands += ["nft list ruleset"] if os.geteuid() == 0 else []
        texts = [subprocess.run(c.split(), capture_output=True, text=True, check=True).stdout for c in commands]
        mounts = Path("/proc/self/mounts").read_text()
        forward = Path("/proc/sys/net/ipv4/ip_forward").read_text()
        return (*texts, mounts, forward)

    before = snapshot()
    in_lab(tmp_path, lambda supervisor, nodes, links: {"nodes": list(nodes)})
    assert snapshot() == before
