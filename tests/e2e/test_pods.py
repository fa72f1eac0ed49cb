"""Pods as kubectl users know them: containers, streams, volumes, probes, restarts, workloads."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
from labkit import KUBECTL, Lab, eventually

pytestmark = pytest.mark.e2e


def pod(name: str, spec: str, extra: str = "") -> str:
    """Return a pod's manifest; ``spec`` is YAML indented by two."""
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{extra}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}"


def test_logs_follow_and_previous(lab: Lab, namespace: str) -> None:
    script = "echo first; sleep 0.3; echo second; sleep 1; exit 3"
    lab.kubectl("run", "-n", namespace, "talker", "--image", "busybox", "--", "sh", "-c", script)
    lab.wait("condition=Ready", "-n", namespace, "pod/talker")
    assert lab.out("logs", "-n", namespace, "-f", "talker").split() == ["first", "second"]
    eventually(lambda: lab.out("logs", "-n", namespace, "-p", "talker", check=False).split() == ["first", "second"])
    stamped = lab.out("logs", "-n", namespace, "--timestamps", "--tail=1", "talker")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z (first|second)", stamped)
    status = lab.get("pod", "-n", namespace, "talker")["status"]["containerStatuses"][0]
    assert status["restartCount"] >= 1
    assert status["lastState"]["terminated"]["exitCode"] == 3


