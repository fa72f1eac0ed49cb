"""up, stop, start, down: what a person expects of them, and what the host must not notice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from labkit import Lab, eventually

pytestmark = pytest.mark.e2e


def host_network() -> tuple[str, ...]:
    """What of the host's network a lab must leave alone."""
    commands = ["ip -j link", "ip -j addr", "ip -j route show table all", "ip -j rule"]
    commands += ["nft list ruleset"] if os.geteuid() == 0 else []
    texts = [subprocess.run(c.split(), capture_output=True, text=True, check=True).stdout for c in commands]
    knobs = [p.read_text() for p in sorted(Path("/proc/sys/net/ipv4").glob("ip_*")) if os.access(p, os.R_OK)]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "podwire" in line]
    return (*texts, *knobs, *mounts)


def descendants(root: int) -> dict[int, str]:
    """A process and all below it: pid and start time."""
    table: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            table[int(entry.name)] = (int(fields[1]), fields[19])
    found, todo = {}, [root]
    while todo:
        pid = todo.pop()
        found[pid] = table[pid][1]
        todo += [child for child, (parent, _) in table.items() if parent == pid]
    return found


def alive(pid: int, started: str) -> bool:
    """Whether that very process still runs. A corpse that the machine's init has yet to reap does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == started and fields[0] != "Z"


def test_the_host_is_as_before(new_lab: Callable[..., Lab]) -> None:
    before = host_network()
    lab = new_lab("guest", "--nodes", "1")
    lab.kubectl("run", "web", "--image", "nginx")
    lab.wait("condition=Ready", "pod/web")
    assert host_network() == before
    lab.podwire("down")
    assert host_network() == before


def test_down_leaves_nothing(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab("brief", "--nodes", "2")
    lab.kubectl("run", "web", "--image", "nginx")
    lab.wait("condition=Ready", "pod/web")
    tree = descendants(json.loads(lab.podwire("status", "-o", "json").stdout)["pid"])
    assert len(tree) > 8
    lab.podwire("down")
    assert not [pid for pid, started in tree.items() if alive(pid, started)]
    assert not (lab.home / "brief").exists()
    assert lab.podwire("down").returncode == 0, "once more is no error"


def test_stop_and_start_keep_every_object(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab("nap", "--nodes", "1")
    lab.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    lab.kubectl("create", "deployment", "web", "--image", "nginx")
    lab.wait("condition=Available", "deployment/web")
    lab.podwire("stop")
    assert json.loads(lab.podwire("status", "-o", "json").stdout)["state"] == "stopped"
    assert lab.kubectl("get", "nodes", check=False).returncode != 0
    lab.podwire("start", timeout_s=90)
    assert lab.out("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"
    lab.wait("condition=Available", "deployment/web")
    pod = lab.get("pods", "-l", "app=web")["items"][0]
    assert pod["status"]["phase"] == "Running"


def test_kill_everything_and_up_again(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab("hurt", "--nodes", "1")
    lab.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    os.kill(json.loads(lab.podwire("status", "-o", "json").stdout)["pid"], signal.SIGKILL)
    eventually(lambda: json.loads(lab.podwire("status", "-o", "json").stdout)["state"] == "stopped")
    lab.podwire("up", "--nodes", "1", timeout_s=90)
    assert lab.out("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"


def test_two_clusters_at_once(new_lab: Callable[..., Lab]) -> None:
    one, two = new_lab("one", "--nodes", "1"), new_lab("two", "--nodes", "1")
    one.kubectl("create", "namespace", "only-in-one")
    assert two.kubectl("get", "namespace", "only-in-one", check=False).returncode != 0
    listed = {c["name"]: c["state"] for c in json.loads(one.podwire("list", "-o", "json", named=False).stdout)}
    assert listed["one"] == listed["two"] == "running"


def test_a_second_up_says_so_and_other_settings_are_refused(lab: Lab) -> None:
    assert "is running already" in lab.podwire("up").stderr
    refused = lab.podwire("up", "--nodes", "7", check=False)
    assert refused.returncode == 2
    assert "nodes: 3, not 7" in refused.stderr
    assert "podwire down --name e2e" in refused.stderr


def test_published_port(new_lab: Callable[..., Lab]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lab = new_lab("open", "--nodes", "1", "--publish", f"127.0.0.1:{port}:svc/default/web:80")
    lab.kubectl("create", "deployment", "web", "--image", "nginx", "--port", "80")
    lab.kubectl("expose", "deployment", "web", "--port", "80")
    lab.wait("condition=Available", "deployment/web")

    def answered() -> bool:
        done = subprocess.run(
            ["curl", "-s", "-m", "2", f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=False
        )
        return "web-" in done.stdout

    eventually(answered)


def test_bad_input_leaves_nothing_half_made(home: Path, tmp_path: Path) -> None:
    lab = Lab("never", home)
    manifest = tmp_path / "web.yaml"

    def refused(*flags: str) -> str:
        done = lab.podwire("up", *flags, check=False)
        assert done.returncode in (1, 2), done.stderr
        assert not (home / "never").exists()
        return done.stderr

    assert "podCIDR: 10.0.0.0/25 is too small" in refused("--pod-cidr", "10.0.0.0/25")
    assert "overlaps serviceCIDR" in refused("--pod-cidr", "10.96.0.0/16")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: the port is in use" in refused("--api-port", str(port))
        assert "the port is in use" in refused("--publish", f"127.0.0.1:{port}:svc/web:80")
    manifest.write_text("a: [")
    assert "is no YAML" in refused("-f", str(manifest))
    manifest.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, imagge: b}]}\n")
    assert "imagge" in refused("-f", str(manifest))
    manifest.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: eighty}]}\n")
    assert "spec.ports.port" in refused("-f", str(manifest))
    assert "cannot be read" in refused("-f", str(tmp_path / "none.yaml"))


def test_a_full_disk_is_named_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    up = f"PODWIRE_HOME={small} {sys.executable} -m podwire up --name full"
    script = f"mount -t tmpfs -o size=100k none {small} && {up}; echo code $?; ls {small}"
    own = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    done = subprocess.run([*own, "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "No space left on device; free some space, or set PODWIRE_HOME" in done.stderr, done.stderr
    assert done.stdout.split() == ["code", "1", "full.failed"], done.stdout


def test_manifests_are_applied(new_lab: Callable[..., Lab], tmp_path: Path) -> None:
    manifest = tmp_path / "shop.yaml"
    manifest.write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: prices, namespace: shop}\ndata: {tea: '2'}\n"
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
    )
    lab = new_lab("shop", "--nodes", "1", "-f", str(manifest))
    assert lab.out("get", "cm", "-n", "shop", "prices", "-o", "jsonpath={.data.tea}") == "2"


@pytest.mark.parametrize("family", ["ipv6", "dual"])
def test_ip_families(new_lab: Callable[..., Lab], family: str) -> None:
    lab = new_lab(family, "--nodes", "2", "--ip-family", family)
    for index in range(2):
        lab.apply(
            f"""
