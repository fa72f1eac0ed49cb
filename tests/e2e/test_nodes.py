"""Nodes that fail: the cluster notices, and heals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from labkit import Lab, eventually

from podwire.model.objects import condition, is_ready

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def frail(new_lab: Callable[..., Lab]) -> Lab:
    """Two nodes with a pod each."""
    lab = new_lab("frail", "--nodes", "2")
    for index in range(2):
        lab.apply(
            f"""
apiVersion: v1
kind: Pod
metadata: {{name: p{index}}}
spec:
  nodeName: node-{index}
  terminationGracePeriodSeconds: 1
  containers: [{{name: web, image: nginx, ports: [{{containerPort: 80}}]}}]
"""
        )
    lab.wait("condition=Ready", "pod/p0", "pod/p1")
    return lab


def test_node_commands(frail: Lab) -> None:
    assert frail.node("node-1", "hostname").strip() == "node-1"
    assert frail.podwire("node", "node-1", "--", "false", check=False).returncode == 1
    assert frail.podwire("node", "node-1", "--", "no-such-program", check=False).returncode == 127
    unknown = frail.podwire("node", "node-9", "--", "true", check=False)
    assert "there are: node-0, node-1" in unknown.stderr


def test_a_killed_agent_comes_back_and_its_pods_never_left(frail: Lab) -> None:
    before = frail.get("pod", "p1")
    started = before["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    frail.kill("node-1-agent")
    eventually(lambda: frail.process("node-1-agent")["ready"], timeout_s=15)
    after = frail.get("pod", "p1")
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0
    assert after["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] == started
    assert "p1" in frail.exec("p0", "curl", "-s", "-m", "5", f"http://{frail.pod_ip('p1')}")
    frail.kubectl("run", "after", "--image", "nginx", '--overrides={"spec":{"nodeName":"node-1"}}')
    frail.wait("condition=Ready", "pod/after")


def test_a_killed_api_server_comes_back_with_everything(frail: Lab) -> None:
    frail.kubectl("create", "configmap", "written", "--from-literal=a=b")
    frail.kill("apiserver")
    eventually(lambda: frail.out("get", "configmap", "written", "-o", "jsonpath={.data.a}") == "b")
    frail.kubectl("run", "later", "--image", "nginx")
    frail.wait("condition=Ready", "pod/later")


def test_cut_and_heal(frail: Lab) -> None:
    target = f"http://{frail.pod_ip('p1')}"
    frail.podwire("node", "cut", "node-1")
    assert "p1" not in frail.exec("p0", "curl", "-s", "-m", "1", target, check=False)
    frail.podwire("node", "heal", "node-1")
    eventually(lambda: "p1" in frail.exec("p0", "curl", "-s", "-m", "1", target, check=False))


def test_a_node_that_is_powered_off_is_not_ready_and_boots_again(frail: Lab) -> None:
    frail.podwire("node", "stop", "node-1")

    def gone() -> bool:
        ready = condition(frail.get("node", "node-1"), "Ready")
        return ready is not None and ready["status"] == "Unknown"

    eventually(gone, timeout_s=60, every_s=1)
    taints = {t["key"] for t in frail.get("node", "node-1")["spec"].get("taints", [])}
    assert "node.kubernetes.io/unreachable" in taints
    frail.podwire("node", "start", "node-1")
    eventually(lambda: is_ready(frail.get("node", "node-1")))
    eventually(lambda: is_ready(frail.get("pod", "p1")), timeout_s=30)
    assert "p1" in frail.exec("p0", "curl", "-s", "-m", "5", f"http://{frail.pod_ip('p1')}")
