"""The guides of seeds/000 to 003: what they print of pods, Services, DNS and troubleshooting."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from labkit import Lab, eventually

pytestmark = pytest.mark.e2e

TWO_PODS = """
apiVersion: v1
kind: Pod
metadata: {name: pod-a, labels: {app: a}}
spec:
  nodeName: node-0
  containers: [{name: tools, image: nicolaka/netshoot, command: [sleep, "3600"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: pod-b, labels: {app: b}}
spec:
  nodeName: node-1
  containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: service-name}
spec:
  selector: {app: b}
  ports: [{port: 80, targetPort: 80}]
"""


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[Lab]:
    """pod-a on node-0, pod-b with a web server on node-1, a Service before it."""
    lab.apply(TWO_PODS)
    lab.wait("condition=Ready", "pod/pod-a", "pod/pod-b")
    yield lab
    lab.kubectl("delete", "pod/pod-a", "pod/pod-b", "svc/service-name", "--grace-period=0", "--force", check=False)


def test_ping_across_nodes(pods: Lab) -> None:
    answer = pods.exec("pod-a", "ping", "-c", "3", "-i", "0.2", pods.pod_ip("pod-b"))
    assert "3 packets transmitted, 3 received, 0% packet loss" in answer


def test_curl_a_service(pods: Lab) -> None:
    def answered() -> bool:
        return "pod-b" in pods.exec("pod-a", "curl", "-s", "-m", "5", "http://service-name:80", check=False)

    eventually(answered)
    assert "200 OK" in pods.kubectl("exec", "pod-a", "--", "curl", "-sv", "http://service-name").stderr
    cluster_ip = pods.out("get", "svc", "service-name", "-o", "jsonpath={.spec.clusterIP}")
    assert "pod-b" in pods.exec("pod-a", "curl", "-s", f"{cluster_ip}:80")


def test_no_nat_between_pods(pods: Lab) -> None:
    answer = pods.exec("pod-a", "curl", "-s", f"http://{pods.pod_ip('pod-b')}/clientip")
    assert pods.pod_ip("pod-a") in answer


def test_a_node_reaches_every_pod(pods: Lab) -> None:
    for node in ("node-0", "node-1", "node-2"):
        assert "pod-b" in pods.node(node, "curl", "-s", "-m", "5", f"http://{pods.pod_ip('pod-b')}")


def test_endpoints(pods: Lab) -> None:
    def listed() -> bool:
        line = pods.out("get", "endpoints", "service-name").splitlines()[1]
        return re.match(rf"service-name +{re.escape(pods.pod_ip('pod-b'))}:80 ", line) is not None

    eventually(listed)
    slices = pods.get("endpointslices", "-l", "kubernetes.io/service-name=service-name")["items"]
    assert [e["addresses"] for s in slices for e in s["endpoints"]] == [[pods.pod_ip("pod-b")]]


def test_pod_sees_its_network(pods: Lab) -> None:
    shown = pods.exec("pod-a", "ip", "addr", "show")
    assert "lo: <LOOPBACK,UP,LOWER_UP> mtu 65536" in shown
    assert re.search(r"eth0@if\d+: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP", shown), shown
    ip = pods.pod_ip("pod-a")
    assert f"inet {ip}/24 brd {ip.rsplit('.', 1)[0]}.255 scope global eth0" in shown
    assert "eth0:" in pods.exec("pod-a", "cat", "/proc/net/dev")


def test_describe_and_lists(pods: Lab) -> None:
    described = pods.out("describe", "pod", "pod-b")
    assert "Started container web" in described or "Started" in described
    assert "service-name" in pods.out("get", "svc")
    assert "coredns" in pods.out("get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")
    pods.kubectl("logs", "-n", "kube-system", "-l", "k8s-app=kube-dns")
    assert pods.kubectl("get", "networkpolicies", "--all-namespaces").returncode == 0


def test_nslookup_from_a_throw_away_pod(pods: Lab) -> None:
    pods.apply(
        """
apiVersion: v1
kind: Namespace
metadata: {name: monitoring}
---
apiVersion: v1
kind: Service
metadata: {name: grafana, namespace: monitoring}
spec: {ports: [{port: 3000}]}
"""
    )
    ip = pods.out("get", "svc", "-n", "monitoring", "grafana", "-o", "jsonpath={.spec.clusterIP}")

    def asked() -> bool:
        words = ("run", "dnsutils", "--image=tutum/dnsutils", "-i", "--rm", "--restart=Never", "--quiet", "--")
        return ip in pods.kubectl(*words, "nslookup", "grafana.monitoring", check=False).stdout

    assert eventually(asked, timeout_s=30)
    answer = pods.exec("pod-a", "nslookup", "kubernetes.default.svc.cluster.local")
    assert "10.96.0.1" in answer


def test_custom_dns(pods: Lab) -> None:
    pods.apply(
        """
apiVersion: v1
kind: Pod
metadata: {name: custom-dns-pod}
spec:
  dnsPolicy: "None"
  dnsConfig:
    nameservers: [8.8.8.8, 1.1.1.1]
    searches: [mycompany.com, example.com]
    options: [{name: ndots, value: "2"}, {name: edns0}]
  containers: [{name: app, image: busybox, command: [sleep, "3600"]}]
"""
    )
    pods.wait("condition=Ready", "pod/custom-dns-pod")
    assert pods.exec("custom-dns-pod", "cat", "/etc/resolv.conf").splitlines() == [
        "search mycompany.com example.com",
        "nameserver 8.8.8.8",
        "nameserver 1.1.1.1",
        "options ndots:2 edns0",
    ]
    pods.kubectl("delete", "pod", "custom-dns-pod", "--grace-period=0", "--force", check=False)


def test_stateful_set_names(pods: Lab) -> None:
    pods.apply(
        """
apiVersion: v1
kind: Service
metadata: {name: custom-dns-service}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {app: myapp}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web-statefulset}
spec:
  serviceName: custom-dns-service
  replicas: 3
  selector: {matchLabels: {app: myapp}}
  template:
    metadata: {labels: {app: myapp}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]
