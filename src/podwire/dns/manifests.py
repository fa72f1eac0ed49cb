"""The objects that make the DNS server part of a cluster, as kubeadm would create them."""

from __future__ import annotations

from collections.abc import Sequence

from podwire.model.objects import Obj

IMAGE = "podwire/coredns"
ZONE_PATH = "/etc/coredns/upstream.zone"
_LABELS = {"k8s-app": "kube-dns"}


def corefile(domain: str, ttl_s: int = 30, *, upstream_zone: bool = False) -> str:
    """Return the Corefile of a new cluster. ``upstream_zone``: names of elsewhere come from a file beside it."""
    if upstream_zone:
        text = corefile(domain, ttl_s)
        return text.replace(
            "    forward . /etc/resolv.conf {\n       max_concurrent 1000\n    }\n", f"    file {ZONE_PATH} .\n"
        )
    return f"""\
.:53 {{
    errors
    health {{
       lameduck 5s
    }}
    ready
    kubernetes {domain} in-addr.arpa ip6.arpa {{
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl {ttl_s}
    }}
    prometheus :9153
    forward . /etc/resolv.conf {{
       max_concurrent 1000
    }}
    cache 30
    loop
    reload
    loadbalance
}}
"""


def objects(
    cluster_ips: Sequence[str], domain: str = "cluster.local", replicas: int = 1, upstream_zone: str = ""
) -> list[Obj]:
    """Return the objects of kube-system, in the order in which to create them.

    ``cluster_ips``: the addresses of the Service kube-dns, one per IP family, the primary family first.
    ``upstream_zone``: a zone file's text, which stands in for the internet's DNS.
    """
    config, deployment = _config(domain, upstream_zone), _deployment(replicas)
    if upstream_zone:
        mounted = deployment["spec"]["template"]["spec"]["volumes"][0]["configMap"]["items"]
        mounted.append({"key": "upstream.zone", "path": "upstream.zone"})
    return [_account(), _role(), _role_binding(), config, deployment, _service(cluster_ips)]


def _meta(name: str, *, namespaced: bool = True, **labels: str) -> Obj:
    meta: Obj = {"name": name}
    if namespaced:
        meta["namespace"] = "kube-system"
    if labels:
        meta["labels"] = labels
    return meta


def _account() -> Obj:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta("coredns")}


def _role() -> Obj:
    watch = ["list", "watch"]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": _meta("system:coredns", namespaced=False),
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": watch},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch},
        ],
    }


def _role_binding() -> Obj:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": _meta("system:coredns", namespaced=False),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
    }


def _config(domain: str, upstream_zone: str) -> Obj:
    more = {"upstream.zone": upstream_zone} if upstream_zone else {}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _meta("coredns"),
        "data": {"Corefile": corefile(domain, upstream_zone=bool(upstream_zone)), **more},
    }


def _deployment(replicas: int) -> Obj:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**_meta("coredns"), "labels": dict(_LABELS)},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": dict(_LABELS)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {"metadata": {"labels": dict(_LABELS)}, "spec": _pod_spec()},
        },
    }


def _pod_spec() -> Obj:
    return {
        "priorityClassName": "system-cluster-critical",
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "tolerations": [
            {"key": "CriticalAddonsOnly", "operator": "Exists"},
            {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
        ],
        "containers": [
            {
                "name": "coredns",
                "image": IMAGE,
                "args": ["-conf", "/etc/coredns/Corefile"],
                "ports": [
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                    {"name": "metrics", "containerPort": 9153, "protocol": "TCP"},
                ],
                "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns", "readOnly": True}],
                # kubeadm waits a minute and asks every ten seconds; here the server is up in milliseconds.
                "livenessProbe": {
                    "httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 60,
                    "timeoutSeconds": 5, "failureThreshold": 5,
                },
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
            }
        ],
        "volumes": [
            {
                "name": "config-volume",
                "configMap": {"name": "coredns", "items": [{"key": "Corefile", "path": "Corefile"}]},
            }
        ],
    }  # fmt: skip


def _service(cluster_ips: Sequence[str]) -> Obj:
    families = ["IPv6" if ":" in ip else "IPv4" for ip in cluster_ips]
    labels = {**_LABELS, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            **_meta("kube-dns"),
            "labels": labels,
            "annotations": {"prometheus.io/port": "9153", "prometheus.io/scrape": "true"},
        },
        "spec": {
            "type": "ClusterIP",
            "selector": dict(_LABELS),
            "clusterIP": cluster_ips[0],
            "clusterIPs": list(cluster_ips),
            "ipFamilies": families,
            "ipFamilyPolicy": "SingleStack" if len(families) == 1 else "RequireDualStack",
            "ports": [
                {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"},
                {"name": "metrics", "port": 9153, "targetPort": 9153, "protocol": "TCP"},
            ],
        },
    }
