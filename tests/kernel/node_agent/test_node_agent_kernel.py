"""A whole node on the kernel: shim, CNI and agent in namespaces of the test's own, against a fake API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import traceback
from collections.abc import Awaitable, Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from podwire.client.fake import FakeClient
from podwire.cni import conflist
from podwire.cni.network import CniNetwork
from podwire.cni.plugin import PodwireCni
from podwire.cni.real import real_kernel
from podwire.kernel import libc
from podwire.kernel.netns.real import RealNetns
from podwire.model.objects import is_ready
from podwire.model.resources import CONFIGMAPS, PODS
from podwire.node import agent
from podwire.node.config import NodeConfig
from podwire.node.runtime import shim
from podwire.node.runtime.real import RealRuntime
from podwire.node.streams.portforward import connector

pytestmark = pytest.mark.kernel

_OWN = libc.CLONE_NEWNS | libc.CLONE_NEWNET | libc.CLONE_NEWUTS | libc.CLONE_NEWIPC | libc.CLONE_NEWPID
_PR_SET_DUMPABLE = 4
RUN = Path("/run/podwire")


class World:
    """The node's API, runtime and network."""

    def __init__(self) -> None:
        self.client = FakeClient()
        self.runtime = RealRuntime(RUN / "shim.sock")
        self.network = CniNetwork(
            config_directory=Path("/run/cni/net.d"), in_process={"podwire-cni": PodwireCni(real_kernel()).run}
        )
        self.config = NodeConfig(
            "node-0",
            (ip_address("192.168.71.10"),),
            cluster_dns=(ip_address("10.96.0.10"),),
            backoff_initial_s=0.1,
        )

    async def run(self, act: Callable[[World], Awaitable[Any]]) -> Any:
        task = asyncio.create_task(agent.run(self.config, self.client, self.runtime, self.network))
        try:
            async with asyncio.timeout(20):
                return await act(self)
        finally:
            if task.done():
                task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def create(self, name: str, **spec: Any) -> None:
        spec.setdefault("terminationGracePeriodSeconds", 1)
        await self.client.create(
            PODS,
            {
                "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
                "spec": {"nodeName": "node-0", **spec},
            },
        )

    async def until(self, name: str, check: Callable[[Any], Any]) -> Any:
        while True:
            pod = (self.client.objects(PODS)).get(("default", name))
            if check(pod):
                return pod
            await asyncio.sleep(0.005)

    async def ready(self, name: str) -> Any:
        return await self.until(name, is_ready)

    async def output(self, name: str, *command: str) -> str:
        [c] = [
            c
            for c in await self.runtime.containers()
            if c.state == "running" and dict(c.spec.server_facts)["pod"] == name
        ]
        reader, writer = os.pipe()
        session = await self.runtime.exec(c.spec.id, command, stdout=writer, stderr=writer)
        os.close(writer)
        await session.wait()
        with os.fdopen(reader) as f:
            return f.read()


def in_node(rootless: bool, act: Callable[[World], Awaitable[Any]]) -> Any:
    """Run ``act`` inside a node and return what it returns (as JSON)."""
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            os.close(read)
            _enter(rootless)
            pid = os.fork()
            if pid == 0:
                _init(write, act)
            os.waitpid(pid, 0)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as f:
        answer = json.loads(f.read() or '{"error": "the node died"}')
    os.waitpid(middle, 0)
    assert "error" not in answer, answer["error"]
    return answer["result"]


def _enter(rootless: bool) -> None:
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if not rootless:
        libc.unshare(_OWN)
        return
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        libc.prctl(_PR_SET_DUMPABLE, 1)
    uid, gid = os.getuid(), os.getgid()
    libc.unshare(_OWN | libc.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _init(write: int, act: Callable[[World], Awaitable[Any]]) -> None:
    """Be pid 1: the shim below, the agent in this process."""
    try:
        libc.mount("none", "/", "", libc.MS_REC | libc.MS_PRIVATE)
        libc.mount("proc", "/proc", "proc")
        for path in ("/run", "/var/lib", "/var/log"):
            libc.mount("tmpfs", path, "tmpfs")
        os.system("ip link set lo up; ip link add eth0 type dummy; ip link set eth0 up")
        os.system("ip address add 192.168.71.10/24 dev eth0")
        conf = Path("/run/cni/net.d")
        conf.mkdir(parents=True)
        ranges = conflist.render_default(subnets=(ip_network("10.244.0.0/24"),))
        (conf / "10-podwire.conflist").write_bytes(conflist.encode(ranges))
        if os.fork() == 0:
            shim.main(shim.ShimConfig(run_dir=RUN, node_name="node-0", socket_path=RUN / "shim.sock"))
        while not (RUN / "shim.sock").exists():
            time.sleep(0.005)
        answer = {"result": asyncio.run(_play(act))}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    os.write(write, json.dumps(answer).encode())
    os._exit(0)


async def _play(act: Callable[[World], Awaitable[Any]]) -> Any:
    world = World()
    return await world.run(act)


@pytest.fixture(params=["root", "rootless"])
def node(request: pytest.FixtureRequest) -> Callable[[Callable[[World], Awaitable[Any]]], Any]:
    if request.param == "root" and os.getuid() != 0:
        pytest.skip("needs root")
    return lambda act: in_node(request.param == "rootless", act)


def server(**more: Any) -> dict[str, Any]:
    return {"name": "c", "image": "nginx", "ports": [{"containerPort": 80}], **more}


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"name": "c", "image": "busybox", "command": ["sh", "-c", script], **more}


