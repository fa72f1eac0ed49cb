"""What people do with kubectl, with each kubectl found: Debian's 1.20, others beside it, and the PATH's.

A version that is not on this machine is skipped, with the places that were looked at. More places:
``PODWIRE_KUBECTLS=DIRECTORY:DIRECTORY``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from labkit import Lab

MINORS = (20, 27, 28, 29, 30, 31, 32, 33)
THOROUGH = (20, 28, 33)
"""The oldest, the last that reads the server's schemas in protobuf, and one that streams over WebSocket."""
PLACES = (*filter(None, os.environ.get("PODWIRE_KUBECTLS", "").split(":")), "/usr/lib/google-cloud-sdk/bin")

CONFIG = """
apiVersion: v1
kind: ConfigMap
metadata: {name: colours}
data: {sky: blue}
"""
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""
TOOL = """
apiVersion: v1
kind: Pod
metadata: {name: tool}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: tool, image: busybox, command: [sleep, "600"]}]}
"""
KIND = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: GROUP}
spec:
  group: GROUP_OF
  scope: Namespaced
  names: {plural: robots, kind: Robot}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer}, port: {x-kubernetes-int-or-string: true}}}
"""


@dataclass(frozen=True)
class Kubectl:
    """One kubectl, working in one namespace of a lab."""

    path: str
    minor: int
    lab: Lab
    namespace: str

    @property
    def cache(self) -> str:
        """Where it keeps what it knows of the server; before 1.26 the environment cannot say."""
        return str(self.lab.home / "kubectl-cache" / self.namespace)

    def __call__(self, *words: str, stdin: str = "", code: int = 0, editor: str = "false") -> str:
        """Return what it prints on both streams; fail when it ends with another code."""
        environment = self.lab.environment | {"KUBE_EDITOR": editor}
        done = subprocess.run(
            [self.path, "--cache-dir", self.cache, "-n", self.namespace, *words],
            env=environment, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=40, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{' '.join(words)} -> {done.returncode}\n{done.stdout}"
        return done.stdout

    def first_line(self, *words: str) -> tuple[subprocess.Popen[str], str]:
        """Return a command left running, and the first line that it prints."""
        process = subprocess.Popen(
            [self.path, "--cache-dir", self.cache, "-n", self.namespace, *words],
            env=self.lab.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        return process, process.stdout.readline()


@cache
def minor_of(path: str) -> int | None:
    """Return N of a kubectl 1.N; None when there is none or it does not run."""
    try:
        done = subprocess.run([path, "version", "--client", "-o", "json"], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return int(re.match(r"\d+", json.loads(done.stdout)["clientVersion"]["minor"])[0])  # type: ignore[index]


def find(wanted: int | str) -> tuple[str, int]:
    """Return path and minor version of a kubectl, or skip."""
    on_path = shutil.which("kubectl") or "kubectl"
    if wanted == "PATH":
        minor = minor_of(on_path)
        if minor is None or minor in MINORS:
            pytest.skip(f"the PATH's kubectl is {f'1.{minor}, which is tested' if minor else 'absent'}")
        return on_path, minor
    candidates = [f"{place}/{name}" for place in PLACES for name in (f"kubectl.1.{wanted}", "kubectl")]
    for path in (*candidates, on_path):
        if (Path(path).exists() or path == on_path) and minor_of(path) == wanted:
            return path, int(wanted)
    pytest.skip(f"no kubectl 1.{wanted} in {', '.join(PLACES)} or on the PATH")


@pytest.fixture
def kubectl(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """The kubectl of the test's parameter, in a namespace of the test's own."""
    path, minor = find(request.param)
    topic = request.function.__name__.removeprefix("test_").replace("_", "-")
    made = Kubectl(path, minor, lab, f"{topic}-1-{minor}")
    made("create", "namespace", made.namespace)
    yield made
    lab.kubectl("delete", "namespace", made.namespace, "--wait=false", check=False)


def each(*versions: int | str) -> pytest.MarkDecorator:
    """Run the test with each of these versions."""
    names = [v if v == "PATH" else f"1.{v}" for v in versions]
    return pytest.mark.parametrize("kubectl", versions, indirect=True, ids=names)


# command, what is fed to it, what it must print (a regular expression)
Rows = list[tuple[str, str, str]]
STILL = WEB.replace("replicas: 1", "replicas: 0")
MANIFESTS: Rows = [
    ("create -f -", CONFIG, "configmap/colours created"),
    ("apply -f -", STILL, r"deployment.apps/web created\nservice/web created"),
    ("apply -f -", STILL, r"deployment.apps/web unchanged\nservice/web unchanged"),
    ("apply --dry-run=server -f -", STILL, "unchanged .server dry run."),
    ("explain deployment.spec.replicas", "", "Number of desired pods"),
    ("explain pod --recursive", "", "containerPort"),
]
COMMANDS: Rows = [
    ("create -f -", TOOL, "pod/tool created"),
    ("apply -f -", WEB, r"deployment.apps/web created\nservice/web created"),
    ("rollout status deployment/web --timeout=30s", "", "successfully rolled out"),
    ("wait --for=condition=Ready pod --all --timeout=30s", "", "pod/tool condition met"),
    ("get pods -o wide", "", r"NAME +READY +STATUS +RESTARTS +AGE +IP"),
    ("get all", "", "deployment.apps/web +1/1"),
    ("get service web -o yaml", "", "clusterIP: 10"),
    ("label pod tool colour=red", "", "pod/tool labeled"),
    ("get pods -l colour=red --field-selector=status.phase=Running -o name", "", "^pod/tool$"),
    ("annotate service web a=b", "", "service/web annotated"),
    ('patch deployment web -p {"metadata":{"labels":{"a":"b"}}}', "", "patched"),
    ("scale deployment web --replicas=2", "", "scaled"),
    ("set env deployment/web A=b", "", "updated"),
    ("rollout status deployment/web --timeout=30s", "", "successfully rolled out"),
    ("rollout undo deployment/web", "", "rolled back"),
    ("rollout history deployment/web", "", "REVISION"),
    ("describe deployment web", "", r"Selector: +app=web"),
    ("describe pod tool", "", r"Image: +busybox"),
    ("logs deployment/web", "", "listening on 80/tcp"),
    ("top node", "", r"CPU\(cores\)"),
    ("exec -i tool -- cat", "fed", "fed"),
    ("run once --image=busybox --restart=Never --rm -i --quiet -- cat", "hello", "hello"),
    ("auth can-i delete pods", "", "yes"),
    ("cluster-info", "", "running at"),
    ("api-resources --namespaced=false", "", "customresourcedefinitions"),
    ("delete service web", "", 'service "web" deleted'),
]


def run(kubectl: Kubectl, rows: Rows) -> None:
    """Run the commands of a table, one after another."""
    for command, fed, printed in rows:
        answer = kubectl(*command.split(" "), stdin=fed)
        assert re.search(printed, answer), f"{command}\n{answer}"


@each(*MINORS, "PATH")
def test_manifests(kubectl: Kubectl) -> None:
    run(kubectl, MANIFESTS)
    changed = STILL.replace("replicas: 0", "replicas: 3")
    assert re.search(r"\+ +replicas: 3", kubectl("diff", "-f", "-", stdin=changed, code=1))
    assert "edited" in kubectl("edit", "configmap", "colours", editor="sed -i s/blue/grey/")
    assert kubectl("get", "configmap", "colours", "-o", "jsonpath={.data}") == '{"sky":"grey"}'
    assert "unknown field" in kubectl("apply", "-f", "-", stdin=STILL.replace("replicas", "replicaz"), code=1)


@each(*THOROUGH, "PATH")
def test_everyday_commands(kubectl: Kubectl) -> None:
    run(kubectl, COMMANDS)
    assert "code 3" in kubectl("exec", "tool", "--", "sh", "-c", "exit 3", code=3)


@each(*THOROUGH, "PATH")
def test_streams(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl("apply", "-f", "-", stdin=TOOL + "---" + WEB)
    kubectl("wait", "--for=condition=Ready", "pod/tool", "--timeout=30s")
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    sent, back = tmp_path / "sent", tmp_path / "back"
    sent.write_bytes(os.urandom(200_000))
    kubectl("cp", str(sent), "tool:/tmp/there")
    kubectl("cp", "tool:/tmp/there", str(back))
    assert back.read_bytes() == sent.read_bytes()
    process, line = kubectl.first_line("port-forward", "deployment/web", ":80", "--address=127.0.0.1")
    try:
        port = re.search(r"127\.0\.0\.1:(\d+) ->", line)
        assert port, line
        for _ in range(2):
            with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/", timeout=10) as answer:
                assert answer.status == 200
    finally:
        end(process)
    process, line = kubectl.first_line("get", "pod", "tool", "--watch", "-o", "name")
    assert line == "pod/tool\n"
    kubectl("label", "pod", "tool", "seen=yes")
    assert process.stdout is not None
    assert process.stdout.readline() == "pod/tool\n"
    end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End a command and reap it."""
    process.terminate()
    process.communicate(timeout=20)


@each(*THOROUGH, 27, "PATH")
def test_custom_resources(kubectl: Kubectl) -> None:
    group = f"k{kubectl.minor}.example.com"
    robot = f"---\n{{apiVersion: {group}/v1, kind: Robot, metadata: {{name: r}}, spec: {{size: 1, port: http}}}}"
    kubectl("apply", "-f", "-", stdin=KIND.replace("GROUP_OF", group).replace("GROUP", f"robots.{group}"))
    kubectl("wait", "--for=condition=Established", f"crd/robots.{group}", "--timeout=20s")
    assert "created" in kubectl("apply", "-f", "-", stdin=robot)
    assert "configured" in kubectl("apply", "-f", "-", stdin=robot.replace("size: 1", "size: 2"))
    assert re.search(r"size\s+<integer>", kubectl("explain", "robot.spec", "--api-version", f"{group}/v1"))
    assert "unknown field" in kubectl("apply", "-f", "-", stdin=robot.replace("size", "sizzle"), code=1)
    kubectl("delete", "crd", f"robots.{group}")
