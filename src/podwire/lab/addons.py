"""What a cluster holds from its first second: cluster DNS, flannel's ConfigMap, load-balancer addresses,
the kinds of cluster-wide policies."""

from __future__ import annotations

import json

from podwire.client.errors import AlreadyExists
from podwire.client.port import Client
from podwire.lab import underlay
from podwire.lab.config import LabConfig
from podwire.model.loadbalancers import POOLS
from podwire.model.objects import Obj
from podwire.model.resources import (
    CLUSTERROLEBINDINGS,
    CLUSTERROLES,
    CONFIGMAPS,
    CRDS,
    DEPLOYMENTS,
    NAMESPACES,
    SERVICEACCOUNTS,
    SERVICES,
)

_RESOURCES = {
    r.kind: r
    for r in (
        CLUSTERROLEBINDINGS, CLUSTERROLES, CONFIGMAPS, CRDS, DEPLOYMENTS, NAMESPACES, POOLS, SERVICEACCOUNTS, SERVICES,
    )
}  # fmt: skip


def flannel_objects(config: LabConfig) -> list[Obj]:
    """Return the namespace kube-flannel and the ConfigMap that the fabric reads, as flannel's manifest has them."""
    network: Obj = {}
    for cidr in config.pod_cidrs:
        network["Network" if cidr.version == 4 else "IPv6Network"] = str(cidr)
        if cidr.version == 6:
            network["EnableIPv6"] = True
    if 4 not in config.families:
        network["EnableIPv4"] = False
    network |= {"EnableNFTables": True, "Backend": {"Type": config.backend}}
    delegate = {"hairpinMode": True, "isDefaultGateway": True}
    plugins = [
        {"type": "flannel", "delegate": delegate},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    cni = {"name": "cbr0", "cniVersion": "0.3.1", "plugins": plugins}
    labels = {"app": "flannel", "k8s-app": "flannel", "tier": "node"}
    return [
        {
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "kube-flannel", "labels": {"k8s-app": "flannel"}},
        },
        {
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kube-flannel-cfg", "namespace": "kube-flannel", "labels": labels},
            "data": {"net-conf.json": json.dumps(network, indent=2), "cni-conf.json": json.dumps(cni, indent=2)},
        },
    ]  # fmt: skip


async def ensure(client: Client, config: LabConfig) -> None:
    """Create what is missing; what is there stays as a person may have changed it."""
    from podwire.controllers.loadbalancers import manifests as loadbalancers
    from podwire.dns import manifests
    from podwire.policy.crds import read_crds
    from podwire.proxy import modes

    addresses = [str(network[10]) for network in config.service_cidrs]
    pools = [loadbalancers.definition(), loadbalancers.pool("default", underlay.pool_ranges(config))]
    proxy = modes.config_map(config.proxy_mode, config.pod_cidrs)
    dns = manifests.objects(addresses, domain=config.domain, upstream_zone=config.upstream_zone)
    for obj in [*flannel_objects(config), proxy, *dns, *pools, *read_crds()]:
        try:
            await client.create(_RESOURCES[obj["kind"]], obj)
        except AlreadyExists:
            pass