apiVersion: v1
kind: Pod
metadata: {{name: web-{index}, labels: {{app: web}}}}
spec:
  nodeName: node-{index}
  containers: [{{name: web, image: nginx, ports: [{{containerPort: 80}}]}}]
"""
        )
    lab.kubectl("create", "service", "clusterip", "web", "--tcp=80:80")
    lab.wait("condition=Ready", "pod/web-0", "pod/web-1")
    for ip in [i["ip"] for i in lab.get("pod", "web-1")["status"]["podIPs"]]:
        host = f"[{ip}]" if ":" in ip else ip
        assert "web-1" in lab.exec("web-0", "curl", "-s", "-m", "5", f"http://{host}")
    eventually(lambda: "web-" in lab.exec("web-0", "curl", "-s", "-m", "5", "http://web", check=False))


def test_host_gw(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab("routed", "--nodes", "2", "--backend", "host-gw")
    for index in range(2):
        lab.kubectl(
            "run",
            f"p{index}",
            "--image",
            "nginx",
            "--port",
            "80",
            f'--overrides={{"spec":{{"nodeName":"node-{index}"}}}}',
        )
    lab.wait("condition=Ready", "pod/p0", "pod/p1")
    assert "via 192.168.71.11 dev eth0" in lab.node("node-0", "ip", "route", "show", "10.244.1.0/24")
    assert "p1" in lab.exec("p0", "curl", "-s", "-m", "5", f"http://{lab.pod_ip('p1')}")


def test_dry_kernel(new_lab: Callable[..., Lab]) -> None:
    before = [os.path.exists(p) for p in ("/var/lib/podwire", "/var/log/pods")]
    lab = new_lab("dry", "--nodes", "2", "--dry-kernel")
    lab.kubectl("create", "deployment", "web", "--image", "nginx", "--replicas", "2")
    lab.wait("condition=Available", "deployment/web")
    assert lab.get("node", "node-0")["metadata"]["annotations"]["podwire.dev/dry-kernel"] == "true"
    for pod in lab.get("nodes")["items"]:
        assert pod["status"]["addresses"][0]["address"].startswith("127."), "nothing may be sent beyond the machine"
    refused = lab.podwire("node", "node-0", "--", "true", check=False)
    assert refused.returncode == 1
    assert "fake kernel" in refused.stderr
    assert before == [os.path.exists(p) for p in ("/var/lib/podwire", "/var/log/pods")]
