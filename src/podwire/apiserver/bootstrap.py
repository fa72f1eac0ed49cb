"""What a new cluster holds from the start, and what each start of the server puts right."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from podwire.apiserver import rbac_defaults
from podwire.apiserver.core import SYSTEM, Core
from podwire.apiserver.errors import ApiStatusError
from podwire.apiserver.kinds import Kind
from podwire.apiserver.serviceips import Network
from podwire.apiserver.values import RequestContext
from podwire.model.objects import Key, Obj

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_PRIORITIES = {
    "system-cluster-critical": (
        2000000000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    "system-node-critical": (
        2000001000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
}
Address = IPv4Address | IPv6Address


async def bootstrap(core: Core, *, advertise: Address, port: int, networks: Sequence[Network]) -> None:
    """Create what is missing; bring the API's own Service and endpoints up to date."""
    for name in NAMESPACES:
        await _ensure(core, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for obj in rbac_defaults.objects():
        await _ensure(core, obj)
    for name, (value, description) in _PRIORITIES.items():
        await _ensure(
            core,
            {
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": name},
                "value": value,
                "description": description,
            },
        )
    await _ensure(
        core,
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [str(n) for n in networks]},
        },
    )
    await _ensure(core, api_service(networks[0]))
    for obj in api_endpoints(advertise, port):
        await _ensure(core, obj, update=True)


def api_service(network: Network) -> Obj:
    """Return the Service ``kubernetes``: the first address of the range."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": str(network[1]),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
            "type": "ClusterIP",
        },
    }


def api_endpoints(advertise: Address, port: int) -> list[Obj]:
    """Return the EndpointSlice and the Endpoints of the Service ``kubernetes``."""
    ports = [{"name": "https", "port": port, "protocol": "TCP"}]
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": f"IPv{advertise.version}",
            "endpoints": [{"addresses": [str(advertise)], "conditions": {"ready": True}}],
            "ports": ports,
        },
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{"addresses": [{"ip": str(advertise)}], "ports": ports}],
        },
    ]


async def _ensure(core: Core, obj: Obj, *, update: bool = False) -> None:
    kind = _kind_of(core, obj)
    meta = obj["metadata"]
    key = Key(meta.get("namespace", ""), meta["name"])
    ctx = RequestContext(SYSTEM, "create", kind, *key, field_manager="kube-apiserver")
    if core.store.peek(kind.storage, key) is None:
        await core.writes.create(ctx, obj)
    elif update:
        ctx.verb = "update"
        try:
            await core.writes.update(ctx, obj)
        except ApiStatusError as error:
            if error.code != 422:  # an address of another family: the slice's type cannot change
                raise
            await core.writes.delete(ctx, {})
            await core.writes.create(ctx, obj)


def _kind_of(core: Core, obj: Obj) -> Kind:
    group, _, version = obj["apiVersion"].rpartition("/")
    kind = core.registry.find_kind(group, version, obj["kind"])
    assert kind is not None, obj["kind"]
    return kind
