"""Read a cluster's objects through its API, as any user of kubectl may."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from podwire.model import resources as r
from podwire.model.errors import BadInput, MachineError, Problem
from podwire.model.resources import Resource
from podwire.verify.located import LIVE, Located

if TYPE_CHECKING:
    from podwire.client.port import Client

_GATEWAY, _POLICY = "gateway.networking.k8s.io", "policy.networking.k8s.io"

NEEDED = (r.NAMESPACES, r.PODS, r.SERVICES, r.NETWORKPOLICIES)
"""Without these there is no answer."""

WELCOME = (
    r.NODES, r.ENDPOINTSLICES, r.DEPLOYMENTS, r.REPLICASETS, r.STATEFULSETS, r.DAEMONSETS, r.JOBS, r.CRONJOBS,
    r.INGRESSES, r.CONFIGMAPS,
    Resource(_POLICY, "v1alpha2", "clusternetworkpolicies", "ClusterNetworkPolicy", namespaced=False),
    Resource(_POLICY, "v1alpha1", "adminnetworkpolicies", "AdminNetworkPolicy", namespaced=False),
    Resource(_POLICY, "v1alpha1", "baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy", namespaced=False),
    Resource(_GATEWAY, "v1", "gateways", "Gateway"),
    Resource(_GATEWAY, "v1", "httproutes", "HTTPRoute"),
)  # fmt: skip
"""These sharpen it. A cluster that does not have them, or does not show them to this user, is read without."""


def find_kubeconfig(chosen: str = "", fallback: Path | None = None) -> Path:
    """Return the kubeconfig: the chosen one, else $KUBECONFIG, else ``fallback``, else ~/.kube/config.

    Raises BadInput when there is none.
    """
    wanted = chosen or os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    places = [Path(wanted)] if wanted else [p for p in (fallback, Path.home() / ".kube" / "config") if p]
    for place in places:
        if place.is_file():
            return place
    shown = ", ".join(map(str, places))
    raise BadInput(Problem("kubeconfig", "", f"none at {shown}; `-f DIR` reads files instead of a cluster"))


def read(kubeconfig: Path, context: str = "") -> tuple[Located, ...]:
    """Return the objects of the cluster. Raises MachineError when it does not answer, BadInput for a bad file."""
    from podwire.client.errors import ApiError
    from podwire.client.http import HttpClient, from_kubeconfig

    access = from_kubeconfig(kubeconfig, context)

    async def act() -> tuple[Located, ...]:
        client = HttpClient(access, user_agent="podwire/verify")
        try:
            return await collect(client)
        finally:
            await client.close()

    try:
        return asyncio.run(act())
    except ApiError as error:
        raise MachineError("verify", "read", f"the cluster at {access.server}", error.message) from None


async def collect(client: Client) -> tuple[Located, ...]:
    """Return what ``client`` shows. Raises ApiError when what is needed cannot be listed."""
    from podwire.client.errors import ApiError, Unavailable

    async def listing(resource: Resource) -> list[Located]:
        try:
            answer = await client.list(resource)
        except Unavailable:
            raise
        except ApiError:
            if resource in NEEDED:
                raise
            return []
        return [Located(item, LIVE) for item in answer.items]

    parts = await asyncio.gather(*(listing(resource) for resource in (*NEEDED, *WELCOME)))
    return tuple(located for part in parts for located in part)
