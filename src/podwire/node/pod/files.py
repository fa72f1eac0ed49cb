"""The text files that a pod's containers see: /etc/hosts and /etc/resolv.conf. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from podwire.node.config import Address
from podwire.node.pod.spec import is_host_network

MANAGED_HEADER = "# Kubernetes-managed hosts file.\n"
MANAGED_HEADER_HOST_NETWORK = "# Kubernetes-managed hosts file (host network).\n"
_MAX_SEARCHES, _MAX_NAMESERVERS = 32, 3


def hosts(pod: Mapping[str, Any], addresses: Sequence[Address], hostname: str, fqdn: str) -> str:
    """Return /etc/hosts of a pod with its own network. Other tools look for its first line."""
    lines = [
        MANAGED_HEADER,
        "127.0.0.1\tlocalhost\n",
        "::1\tlocalhost ip6-localhost ip6-loopback\n",
        "fe00::\tip6-localnet\n",
        "fe00::\tip6-mcastprefix\n",
        "fe00::1\tip6-allnodes\n",
        "fe00::2\tip6-allrouters\n",
    ]
    names = f"{fqdn}\t{hostname}" if fqdn and fqdn != hostname else hostname
    lines += [f"{a}\t{names}\n" for a in addresses]
    return "".join(lines) + _aliases(pod)


def host_network_hosts(pod: Mapping[str, Any], node_hosts: str) -> str:
    """Return /etc/hosts of a pod in the node's network: the node's own, and the aliases."""
    return MANAGED_HEADER_HOST_NETWORK + node_hosts + _aliases(pod)


def _aliases(pod: Mapping[str, Any]) -> str:
    aliases = pod["spec"].get("hostAliases") or ()
    if not aliases:
        return ""
    rows = [f"{a['ip']}\t" + "\t".join(a.get("hostnames") or ()) + "\n" for a in aliases]
    return "\n# Entries added by HostAliases.\n" + "".join(rows)


def resolv_conf(pod: Mapping[str, Any], cluster_dns: Sequence[Address], domain: str, node_resolv_conf: str) -> str:
    """Return /etc/resolv.conf for the pod's dnsPolicy and dnsConfig.

    A pod of the host network with ClusterFirst falls back to Default, as does a node without cluster DNS.
    """
    spec = pod["spec"]
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    cluster = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not is_host_network(pod))
    if policy == "None":
        servers, searches, options = _parse("")
    else:
        servers, searches, options = _parse(node_resolv_conf)
        if cluster and cluster_dns:
            namespace = pod["metadata"].get("namespace", "")
            own = [f"{namespace}.svc.{domain}", f"svc.{domain}", domain] if domain else []
            servers, searches = [str(a) for a in cluster_dns], own + searches
            options = {"ndots": "5"}
    config = spec.get("dnsConfig") or {}
    servers = _unique([*servers, *(config.get("nameservers") or ())])[:_MAX_NAMESERVERS]
    searches = _unique([*searches, *(config.get("searches") or ())])[:_MAX_SEARCHES]
    for option in config.get("options") or ():
        options[option["name"]] = option.get("value") or ""
    return _render(servers, searches, options)


def _parse(text: str) -> tuple[list[str], list[str], dict[str, str]]:
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "nameserver" and len(words) > 1:
            servers.append(words[1])
        elif words[0] == "search":
            searches = [w.rstrip(".") or "." for w in words[1:]]
        elif words[0] == "options":
            options.update((w.partition(":")[0], w.partition(":")[2]) for w in words[1:])
    return servers, searches, options


def _render(servers: Sequence[str], searches: Sequence[str], options: Mapping[str, str]) -> str:
    lines = []
    if searches:
        lines.append("search " + " ".join(searches))
    lines += [f"nameserver {s}" for s in servers]
    if options:
        lines.append("options " + " ".join(f"{k}:{v}" if v else k for k, v in options.items()))
    return "".join(line + "\n" for line in lines)


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
