"""The same cluster for an ordinary user: user namespaces, no privileges, one mapped id."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from labkit import Lab, eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="run as an ordinary user, all other tests are rootless already"),
]

UID = 61234  # nobody's


@pytest.fixture(scope="module")
def rootless() -> Iterator[Lab]:
    """A cluster of two nodes, brought up by an ordinary user with the interpreter that every user can read."""
    home = Path(tempfile.mkdtemp(prefix="podwire-rootless-"))
    home.chmod(0o755)
    os.chown(home, UID, UID)
    become = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "env", f"HOME={home}")
    lab = Lab("rootless", home, become)
    lab.podwire("up", "--nodes", "2", timeout_s=90)
    yield lab
    lab.podwire("down", check=False)
    shutil.rmtree(home, ignore_errors=True)


def test_pods_services_and_names(rootless: Lab) -> None:
    rootless.kubectl("create", "deployment", "web", "--image", "nginx", "--replicas", "2", "--port", "80")
    rootless.kubectl("expose", "deployment", "web", "--port", "80")
    rootless.kubectl("run", "box", "--image", "busybox", "--", "sleep", "600")
    rootless.wait("condition=Available", "deployment/web")
    rootless.wait("condition=Ready", "pod/box")
    eventually(lambda: "web-" in rootless.exec("box", "curl", "-s", "-m", "3", "http://web", check=False))
    for pod in rootless.get("pods", "-l", "app=web")["items"]:
        assert "1 received" in rootless.exec("box", "ping", "-c1", "-W2", pod["status"]["podIP"])


def test_node_commands_and_packets(rootless: Lab) -> None:
    assert "flannel.1" in rootless.node("node-0", "ip", "route")
    assert "podwire-proxy" in rootless.node("node-0", "nft", "list", "tables")
    command = (
        "timeout 8 tcpdump -c 1 -l -n -i any port 53 2>/dev/null & sleep 0.7; nslookup kubernetes >/dev/null; wait"
    )
    assert re.search(r"10\.96\.0\.10\.53: \d+\+", rootless.exec("box", "sh", "-c", command))


def test_a_user_that_cannot_be_mapped_is_refused_with_the_remedy(rootless: Lab) -> None:
    if "65536" in rootless.node("node-0", "cat", "/proc/self/uid_map"):
        pytest.skip("this user has subordinate ids: every user can be mapped")
    rootless.apply(
        """
apiVersion: v1
kind: Pod
metadata: {name: other}
spec:
  securityContext: {runAsUser: 1234}
  containers: [{name: c, image: busybox, command: [sleep, "600"]}]
"""
    )
    described = eventually(
        lambda: (d := rootless.out("describe", "pod", "other")) and "1234" in d and "uidmap" in d and d
    )
    assert "Failed" in described


def test_the_state_is_the_users_own(rootless: Lab) -> None:
    owners = {os.lstat(p).st_uid for p in (rootless.home / "rootless").rglob("*")}
    assert owners <= {UID}
