"""The whole node against a fake API, a fake runtime and a fake network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from podwire.client.errors import NotFound
from podwire.client.fake import FakeClient
from podwire.model.objects import Obj, condition, is_ready
from podwire.model.resources import CONFIGMAPS, EVENTS, LEASES, NODES, PODS, SECRETS, SERVICES
from podwire.node import agent
from podwire.node.config import NodeConfig
from podwire.node.fake_network import FakeNetwork
from podwire.node.runtime.fake import ExecAnswer, FakeRuntime
from podwire.runtime.clock import SystemClock


class Bench:
    """One node, and what a person would do to it."""

    def __init__(self, tmp: Path) -> None:
        self.client = FakeClient()
        self.runtime = FakeRuntime(exec_answer=lambda spec, command: ExecAnswer(0, b"ok"))
        self.network = FakeNetwork()
        self.config = NodeConfig(
            "node-0",
            (ip_address("192.168.71.10"),),
            state_dir=tmp / "state",
            log_dir=tmp / "log",
            cluster_dns=(ip_address("10.96.0.10"),),
            backoff_initial_s=0.05,
            backoff_max_s=0.2,
        )
        self.agent: agent.Agent | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(
            agent.run(
                self.config,
                self.client,
                self.runtime,
                self.network,
                SystemClock(),
                on_start=lambda a: setattr(self, "agent", a),
            )
        )
        try:
            yield
        finally:
            if task.done():
                task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, check: Callable[[Obj], Any], name: str = "web") -> Obj:
        async with asyncio.timeout(5):
            while True:
                pod = await self.client.get(PODS, name, "default")
                if check(pod):
                    return pod
                await asyncio.sleep(0.005)

    async def ready(self, name: str = "web") -> Obj:
        return await self.until(is_ready, name)

    async def gone(self, name: str = "web") -> None:
        async with asyncio.timeout(5):
            with contextlib.suppress(NotFound):
                while await self.client.get(PODS, name, "default"):
                    await asyncio.sleep(0.005)

    async def events(self, *reasons: str) -> list[Obj]:
        async with asyncio.timeout(5):
            while True:
                found = [e for e in self.client.objects(EVENTS).values() if e["reason"] in reasons]
                if {e["reason"] for e in found} == set(reasons):
                    return found
                await asyncio.sleep(0.01)

    async def container(self, name: str = "c") -> Any:
        return [c for c in await self.runtime.containers() if c.spec.name == name][-1]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def pod(name: str = "web", **spec: Any) -> Obj:
    container = {"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}
    return {
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": "node-0", "containers": [container], **spec},
    }


def state(p: Obj, name: str = "c", list_name: str = "containerStatuses") -> Obj:
    found = [s for s in p["status"].get(list_name) or () if s["name"] == name]
    return found[0] if found else {"state": {}, "lastState": {}, "restartCount": 0}


async def test_registers_as_a_kubelet_does(bench: Bench):
    async with bench.running():
        async with asyncio.timeout(5):
            while not (LEASES and bench.client.objects(LEASES)):
                await asyncio.sleep(0.01)
        [node] = bench.client.objects(NODES).values()
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "node-0"
    assert node["status"]["addresses"] == [
        {"type": "InternalIP", "address": "192.168.71.10"},
        {"type": "Hostname", "address": "node-0"},
    ]
    assert is_ready(node)
    assert not node["spec"].get("taints")
    [lease] = bench.client.objects(LEASES).values()
    assert lease["spec"]["holderIdentity"] == "node-0"


async def test_not_ready_until_the_network_is(bench: Bench):
    bench.network.problem = "no bridge"
    async with bench.running():
        await bench.client.create(PODS, pod())
        await bench.events("NetworkNotReady")
        [node] = bench.client.objects(NODES).values()
        assert "no bridge" in condition(node, "Ready")["message"]
        assert node["spec"]["taints"]
        bench.network.problem = ""
        await bench.ready()
        [node] = bench.client.objects(NODES).values()
        assert is_ready(node)


async def test_a_pod_runs_and_says_so(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod())
        p = await bench.ready()
        await bench.events("Pulled", "Created", "Started")
    status = p["status"]
    assert status["phase"] == "Running"
    assert status["podIP"] == status["podIPs"][0]["ip"] == "10.244.0.2"
    assert status["hostIP"] == "192.168.71.10"
    assert state(p)["ready"]
    assert state(p)["started"]
    assert state(p)["containerID"].startswith("podwire://")
    assert {c["type"]: c["status"] for c in status["conditions"]} == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"), "True"
    )
    writes = [path for verb, path in bench.client.requests if verb == "patch" and path.startswith("pods/")]
    assert writes == ["pods/default/web/status"]  # one write from nothing to Ready


async def test_deletion_leaves_nothing(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod())
        await bench.ready()
        await bench.client.delete(PODS, "web", "default")
        await bench.gone()
        await bench.events("Killing")
        assert bench.network.held == {}
        assert await bench.runtime.sandboxes() == ()
        assert list((bench.config.state_dir / "pods").iterdir()) == []
        assert list(bench.config.log_dir.iterdir()) == []


async def test_forced_deletion_leaves_nothing(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod())
        await bench.ready()
        await bench.client.delete(PODS, "web", "default", grace_period_s=0)
        async with asyncio.timeout(5):
            while bench.network.held or await bench.runtime.sandboxes():
                await asyncio.sleep(0.01)


async def test_init_containers_run_in_order(bench: Bench):
    inits = [{"name": "i1", "image": "busybox"}, {"name": "i2", "image": "busybox"}]
    async with bench.running():
        await bench.client.create(PODS, pod(initContainers=inits))
        p = await bench.until(lambda p: state(p, "i1", "initContainerStatuses")["state"].get("running"))
        assert p["status"]["phase"] == "Pending"
        assert state(p)["state"]["waiting"]["reason"] == "PodInitializing"
        assert condition(p, "Initialized")["status"] == "False"
        for name in ("i1", "i2"):
            await bench.until(lambda p, name=name: state(p, name, "initContainerStatuses")["state"].get("running"))
            bench.runtime.exit_container((await bench.container(name)).spec.id, 0)
        p = await bench.ready()
    assert state(p, "i2", "initContainerStatuses")["state"]["terminated"]["reason"] == "Completed"


async def test_sidecar_starts_before_and_ends_after(bench: Bench):
    sidecar = {"name": "s", "image": "nginx", "restartPolicy": "Always"}
    async with bench.running():
        await bench.client.create(PODS, pod(initContainers=[sidecar], restartPolicy="Never"))
        await bench.ready()
        bench.runtime.exit_container((await bench.container("c")).spec.id, 0)
        p = await bench.until(lambda p: p["status"]["phase"] == "Succeeded")
    assert "terminated" in state(p, "s", "initContainerStatuses")["state"]
    assert condition(p, "Ready")["reason"] == "PodCompleted"


async def test_crash_loop_backs_off(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod())
        await bench.ready()
        seen = set()
        for count in range(1, 4):
            bench.runtime.exit_container((await bench.container()).spec.id, 3)
            p = await bench.until(lambda p, n=count: state(p)["restartCount"] == n or state(p)["state"].get("waiting"))
            seen.add((state(p)["state"].get("waiting") or {}).get("reason"))
            p = await bench.until(lambda p, n=count: state(p)["restartCount"] == n and state(p)["ready"])
        assert state(p)["lastState"]["terminated"]["exitCode"] == 3
        assert "CrashLoopBackOff" in seen
        await bench.events("BackOff")
        assert len(await bench.runtime.containers()) == 2  # older attempts are removed


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [("Never", 0, "Succeeded"), ("Never", 1, "Failed"), ("OnFailure", 0, "Succeeded")],
)
async def test_pods_that_end(bench: Bench, policy: str, code: int, phase: str):
    async with bench.running():
        await bench.client.create(PODS, pod(restartPolicy=policy))
        await bench.ready()
        bench.runtime.exit_container((await bench.container()).spec.id, code)
        p = await bench.until(lambda p: p["status"]["phase"] == phase)
        assert state(p)["state"]["terminated"]["exitCode"] == code
        assert p["status"]["podIP"] == "10.244.0.2"
        await asyncio.sleep(0.05)
        assert bench.network.held == {}  # its address is free again
        await bench.client.delete(PODS, "web", "default")
        await bench.gone()


async def test_configuration_errors_are_said_and_healed(bench: Bench):
    p = pod()
    p["spec"]["containers"][0]["env"] = [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a"}}}
    ]
    async with bench.running():
        await bench.client.create(PODS, p)
        p = await bench.until(lambda p: (state(p)["state"].get("waiting") or {}).get("message"))
        assert state(p)["state"]["waiting"] == {
            "reason": "CreateContainerConfigError",
            "message": 'configmap "settings" not found',
        }
        settings = {"metadata": {"name": "settings", "namespace": "default"}, "data": {"a": "1"}}
        await bench.client.create(CONFIGMAPS, settings)
        await bench.ready()
        assert ("A", "1") in (await bench.container()).spec.env


async def test_start_errors_become_crash_loops(bench: Bench):
    bench.runtime = FakeRuntime(start_errors={"foo": 'exec: "foo": executable file not found in $PATH'})
    p = pod()
    p["spec"]["containers"][0]["command"] = ["foo"]
    async with bench.running():
        await bench.client.create(PODS, p)
        p = await bench.until(lambda p: state(p)["restartCount"] >= 1 and state(p)["state"].get("waiting"))
        assert state(p)["lastState"]["terminated"]["reason"] == "StartError"
        [event, *_] = await bench.events("Failed")
    assert "executable file not found" in event["message"]


async def test_volumes_are_written_and_refreshed(bench: Bench):
    volumes = [
        {"name": "cfg", "configMap": {"name": "cfg"}},
        {"name": "all", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"secret": {"name": "s"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}},
        {"name": "tmp", "emptyDir": {}},
    ]  # fmt: skip
    p = pod(volumes=volumes)
    p["spec"]["containers"][0]["volumeMounts"] = [
        {"name": "cfg", "mountPath": "/cfg"},
        {"name": "tmp", "mountPath": "/scratch", "subPath": "a/b"},
        {"name": "all", "mountPath": "/all", "readOnly": True},
    ]
    cfg = {"metadata": {"name": "cfg", "namespace": "default"}, "data": {"k": "one"}}
    await bench.client.create(CONFIGMAPS, cfg)
    secret = {"metadata": {"name": "s", "namespace": "default"}, "data": {"password": "aHVudGVyMg=="}}
    await bench.client.create(SECRETS, secret)
    async with bench.running():
        await bench.client.create(PODS, p)
        await bench.ready()
        mounts = {m.target: m for m in (await bench.container()).spec.mounts}
        assert (mounts["/cfg"].source / "k").read_text() == "one"
        assert (mounts["/all"].source / "password").read_text() == "hunter2"
        assert (mounts["/all"].source / "token").read_text().startswith("fake.default.default.")
        assert (mounts["/all"].source / "labels").read_text() == 'app="web"'
        assert mounts["/scratch"].source.is_dir()
        await bench.client.patch(CONFIGMAPS, "cfg", {"data": {"k": "two"}}, "default")
        async with asyncio.timeout(5):
            while (mounts["/cfg"].source / "k").read_text() != "two":
                await asyncio.sleep(0.01)


async def test_missing_volume_objects_are_said(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod(volumes=[{"name": "v", "secret": {"secretName": "nope"}}]))
        [event] = await bench.events("FailedMount")
        assert event["message"] == 'MountVolume.SetUp failed for volume "v" : secret "nope" not found'
        p = await bench.until(lambda p: state(p)["state"])
        assert state(p)["state"]["waiting"]["reason"] == "ContainerCreating"


async def test_network_failure_is_said_and_retried(bench: Bench):
    bench.network.refusal = "no free address"
    async with bench.running():
        await bench.client.create(PODS, pod())
        [event] = await bench.events("FailedCreatePodSandBox")
        assert "no free address" in event["message"]
        assert await bench.runtime.sandboxes() == ()
        bench.network.refusal = ""
        await bench.ready()


async def test_services_become_variables(bench: Bench):
    service = {
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]},
    }
    await bench.client.create(SERVICES, service)
    async with bench.running():
        await bench.client.create(PODS, pod())
        await bench.ready()
        env = dict((await bench.container()).spec.env)
    assert env["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert env["KUBERNETES_PORT_443_TCP"] == "tcp://10.96.0.1:443"


async def test_liveness_failure_restarts(bench: Bench):
    answers = {"code": 0}
    bench.runtime = FakeRuntime(exec_answer=lambda s, c: ExecAnswer(answers["code"], b"I am ill", b""))
    p = pod()
    p["spec"]["containers"][0]["livenessProbe"] = {
        "exec": {"command": ["check"]}, "periodSeconds": 0.01, "failureThreshold": 2
    }  # fmt: skip
    async with bench.running():
        await bench.client.create(PODS, p)
        await bench.ready()
        answers["code"] = 1
        await bench.until(lambda p: state(p)["restartCount"] == 1)
        answers["code"] = 0
        [unhealthy] = await bench.events("Unhealthy")
        assert unhealthy["message"] == "Liveness probe failed: I am ill"
        await bench.ready()


async def test_readiness_gates_and_probes(bench: Bench):
    answers = {"code": 1}
    bench.runtime = FakeRuntime(exec_answer=lambda s, c: ExecAnswer(answers["code"]))
    p = pod(readinessGates=[{"conditionType": "example.com/gate"}])
    p["spec"]["containers"][0]["readinessProbe"] = {"exec": {"command": ["x"]}, "periodSeconds": 0.05}
    async with bench.running():
        await bench.client.create(PODS, p)
        p = await bench.until(lambda p: state(p)["state"].get("running"))
        assert not state(p)["ready"]
        answers["code"] = 0
        p = await bench.until(lambda p: (condition(p, "ContainersReady") or {}).get("status") == "True")
        assert condition(p, "Ready")["reason"] == "ReadinessGatesNotReady"
        gate = {"status": {"conditions": [{"type": "example.com/gate", "status": "True"}]}}
        await bench.client.patch(PODS, "web", gate, "default", kind="strategic", subresource="status")
        await bench.ready()


async def test_a_new_agent_adopts_what_it_finds(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod())
        await bench.client.create(PODS, pod("lost"))
        await bench.ready()
        await bench.ready("lost")
    before = await bench.container()
    requests = len(bench.client.requests)
    await bench.client.delete(PODS, "lost", "default", grace_period_s=0)  # while no agent looks
    async with bench.running():
        async with asyncio.timeout(5):
            while len(await bench.runtime.sandboxes()) > 1:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        p = await bench.ready()
        bench.runtime.exit_container(before.spec.id, 1)
        p = await bench.until(lambda p: state(p)["restartCount"] == 1)
        assert p["status"]["podIP"] in {str(a) for ips in bench.network.held.values() for a in ips}
        assert len(bench.network.held) == 1
    writes = [path for verb, path in bench.client.requests[requests:] if verb == "create"]
    assert not [w for w in writes if w.startswith("pods")]


async def test_agent_restart_while_nothing_happens_writes_no_pod_status(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod())
        await bench.ready()
    requests = len(bench.client.requests)
    async with bench.running():
        await asyncio.sleep(0.1)
    assert not [r for r in bench.client.requests[requests:] if r[1].startswith("pods/default")]


async def test_lost_sandbox_is_made_anew(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod())
        await bench.ready()
        [old] = await bench.runtime.sandboxes()
        await bench.runtime.stop_sandbox(old.spec.id)
        for worker in bench.agent.workers.values():
            worker.lose_sandbox()
        await bench.until(lambda p: state(p)["restartCount"] == 1 and state(p)["ready"])
        [new] = await bench.runtime.sandboxes()
        assert new.spec.id != old.spec.id
        assert len(bench.network.held) == 1
        await bench.events("SandboxChanged")


async def test_machine_restart_keeps_never_pods_ended(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod(restartPolicy="Never"))
        await bench.client.create(PODS, pod("again"))
        await bench.ready()
        await bench.ready("again")
    bench.runtime, bench.network = FakeRuntime(), FakeNetwork()  # everything was killed
    async with bench.running():
        p = await bench.until(lambda p: p["status"]["phase"] == "Failed")
        assert state(p)["state"]["terminated"]["reason"] == "ContainerStatusUnknown"
        p = await bench.until(lambda p: state(p)["restartCount"] == 1 and is_ready(p), "again")


async def test_lost_sandbox_ends_a_pod_that_is_never_restarted(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod(restartPolicy="Never"))
        await bench.ready()
        [old] = await bench.runtime.sandboxes()
        await bench.runtime.stop_sandbox(old.spec.id)
        for worker in bench.agent.workers.values():
            worker.lose_sandbox()
        await bench.until(lambda p: p["status"]["phase"] == "Failed")
        assert len(await bench.runtime.sandboxes()) == 1


async def test_a_pod_that_ended_while_no_agent_looked_is_not_run_again(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod(restartPolicy="Never"))
        await bench.ready()
    [old] = await bench.runtime.sandboxes()
    bench.runtime.exit_container((await bench.container()).spec.id, 0)
    await bench.runtime.stop_sandbox(old.spec.id)  # the old agent got this far, but not to the status
    async with bench.running():
        await bench.until(lambda p: p["status"]["phase"] == "Succeeded")
        await asyncio.sleep(0.05)
        assert len(await bench.runtime.containers()) == 1
        assert bench.network.held == {}


async def test_on_ready_comes_when_the_node_is_ready(bench: Bench):
    bench.network.problem = "no bridge"
    seen: list[str] = []

    def on_ready() -> None:
        [node] = bench.client.objects(NODES).values()
        seen.append("ready" if is_ready(node) and not node["spec"].get("taints") else "too early")

    task = asyncio.create_task(agent.run(bench.config, bench.client, bench.runtime, bench.network, on_ready=on_ready))
    await asyncio.sleep(0.1)
    assert seen == []
    bench.network.problem = ""
    async with asyncio.timeout(5):
        while not seen:
            await asyncio.sleep(0.01)
    assert seen == ["ready"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_foreign_node_conditions_are_left_alone(bench: Bench):
    async with bench.running():
        async with asyncio.timeout(5):
            while not bench.client.objects(NODES):
                await asyncio.sleep(0.01)
        foreign = {"status": {"conditions": [{"type": "NetworkUnavailable", "status": "False"}]}}
        await bench.client.patch(NODES, "node-0", foreign, kind="strategic", subresource="status")
        bench.network.problem = "cut"
        bench.agent.heartbeat._node.network_problem = "cut"
        bench.agent.heartbeat._changed.set()
        async with asyncio.timeout(5):
            while True:
                [node] = bench.client.objects(NODES).values()
                if not is_ready(node):
                    break
                await asyncio.sleep(0.01)
        assert condition(node, "NetworkUnavailable")["status"] == "False"


async def test_a_deleted_node_object_is_made_again(bench: Bench):
    async with bench.running():
        async with asyncio.timeout(5):
            while not bench.client.objects(NODES):
                await asyncio.sleep(0.01)
            await bench.client.delete(NODES, "node-0")
            while not bench.client.objects(NODES):
                await asyncio.sleep(0.01)


async def test_active_deadline(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod(activeDeadlineSeconds=1))
        p = await bench.until(lambda p: p["status"]["phase"] == "Failed")
    assert p["status"]["reason"] == "DeadlineExceeded"


async def test_hooks(bench: Bench):
    p = pod()
    p["spec"]["containers"][0]["lifecycle"] = {
        "postStart": {"exec": {"command": ["hello"]}},
        "preStop": {"exec": {"command": ["goodbye"]}},
    }
    async with bench.running():
        await bench.client.create(PODS, p)
        await bench.ready()
        await bench.client.delete(PODS, "web", "default")
        await bench.gone()
    assert [command for _, command in bench.runtime.executed] == [("hello",), ("goodbye",)]


async def test_ephemeral_container_is_added(bench: Bench):
    async with bench.running():
        await bench.client.create(PODS, pod())
        p = await bench.ready()
        p["spec"]["ephemeralContainers"] = [{"name": "debug", "image": "busybox", "command": ["sh"]}]
        await bench.client.update(PODS, p, "ephemeralcontainers")
        p = await bench.until(lambda p: state(p, "debug", "ephemeralContainerStatuses")["state"].get("running"))
        assert is_ready(p)


async def test_many_pods(bench: Bench):
    bench.config = replace(bench.config, max_pods=300)
    async with bench.running():
        for i in range(100):
            await bench.client.create(PODS, pod(f"p{i}"))
        for i in range(100):
            await bench.ready(f"p{i}")
        addresses = [ip for ips in bench.network.held.values() for ip in ips]
        assert len(set(addresses)) == 100