def test_exec_exit_codes_streams_and_terminal(lab: Lab, namespace: str) -> None:
    lab.kubectl("run", "-n", namespace, "box", "--image", "busybox", "--", "sleep", "600")
    lab.wait("condition=Ready", "-n", namespace, "pod/box")
    ran = lab.kubectl("exec", "-n", namespace, "box", "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (ran.returncode, ran.stdout, ran.stderr.splitlines()[0]) == (7, "out\n", "err")
    echoed = lab.kubectl("exec", "-n", namespace, "-i", "box", "--", "cat", stdin="x" * 100_000)
    assert echoed.stdout == "x" * 100_000
    words = f"{KUBECTL} exec -n {namespace} -it box -- sh -c 'tty; stty size'"
    done = subprocess.run(
        ["script", "-qec", words, "/dev/null"],
        env=lab.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "/dev/pts/" in done.stdout, done.stdout + done.stderr
    missing = lab.kubectl("exec", "-n", namespace, "box", "--", "no-such-program", check=False)
    assert missing.returncode != 0
    assert "no-such-program" in missing.stderr


def test_containers_of_a_pod_share_localhost_and_keep_the_address(lab: Lab, namespace: str) -> None:
    lab.kubectl(
        "apply", "-n", namespace, "-f", "-",
        stdin=pod("pair", "  containers:\n  - {name: web, image: nginx, ports: [{containerPort: 8080}]}\n"
                          "  - {name: tools, image: busybox, command: [sleep, '600']}\n"),
    )  # fmt: skip
    lab.wait("condition=Ready", "-n", namespace, "pod/pair")
    before = lab.pod_ip("pair", namespace)
    curl = ("exec", "-n", namespace, "pair", "-c", "tools", "--", "curl", "-s", "localhost:8080/hostname")
    assert lab.out(*curl) == "pair"
    lab.kubectl("exec", "-n", namespace, "pair", "-c", "web", "--", "kill", "-TERM", "1", check=False)

    def restarted() -> bool:
        statuses = {s["name"]: s for s in lab.get("pod", "-n", namespace, "pair")["status"]["containerStatuses"]}
        return statuses["web"]["restartCount"] == 1 and statuses["web"]["ready"]

    eventually(restarted, timeout_s=30)
    assert lab.pod_ip("pair", namespace) == before
    assert lab.out(*curl) == "pair"


def test_init_containers_sidecars_and_volumes(lab: Lab, namespace: str) -> None:
    lab.kubectl("create", "-n", namespace, "configmap", "settings", "--from-literal=colour=blue")
    lab.kubectl("create", "-n", namespace, "secret", "generic", "keys", "--from-literal=token=s3cret")
    spec = """\
  initContainers:
  - {name: first, image: busybox, command: [sh, -c, "cat /config/colour > /work/colour"], volumeMounts: [{name: work, mountPath: /work}, {name: config, mountPath: /config}]}
  - {name: side, image: busybox, restartPolicy: Always, command: [sleep, "600"]}
  containers:
  - name: main
    image: busybox
    command: [sleep, "600"]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: SAYS, value: "it is $(COLOUR)"}
    envFrom: [{secretRef: {name: keys}, prefix: KEY_}]
    volumeMounts:
    - {name: work, mountPath: /work}
    - {name: config, mountPath: /config}
    - {name: keys, mountPath: /keys, readOnly: true}
    - {name: info, mountPath: /info}
  volumes:
  - {name: work, emptyDir: {}}
  - {name: config, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
"""
    lab.kubectl("apply", "-n", namespace, "-f", "-", stdin=pod("full", spec, ", labels: {tier: gold}"))
    lab.wait("condition=Ready", "-n", namespace, "pod/full")

    def inside(*command: str) -> str:
        return lab.out("exec", "-n", namespace, "full", "-c", "main", "--", *command)

    assert inside("cat", "/work/colour") == "blue"
    assert inside("sh", "-c", "echo $COLOUR/$POD_IP/$SAYS/$KEY_token") == (
        f"blue/{lab.pod_ip('full', namespace)}/it is blue/s3cret"
    )
    assert inside("cat", "/keys/token") == "s3cret"
    assert inside("cat", "/info/labels") == 'tier="gold"'
    assert inside("sh", "-c", "test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo yes") == "yes"
    row = lab.out("get", "pod", "-n", namespace, "full", "--no-headers").split()
    assert row[1:3] == ["2/2", "Running"], row
    lab.kubectl(
        "create",
        "-n",
        namespace,
        "configmap",
        "settings",
        "--from-literal=colour=red",
        "--dry-run=client",
        "-o",
        "yaml",
    )
    lab.kubectl("patch", "-n", namespace, "configmap", "settings", "-p", '{"data":{"colour":"red"}}')
    eventually(lambda: inside("cat", "/config/colour") == "red", timeout_s=90, every_s=1)


def test_a_pod_reaches_the_api_with_its_token(lab: Lab, namespace: str) -> None:
    lab.kubectl("run", "-n", namespace, "box", "--image", "curlimages/curl", "--command", "--", "sleep", "600")
    lab.wait("condition=Ready", "-n", namespace, "pod/box")
    script = (
        "d=/var/run/secrets/kubernetes.io/serviceaccount; "
        'curl -s -m 5 --cacert $d/ca.crt -H "Authorization: Bearer $(cat $d/token)" https://kubernetes.default.svc'
    )
    assert '"major"' in eventually(lambda: lab.exec("box", "sh", "-c", script + "/version", namespace=namespace))
    denied = lab.exec("box", "sh", "-c", script + "/api/v1/secrets", namespace=namespace)
    assert f"system:serviceaccount:{namespace}:default" in denied
    assert "Forbidden" in denied


def test_probes(lab: Lab, namespace: str) -> None:
    spec = """\
  containers:
  - name: web
    image: nginx
    ports: [{containerPort: 80, name: http}]
    startupProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
    readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1}
    livenessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
"""
    lab.kubectl("apply", "-n", namespace, "-f", "-", stdin=pod("probed", spec))
    lab.wait("jsonpath={.status.phase}=Running", "-n", namespace, "pod/probed")
    assert lab.out("get", "pod", "-n", namespace, "probed", "--no-headers").split()[1] == "0/1"
    lab.kubectl("exec", "-n", namespace, "probed", "--", "touch", "/tmp/ready")
    lab.wait("condition=Ready", "-n", namespace, "pod/probed")
    lab.kubectl("exec", "-n", namespace, "probed", "--", "rm", "/tmp/ready")
    lab.wait("condition=Ready=false", "-n", namespace, "pod/probed")
    assert "Unhealthy" in lab.out("get", "events", "-n", namespace)


def test_crash_loop_back_off(lab: Lab, namespace: str) -> None:
    lab.kubectl("run", "-n", namespace, "crash", "--image", "busybox", "--", "false")
    eventually(lambda: "CrashLoopBackOff" in lab.out("get", "pod", "-n", namespace, "crash"), timeout_s=40)
    lab.kubectl("run", "-n", namespace, "absent", "--image", "busybox", "--", "no-such-program")
    described = eventually(
        lambda: (
            (d := lab.out("describe", "pod", "-n", namespace, "absent"))
            and "no-such-program" in d
            and ("StartError" in d or "RunContainerError" in d)
            and d
        )
    )
    assert "executable file not found" in described


def test_run_it_rm_and_cp_and_attach(lab: Lab, namespace: str, tmp_path: Path) -> None:
    words = ("run", "-n", namespace, "once", "-i", "--rm", "--quiet", "--restart=Never", "--image", "busybox")
    assert lab.kubectl(*words, "--", "sh", "-c", "read x; echo got $x", stdin="hello\n").stdout.startswith("got hello")
    eventually(lambda: lab.kubectl("get", "pod", "-n", namespace, "once", check=False).returncode != 0)
    lab.kubectl("run", "-n", namespace, "box", "--image", "busybox", "--", "sleep", "600")
    lab.wait("condition=Ready", "-n", namespace, "pod/box")
    there, back = tmp_path / "there.bin", tmp_path / "back.bin"
    there.write_bytes(os.urandom(300_000))
    lab.kubectl("cp", "-n", namespace, str(there), "box:/tmp/file.bin")
    lab.kubectl("cp", "-n", namespace, "box:/tmp/file.bin", str(back))
    assert back.read_bytes() == there.read_bytes()


def test_port_forward(lab: Lab, namespace: str) -> None:
    lab.kubectl("run", "-n", namespace, "web", "--image", "nginx", "--port", "80")
    lab.wait("condition=Ready", "-n", namespace, "pod/web")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forward = subprocess.Popen(
        [KUBECTL, "port-forward", "-n", namespace, "pod/web", f"{port}:80"],
        env=lab.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        for _ in range(20):
            done = subprocess.run(
                ["curl", "-s", "-m", "2", f"http://127.0.0.1:{port}/hostname"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.stdout:
                break
            time.sleep(0.2)
        assert done.stdout.strip() == "web"
    finally:
        forward.kill()
        forward.wait()


def test_host_network_and_host_port(lab: Lab, namespace: str) -> None:
    spec = "  nodeName: node-1\n  hostNetwork: true\n  containers: [{name: web, image: nginx, ports: [{containerPort: 8099}]}]\n"
    lab.kubectl("apply", "-n", namespace, "-f", "-", stdin=pod("onhost", spec))
    spec = (
        "  nodeName: node-2\n  containers: [{name: web, image: nginx, ports: [{containerPort: 80, hostPort: 8098}]}]\n"
    )
    lab.kubectl("apply", "-n", namespace, "-f", "-", stdin=pod("porthole", spec))
    lab.wait("condition=Ready", "-n", namespace, "pod/onhost", "pod/porthole")
    assert lab.pod_ip("onhost", namespace) == "192.168.71.11"
    assert lab.node("node-0", "curl", "-s", "-m", "3", "192.168.71.11:8099/hostname").strip() in ("node-1", "onhost")
    assert lab.node("node-0", "curl", "-s", "-m", "3", "192.168.71.12:8098/hostname").strip() == "porthole"


def test_deployment_rollout_scale_and_undo(lab: Lab, namespace: str) -> None:
    n = ("-n", namespace)
    lab.kubectl("create", *n, "deployment", "web", "--image", "nginx:1", "--replicas", "3", "--port", "80")
    lab.kubectl("rollout", "status", *n, "deployment/web", "--timeout=30s")
    lab.kubectl("set", "image", *n, "deployment/web", "nginx=nginx:2")
    lab.kubectl("rollout", "status", *n, "deployment/web", "--timeout=60s", timeout_s=70)
    assert {
        p["spec"]["containers"][0]["image"]
        for p in lab.get("pods", *n)["items"]
        if "deletionTimestamp" not in p["metadata"]
    } == {"nginx:2"}
    lab.kubectl("rollout", "undo", *n, "deployment/web")
    lab.kubectl("rollout", "status", *n, "deployment/web", "--timeout=60s", timeout_s=70)
    lab.kubectl("scale", *n, "deployment/web", "--replicas", "1")
    eventually(lambda: len(lab.get("pods", *n)["items"]) == 1, timeout_s=60)


def test_jobs_and_daemon_sets(lab: Lab, namespace: str) -> None:
    lab.kubectl("create", "-n", namespace, "job", "sum", "--image", "busybox", "--", "sh", "-c", "echo $((2+2))")
    lab.wait("condition=Complete", "-n", namespace, "job/sum")
    assert lab.out("logs", "-n", namespace, "job/sum") == "4"
    lab.kubectl(
        "apply", "-n", namespace, "-f", "-",
        stdin="""
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: every}
spec:
  selector: {matchLabels: {app: every}}
  template:
    metadata: {labels: {app: every}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: web, image: nginx}]}
""",
    )  # fmt: skip
    lab.kubectl("rollout", "status", "-n", namespace, "daemonset/every", "--timeout=30s")
    assert {p["spec"]["nodeName"] for p in lab.get("pods", "-n", namespace, "-l", "app=every")["items"]} == {
        "node-0", "node-1", "node-2",
    }  # fmt: skip


def test_unknown_image_says_what_stands_in_for_it(lab: Lab, namespace: str) -> None:
    lab.kubectl("run", "-n", namespace, "mystery", "--image", "registry.example/acme/engine:7")
    lab.wait("condition=Ready", "-n", namespace, "pod/mystery")
    assert "acme/engine" in eventually(lambda: lab.out("get", "events", "-n", namespace) or "")


def test_namespace_deletion_takes_everything_along(lab: Lab) -> None:
    lab.kubectl("create", "namespace", "doomed")
    lab.kubectl("create", "-n", "doomed", "deployment", "web", "--image", "nginx", "--replicas", "2")
    lab.kubectl("create", "-n", "doomed", "configmap", "x", "--from-literal=a=b")
    lab.kubectl("wait", "-n", "doomed", "--for=condition=Available", "deployment/web", "--timeout=30s")
    lab.kubectl("delete", "namespace", "doomed", "--timeout=60s", timeout_s=70)
    assert lab.kubectl("get", "namespace", "doomed", check=False).returncode != 0
