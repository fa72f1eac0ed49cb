"""The process of all control loops: one client, one informer per resource, every loop beside the other."""

from __future__ import annotations

import asyncio

from podwire.client.port import Client
from podwire.controllers.config import ControllersConfig
from podwire.controllers.cronjobs.agent import CronJobs
from podwire.controllers.daemonsets.agent import DaemonSets
from podwire.controllers.deployments.agent import Deployments
from podwire.controllers.endpoints.agent import EndpointSlices, LegacyEndpoints, MirroredEndpoints
from podwire.controllers.garbage.agent import GarbageCollector
from podwire.controllers.jobs.agent import Jobs
from podwire.controllers.loadbalancers.agent import LoadBalancers
from podwire.controllers.namespaces.agent import NamespaceBirth, NamespaceDeath
from podwire.controllers.nodes.cidr_agent import NodeCidrs
from podwire.controllers.nodes.eviction_agent import TaintEviction
from podwire.controllers.nodes.lifecycle_agent import NodeLifecycle
from podwire.controllers.nodes.pod_agent import PodGarbage
from podwire.controllers.replicasets.agent import ReplicaSets
from podwire.controllers.scheduler.agent import Scheduler
from podwire.controllers.shared import Shared, log
from podwire.controllers.statefulsets.agent import StatefulSets
from podwire.controllers.workload import Loop
from podwire.model.resources import REPLICATIONCONTROLLERS
from podwire.runtime.clock import Clock, SystemClock


def make_loops(shared: Shared) -> list[Loop]:
    """Return every loop, registered with its informers. Raises ValueError for CIDRs that do not fit.

    What a starting cluster needs first comes first: nodes get addresses, namespaces their accounts.
    """
    return [
        NodeCidrs(shared),
        NamespaceBirth(shared),
        Scheduler(shared),
        Deployments(shared),
        ReplicaSets(shared),
        ReplicaSets(shared, REPLICATIONCONTROLLERS),
        DaemonSets(shared),
        StatefulSets(shared),
        Jobs(shared),
        CronJobs(shared),
        EndpointSlices(shared),
        LegacyEndpoints(shared),
        MirroredEndpoints(shared),
        LoadBalancers(shared),
        NodeLifecycle(shared),
        TaintEviction(shared),
        PodGarbage(shared),
        NamespaceDeath(shared),
        GarbageCollector(shared),
    ]


async def run(client: Client, config: ControllersConfig, clock: Clock | None = None) -> None:
    """Run every control loop until cancelled. The client stays the caller's to close."""
    shared = Shared(client, config, clock or SystemClock())
    loops = make_loops(shared)
    async with asyncio.TaskGroup() as group:
        shared.start(group)
        for loop in loops:
            group.create_task(loop.run())
        log.info("started", loops=len(loops))