def test_a_pod_with_everything(node):
    async def act(w: World) -> Any:
        data = {"metadata": {"name": "cfg", "namespace": "default"}, "data": {"k": "v"}}
        await w.client.create(CONFIGMAPS, data)
        probe = {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 1}
        container = server(
            readinessProbe=probe,
            livenessProbe=probe,
            env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            volumeMounts=[
                {"name": "cfg", "mountPath": "/etc/cfg"},
                {"name": "one", "mountPath": "/one/file", "subPath": "k"},
                {"name": "mem", "mountPath": "/mem"},
            ],
        )
        volumes = [
            {"name": "cfg", "configMap": {"name": "cfg"}},
            {"name": "one", "configMap": {"name": "cfg"}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ]
        await w.create("web", containers=[container], volumes=volumes, subdomain="sub")
        pod = await w.ready("web")
        ip = pod["status"]["podIP"]
        seen = {"ip": ip}
        for name, command in {
            "env": "echo $IP", "hostname": "hostname", "hosts": "cat /etc/hosts",
            "resolv": "cat /etc/resolv.conf", "cfg": "cat /etc/cfg/k /one/file",
            "mem": "df -P /mem | tail -1", "addr": "ip -o -4 addr show eth0",
        }.items():  # fmt: skip
            seen[name] = await w.output("web", "sh", "-c", command)
        [sandbox] = await w.runtime.sandboxes()
        opened = await connector(RealNetns(), sandbox.netns)(80)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(opened, b"GET /hostname HTTP/1.0\r\n\r\n")
        reply = b""
        while piece := await loop.sock_recv(opened, 4096):
            reply += piece
        opened.close()
        seen["forwarded"] = reply.decode()
        await w.client.delete(PODS, "web", "default")
        await w.until("web", lambda p: p is None)
        seen["left"] = [
            *map(str, Path("/run/podwire").glob("netns/*")),
            *map(str, Path("/var/lib/podwire/pods").iterdir()),
            *map(str, Path("/var/log/pods").iterdir()),
            *[line for line in Path("/proc/self/mounts").read_text().splitlines() if "/pods/" in line],
        ]
        return seen

    seen = node(act)
    assert seen["env"].strip() == seen["ip"]
    assert seen["hostname"] == "web\n"
    assert f"{seen['ip']}\tweb.sub.default.svc.cluster.local\tweb\n" in seen["hosts"]
    assert "search default.svc.cluster.local svc.cluster.local cluster.local" in seen["resolv"]
    assert "nameserver 10.96.0.10" in seen["resolv"]
    assert seen["cfg"] == "vv"
    assert seen["mem"].startswith("tmpfs")
    assert "1024" in seen["mem"]
    assert seen["ip"] in seen["addr"]
    assert "200" in seen["forwarded"].splitlines()[0]
    assert "web" in seen["forwarded"]
    assert seen["left"] == []


def test_crashes_messages_and_logs(node):
    async def act(w: World) -> Any:
        script = "echo started; echo last words > /dev/termination-log; exit 7"
        await w.create("bad", containers=[shell(script)], restartPolicy="Never")
        await w.create("loop", containers=[shell("exit 1")])
        await w.create("wrong", containers=[{"name": "c", "image": "busybox", "command": ["no-such"]}])
        bad = await w.until("bad", lambda p: p["status"]["phase"] == "Failed")

        def crashing(p: Any) -> Any:
            [s] = p["status"].get("containerStatuses") or [{}]
            return s.get("restartCount", 0) >= 2 and "waiting" in s["state"] and s

        loop, wrong = await w.until("loop", crashing), await w.until("wrong", crashing)
        log = next(Path("/var/log/pods").glob("default_bad_*/c/0.log")).read_text()
        return {"bad": bad, "loop": crashing(loop), "wrong": crashing(wrong), "log": log}

    seen = node(act)
    [status] = seen["bad"]["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 7
    assert status["state"]["terminated"]["message"] == "last words\n"
    assert seen["loop"]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert seen["wrong"]["lastState"]["terminated"]["reason"] == "StartError"
    assert " stdout F started\n" in seen["log"]


def test_containers_share_a_network_and_outlive_each_other(node):
    async def act(w: World) -> Any:
        other = shell("sleep 0.3; exit 0")
        await w.create("two", containers=[server(name="web"), {**other, "name": "dies"}])
        pod = await w.until("two", lambda p: sum(s["ready"] for s in p["status"].get("containerStatuses", ())) == 2)
        ip = pod["status"]["podIP"]
        after = await w.until("two", lambda p: any(s["restartCount"] for s in p["status"]["containerStatuses"]))
        return [ip, after["status"]["podIP"]]

    before, after = node(act)
    assert before == after


def test_the_agent_may_die_and_come_back(node):
    async def act(w: World) -> Any:
        await w.create("web", containers=[server()])
        await w.create("gone", containers=[server()])
        first = await w.ready("web")
        await w.ready("gone")
        again = World()
        again.client = w.client

        async def look(v: World) -> Any:
            await v.client.delete(PODS, "gone", "default")
            await v.until("gone", lambda p: p is None)
            return [c.spec.name for c in await v.runtime.containers() if c.state == "running"]

        running = await again.run(look)  # a second agent beside the first is harsher than after it
        return {"running": running, "same": (await w.ready("web"))["status"] == first["status"]}

    seen = node(act)
    assert seen == {"running": ["c"], "same": True}


def test_thirty_pods(node):
    async def act(w: World) -> Any:
        for i in range(30):
            await w.create(f"p{i}", containers=[server()])
        ips = [(await w.ready(f"p{i}"))["status"]["podIP"] for i in range(30)]
        for i in range(30):
            await w.client.delete(PODS, f"p{i}", "default")
        for i in range(30):
            await w.until(f"p{i}", lambda p: p is None)
        return [len(set(ips)), [str(p) for p in Path("/run/podwire").glob("netns/*")]]

    assert node(act) == [30, []]
