"""Services as people meet them: rollouts and crashes under load, bad objects, load balancers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable

import pytest
from labkit import Lab, eventually

pytestmark = pytest.mark.e2e

RATE, LOAD_S = 200, 6

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: nginx
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""

# A new connection for every request, sent when its time has come however long the others take.
LOAD = """
import asyncio, collections, json, sys, time
host, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
outcomes = collections.Counter()
async def ask():
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, 80)
            writer.write(b"GET / HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n")
            answer = await reader.read()
            writer.close()
        outcomes["ok" if answer.startswith(b"HTTP/1.1 200") else "bad: " + repr(answer[:60])] += 1
    except Exception as error:
        outcomes[repr(error)] += 1
async def main():
    start, asked = time.monotonic(), []
    while time.monotonic() < start + seconds:
        asked.append(asyncio.create_task(ask()))
        await asyncio.sleep(max(0, start + len(asked) / rate - time.monotonic()))
    await asyncio.gather(*asked)
    print(json.dumps(outcomes))
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def cluster(new_lab: Callable[..., Lab]) -> Lab:
    """A cluster whose agents may be killed, with a web server behind a Service."""
    lab = new_lab("services", "--ip-family", "dual")
    lab.apply(WEB)
    lab.kubectl("create", "configmap", "load", f"--from-literal=load.py={LOAD}")
    lab.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    return lab


