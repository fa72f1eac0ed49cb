"""The guide of seeds/004 (network model, flannel, utilities, Services, DNS), command by command."""

from __future__ import annotations

import json
import re

import pytest
from labkit import Lab, eventually

pytestmark = pytest.mark.e2e

NET_TOOLS = "docker.io/qqbuby/net-tools:2.3"


@pytest.fixture(scope="module")
def net_tools(lab: Lab) -> str:
    """The guide's debugging Deployment; returns its pod's name."""
    lab.kubectl(
        "create", "-n", "default", "deployment", "net-tools", "--image", NET_TOOLS, "--", "tail", "-f", "/dev/null"
    )
    lab.wait("condition=Available", "deployment/net-tools")
    return lab.out("get", "po", "-l", "app=net-tools", "-o", "jsonpath={.items[0].metadata.name}")


def test_flannel_configuration(lab: Lab) -> None:
    net = json.loads(
        lab.out("get", "cm", "-n", "kube-flannel", "kube-flannel-cfg", r"-ojsonpath={.data.net-conf\.json}")
    )
    assert net["Network"] == "10.244.0.0/16"
    assert net["EnableNFTables"] in (True, False)
    assert net["Backend"]["Type"] == "vxlan"
    cni = json.loads(
        lab.out("get", "cm", "-n", "kube-flannel", "kube-flannel-cfg", r"-ojsonpath={.data.cni-conf\.json}")
    )
    assert cni["name"] == "cbr0"
    assert cni["plugins"][0]["type"] == "flannel"
    assert cni["plugins"][0]["delegate"] == {"hairpinMode": True, "isDefaultGateway": True}


def test_subnet_env(lab: Lab, net_tools: str) -> None:
    assert lab.node("node-0", "cat", "/run/flannel/subnet.env").splitlines() == [
        "FLANNEL_NETWORK=10.244.0.0/16",
        "FLANNEL_SUBNET=10.244.0.1/24",
        "FLANNEL_MTU=1450",
        "FLANNEL_IPMASQ=true",
    ]


def test_bridge_of_the_node(lab: Lab, net_tools: str) -> None:
    node = lab.out("get", "pod", net_tools, "-o", "jsonpath={.spec.nodeName}")
    shown = lab.node(node, "ip", "a", "s", "cni0")
    assert re.search(r"cni0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP", shown), shown
    index = node.removeprefix("node-")
    assert f"inet 10.244.{index}.1/24 brd 10.244.{index}.255 scope global cni0" in shown


def test_nodes_wide(lab: Lab) -> None:
    lines = lab.out("get", "nodes", "-owide").splitlines()
    assert lines[0].split() == (
        [
            "NAME",
            "STATUS",
            "ROLES",
            "AGE",
            "VERSION",
            "INTERNAL-IP",
            "EXTERNAL-IP",
            "OS-IMAGE",
            "KERNEL-VERSION",
            "CONTAINER-RUNTIME",
        ]
    )
    for index, line in enumerate(lines[1:]):
        assert re.match(rf"node-{index} +Ready +\S+ +\S+ +v1\.\d+\.\S+ +192\.168\.71\.1{index} +<none> ", line), line


def test_routes_of_the_nodes(lab: Lab) -> None:
    routes = lab.node("node-0", "ip", "r").splitlines()
    assert "default via 192.168.71.1 dev eth0" in [r.strip() for r in routes]
    assert "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink" in [r.strip() for r in routes]
    assert "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink" in [r.strip() for r in routes]


def test_vxlan_device(lab: Lab) -> None:
    shown = lab.node("node-0", "ip", "a", "show", "flannel.1")
    assert re.search(r"flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN", shown), shown
    assert "inet 10.244.0.0/32 scope global flannel.1" in shown
    detail = lab.node("node-0", "ip", "-d", "link", "show", "flannel.1")
    assert "vxlan id 1" in detail
    assert "dstport 8472" in detail
    assert "nolearning" in detail


def test_pod_name_is_a_replica_sets(lab: Lab, net_tools: str) -> None:
    assert re.fullmatch(r"net-tools-[bcdf-hj-np-tv-xz2456789]{6,10}-[bcdf-hj-np-tv-xz2456789]{5}", net_tools)
    assert lab.out("get", "po", "-l", "app=net-tools").splitlines()[0].split() == [
        "NAME",
        "READY",
        "STATUS",
        "RESTARTS",
        "AGE",
    ]