"""
    )
    pods.kubectl("rollout", "status", "statefulset/web-statefulset", "--timeout=60s", timeout_s=70)
    for index in range(3):
        ip = pods.pod_ip(f"web-statefulset-{index}")
        name = f"web-statefulset-{index}.custom-dns-service.default.svc.cluster.local"
        eventually(lambda name=name, ip=ip: pods.exec("pod-a", "dig", "+short", name).strip() == ip)
    pods.kubectl("delete", "statefulset/web-statefulset", "svc/custom-dns-service")


def test_policies_and_ingresses_of_the_guides_are_accepted(pods: Lab, namespace: str) -> None:
    pods.kubectl("apply", "-n", namespace, "-f", "-", stdin=POLICIES)
    described = pods.out("describe", "networkpolicy", "-n", namespace, "test-policy")
    assert "PodSelector:" in described
    assert "example.com" in pods.out("describe", "ingress", "-n", namespace, "my-ingress")


POLICIES = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: test-policy}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-frontend}
spec:
  podSelector: {matchLabels: {tier: frontend}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {tier: backend}}}]
    ports: [{protocol: TCP, port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: my-ingress}
spec:
  rules:
  - host: example.com
    http:
      paths:
      - {path: /api, pathType: Prefix, backend: {service: {name: api-service, port: {number: 80}}}}
      - {path: /web, pathType: Prefix, backend: {service: {name: web-service, port: {number: 80}}}}
"""


def test_node_troubleshooting(pods: Lab) -> None:
    assert "cni0" in pods.node("node-0", "ip", "addr")
    assert "10.244.1.0/24" in pods.node("node-0", "sh", "-c", "ip route show | grep 10.244")
    pods.node("node-0", "iptables", "-t", "nat", "-L", "-n")


def test_tcpdump_sees_dns(pods: Lab) -> None:
    command = (
        "timeout 8 tcpdump -c 2 -l -n -i any port 53 2>/dev/null & sleep 0.7; nslookup kubernetes >/dev/null; wait"
    )
    assert re.search(r"10\.96\.0\.10\.53: \d+\+", pods.exec("pod-a", "sh", "-c", command))


def test_top(pods: Lab) -> None:
    def shown() -> bool:
        nodes = pods.kubectl("top", "nodes", check=False).stdout
        return "node-0" in nodes and "pod-a" in pods.kubectl("top", "pods", check=False).stdout

    eventually(shown, timeout_s=30)