def start_load(lab: Lab, name: str, node: str) -> None:
    """Start a pod that asks the Service ``web`` for LOAD_S seconds."""
    address = lab.out("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    command = json.dumps(["/usr/bin/python3", "/load/load.py", address, str(RATE), str(LOAD_S)])
    lab.apply(f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {node}
  restartPolicy: Never
  containers:
  - {{name: load, image: debian, command: {command}, volumeMounts: [{{name: load, mountPath: /load}}]}}
  volumes: [{{name: load, configMap: {{name: load}}}}]
""")
    lab.wait("jsonpath={.status.phase}=Running", f"pod/{name}")


def outcome(lab: Lab, name: str) -> str:
    """Return what the load pod counted, once it has ended."""
    lab.wait("jsonpath={.status.phase}=Succeeded", f"pod/{name}", timeout_s=60)
    return lab.out("logs", name)


def assert_no_failure(counted: str) -> None:
    outcomes = json.loads(counted)
    assert set(outcomes) == {"ok"}, counted
    assert outcomes["ok"] > RATE * LOAD_S / 4


def from_outside(lab: Lab, *command: str) -> str:
    """Return what a command prints on the underlay: a machine beside the nodes; "" when it fails."""
    pid = json.loads(lab.podwire("status", "-o", "json").stdout)["pid"]
    as_user = ["-U", "--preserve-credentials"] if os.getuid() else []
    inside = ["nsenter", "-t", str(pid), "-n", *as_user]
    return subprocess.run([*inside, *command], capture_output=True, text=True, timeout=20, check=False).stdout


def fetch(lab: Lab, url: str) -> str:
    return from_outside(lab, "curl", "-sS", "-m", "2", url)


def test_a_rolling_restart_under_load_fails_no_request(cluster: Lab) -> None:
    start_load(cluster, "load-restart", "node-1")
    before = set(cluster.out("get", "pods", "-l", "app=web", "-o", "name").split())
    cluster.kubectl("rollout", "restart", "deployment/web")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    after = set(cluster.out("get", "pods", "-l", "app=web", "-o", "name").split())
    assert cluster.out("get", "pod", "load-restart", "-o", "jsonpath={.status.phase}") == "Running"
    assert len(after - before) == 4
    assert_no_failure(outcome(cluster, "load-restart"))


def test_killed_agents_under_load_fail_no_request(cluster: Lab) -> None:
    start_load(cluster, "load-kill", "node-0")
    for node in ("node-0", "node-1", "node-2"):
        before = cluster.process(f"{node}-agent")["restarts"]
        cluster.kill(f"{node}-agent")
        eventually(lambda n=node, b=before: cluster.process(f"{n}-agent")["restarts"] > b)
        time.sleep(0.5)
    assert_no_failure(outcome(cluster, "load-kill"))


REFUSED = [
    ("{type: NodePort, ports: [{port: 80, nodePort: 30123}]}", "provided port is already allocated"),
    ("{clusterIP: 172.30.0.041, ports: [{port: 80}]}", "must be a valid IP address"),
    ("{ports: [{port: 0}]}", "must be between 1 and 65535"),
    ("{externalIPs: [127.0.0.1], ports: [{port: 80}]}", "may not be in the loopback range"),
]
SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: bare}}}}
addressType: IPv4
ports: [{{name: "", port: 80}}]
endpoints: [{{addresses: ["{address}"]}}]
"""


def test_bad_objects_harm_nobody_else(cluster: Lab) -> None:
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: %s\n"
    cluster.apply(service % ("first", "{type: NodePort, selector: {app: web}, ports: [{port: 80, nodePort: 30123}]}"))
    for spec, why in REFUSED:
        refused = cluster.kubectl("apply", "-f", "-", stdin=service % ("bad", spec), check=False)
        assert refused.returncode
        assert why in refused.stderr
    cluster.apply(service % ("bare", "{ports: [{port: 80}]}"))
    for address in ("127.0.0.1", "172.30.0.041", "169.254.1.1"):
        text = SLICE.format(name="bad", address=address)
        assert cluster.kubectl("apply", "-f", "-", stdin=text, check=False).returncode
    cluster.apply(SLICE.format(name="bare-own", address="192.168.71.10"))  # the node's own address
    cluster.apply(service % ("good", "{selector: {app: web}, ports: [{port: 80}]}"))
    good = cluster.out("get", "service", "good", "-o", "jsonpath={.spec.clusterIP}")
    for node in ("node-0", "node-2"):
        answer = eventually(lambda n=node: cluster.node(n, "curl", "-sS", "-m", "2", f"http://{good}/", check=False))
        assert "pod: web-" in answer
    assert "pod: web-" in fetch(cluster, "http://192.168.71.12:30123/")


BALANCERS = """
apiVersion: v1
kind: Service
metadata: {name: outer}
spec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  loadBalancerIP: 192.168.71.240
  selector: {app: one}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: foreign, labels: {service.kubernetes.io/service-proxy-name: another}}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: one}}
spec:
  nodeName: node-1
  containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]
"""


def addresses(lab: Lab, name: str) -> list[str]:
    ingress = lab.get("service", name)["status"]["loadBalancer"].get("ingress", [])
    return [i["ip"] for i in ingress]


def announcer(lab: Lab, name: str) -> str:
    return str(lab.get("service", name)["metadata"]["annotations"].get("podwire.dev/announcer", ""))


def test_load_balancers_reach_the_segment_and_move_when_a_node_dies(cluster: Lab) -> None:
    cluster.apply(BALANCERS)
    cluster.wait("condition=Ready", "pod/one")
    four, six = eventually(lambda: addresses(cluster, "outer"))
    assert (four, six) == ("192.168.71.224", "fd00:71::f000")
    assert "pod: web-" in eventually(lambda: fetch(cluster, f"http://{four}/"))
    assert "pod: web-" in eventually(lambda: fetch(cluster, f"http://[{six}]/"))
    # Local: announced from where the pod is, which sees its client's own address
    assert eventually(lambda: announcer(cluster, "local")) == "node-1"
    assert "client: 192.168.71.1:" in eventually(lambda: fetch(cluster, "http://192.168.71.240/"))
    # what an outside balancer would ask
    check = cluster.get("service", "local")["spec"]["healthCheckNodePort"]
    pages = [json.loads(fetch(cluster, f"http://192.168.71.{n}:{check}/")) for n in (10, 11)]
    assert [p["localEndpoints"] for p in pages] == [0, 1]
    assert pages[0]["service"] == {"namespace": "default", "name": "local"}
    codes = [from_outside(cluster, "curl", "-so", "/dev/null", "-w", "%{http_code}", f"http://192.168.71.{n}:{check}/")
             for n in (10, 11)]  # fmt: skip
    assert codes == ["503", "200"]
    # another proxy's Service is left to it
    foreign = cluster.out("get", "service", "foreign", "-o", "jsonpath={.spec.clusterIP}")
    assert cluster.node("node-0", "curl", "-sS", "-m", "1", f"http://{foreign}/", check=False) == ""
    # fail-over
    first = announcer(cluster, "outer")
    cluster.podwire("node", "stop", first)
    eventually(lambda: announcer(cluster, "outer") not in ("", first), timeout_s=30)
    assert "pod: web-" in eventually(lambda: fetch(cluster, f"http://{four}/"))
    assert addresses(cluster, "outer") == [four, six]
    cluster.podwire("node", "start", first)
    # a change of type gives the addresses back
    cluster.kubectl("patch", "service", "outer", "-p", '{"spec":{"type":"ClusterIP"}}')
    eventually(lambda: not addresses(cluster, "outer"))