def test_routes_of_a_pod(lab: Lab, net_tools: str) -> None:
    ip = lab.pod_ip(net_tools)
    subnet = ip.rsplit(".", 1)[0]
    assert sorted(line.strip() for line in lab.exec(net_tools, "ip", "r").splitlines()) == [
        f"10.244.0.0/16 via {subnet}.1 dev eth0",
        f"{subnet}.0/24 dev eth0 proto kernel scope link src {ip}",
        f"default via {subnet}.1 dev eth0",
    ]


def test_dig_search_kubernetes(lab: Lab, net_tools: str) -> None:
    answer = lab.exec(net_tools, "dig", "+search", "kubernetes")
    assert "status: NOERROR" in answer
    assert re.search(r"flags: qr aa rd( ra)?; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 1", answer), answer
    assert re.search(
        r"^kubernetes\.default\.svc\.cluster\.local\. \d+ IN A 10\.96\.0\.1$", re.sub(r"\t+", " ", answer), re.M
    ), answer
    assert "SERVER: 10.96.0.10#53" in answer


def test_node_port_service(lab: Lab) -> None:
    lab.apply(
        """
apiVersion: v1
kind: Service
metadata: {name: my-service}
spec:
  type: NodePort
  ports: [{port: 80, targetPort: 9376}]
"""
    )
    line = lab.out("get", "svc", "my-service").splitlines()[1]
    assert re.match(r"my-service +NodePort +10\.\d+\.\d+\.\d+ +<none> +80:3\d{4}/TCP ", line), line
    lab.kubectl("delete", "svc", "my-service")


def test_external_name(lab: Lab, net_tools: str) -> None:
    lab.apply(
        """
apiVersion: v1
kind: Service
metadata: {name: httpbin-org}
spec: {type: ExternalName, externalName: httpbin.org}
"""
    )
    line = lab.out("get", "svc", "httpbin-org").splitlines()[1]
    assert re.match(r"httpbin-org +ExternalName +<none> +httpbin\.org +<none> ", line), line

    def asked() -> bool:
        return lab.exec(net_tools, "dig", "+search", "+short", "httpbin-org", "CNAME").strip() == "httpbin.org."

    eventually(asked)


def test_service_without_selector(lab: Lab) -> None:
    lab.apply(
        """
apiVersion: v1
kind: Service
metadata: {name: by-hand}
spec:
  ports: [{protocol: TCP, port: 80, targetPort: 9376}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: by-hand-1
  labels: {kubernetes.io/service-name: by-hand}
addressType: IPv4
ports: [{name: '', appProtocol: http, protocol: TCP, port: 9376}]
endpoints:
- addresses: ["10.4.5.6"]
- addresses: ["10.1.2.3"]
"""
    )
    assert [
        s["metadata"]["name"] for s in lab.get("endpointslices", "-l", "kubernetes.io/service-name=by-hand")["items"]
    ] == ["by-hand-1"]
    lab.kubectl("delete", "svc/by-hand", "endpointslice/by-hand-1")


def test_resolv_conf(lab: Lab, net_tools: str) -> None:
    assert lab.exec(net_tools, "cat", "/etc/resolv.conf").split("\n") == [
        "search default.svc.cluster.local svc.cluster.local cluster.local",
        "nameserver 10.96.0.10",
        "options ndots:5",
        "",
    ]


def test_srv_name_and_pod_name(lab: Lab, net_tools: str) -> None:
    answer = lab.exec(net_tools, "nslookup", "_https._tcp.kubernetes")
    assert re.search(
        r"Name:\s+_https\._tcp\.kubernetes\.default\.svc\.cluster\.local\s+Address: 10\.96\.0\.1", answer
    ), answer
    ip = lab.pod_ip(net_tools)
    answer = lab.exec(net_tools, "nslookup", f"{ip.replace('.', '-')}.default.pod")
    assert re.search(rf"Name:\s+{ip.replace('.', '-')}\.default\.pod\.cluster\.local\s+Address: {ip}", answer), answer


def test_proxy_mode(lab: Lab) -> None:
    assert lab.node("node-0", "curl", "-s", "localhost:10249/proxyMode").strip() == "nftables"
