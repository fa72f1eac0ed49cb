"""Keeps one node's policies in force.

    agent = PolicyAgent("node-0", (4,), client, RealNft(), sysctl=RealSysctl())
    group.create_task(agent.run()); await agent.synced.wait()
    network = PolicyGate(network, agent)      # no pod has a network before its policies are in place

Nothing is programmed before namespaces, nodes, policies and pods are all known. Then a table is built beside the one
that a former agent left, and takes its place; established connections never notice. After that a change costs what
it touches. The first change of a burst is written at once, the rest together a few milliseconds later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from podwire.client.errors import ApiError
from podwire.client.informer import Informer, Listener
from podwire.client.port import Client
from podwire.kernel.nft.port import NftPort
from podwire.kernel.sysctl.port import SysctlPort
from podwire.model.errors import MachineError
from podwire.model.objects import Key, Obj, micro_timestamp, timestamp
from podwire.model.podnetwork import Attachment
from podwire.model.resources import CRDS, EVENTS, NAMESPACES, NETWORKPOLICIES, NODES, PODS, Resource
from podwire.policy.feed import feed_change, id_of
from podwire.policy.fence import PolicyFence
from podwire.policy.parse import POLICY_KINDS
from podwire.policy.programmer import Programmer
from podwire.policy.rules import DIRECTIONS, DomainPeer, IPAddress, Policy
from podwire.policy.snapshot import Pod, parse_pod
from podwire.policy.table import PolicyTable
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get

_BURST_S = 0.004
_WATCH_S = 5.0  # how often a foreign edit of the table is looked for
_MAX_BACKOFF_S = 5.0
_ADMIT_S = 10.0
_GROUP = "policy.networking.k8s.io"
CLUSTER_POLICIES = (
    Resource(_GROUP, "v1alpha2", "clusternetworkpolicies", "ClusterNetworkPolicy", False),
    Resource(_GROUP, "v1alpha1", "adminnetworkpolicies", "AdminNetworkPolicy", False),
    Resource(_GROUP, "v1alpha1", "baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy", False),
)
_log = get("policy")


class PolicyAgent:
    """The policies of one node."""

    def __init__(
        self,
        node_name: str,
        versions: Sequence[int],
        client: Client,
        nft: NftPort,
        *,
        sysctl: SysctlPort | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``versions``: the IP versions of the cluster. ``sysctl``: lets the agent see to it that bridged packets
        pass netfilter."""
        self.synced = asyncio.Event()
        self.admit_within_s = _ADMIT_S
        self.table = PolicyTable(node_name, versions)
        self._node, self._client, self._sysctl = node_name, client, sysctl
        self._clock: Clock = clock or SystemClock()
        self._programmer = Programmer(nft, self.table)
        self._informers = [
            Informer(client, NAMESPACES, clock=clock),
            Informer(client, NODES, clock=clock),
            Informer(client, NETWORKPOLICIES, clock=clock),
            Informer(client, PODS, clock=clock, trim=trim_pod),
        ]
        self._fence = PolicyFence(client, self._informers[2], self._clock)
        self._crds = Informer(client, CRDS, clock=clock, trim=_trim_crd)
        self._uids: dict[Key, str] = {}
        self._arrived: dict[Key, asyncio.Event] = {}
        self._fresh: set[str] = set()
        self._wake = asyncio.Event()
        self._check_s = 0.0
        self._served: set[str] = set()
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        self._let_netfilter_see_bridges()
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._follow_cluster_policies(group))
            for informer in (*self._informers, self._crds):
                group.create_task(informer.run())
            for informer in self._informers:
                # In this order: a pod's verdict is then found once, not again with every policy.
                await informer.synced.wait()
                informer.listen(self._listener(informer.resource))
            await self._first_cluster_policies()
            group.create_task(self._watch_kernel())
            await self._program_for_ever()

    def _let_netfilter_see_bridges(self) -> None:
        """Packets between two pods of one bridge are judged only if bridged packets go through netfilter."""
        for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables") if self._sysctl is not None else ():
            try:
                known = self._sysctl.set(f"net/bridge/{name}", "1") if self._sysctl is not None else True
            except MachineError as error:
                _log.error("bridge-filter", error=str(error))
                continue
            if not known:
                _log.error("bridge-filter", missing=name, hint="load br_netfilter: pods of one node are not judged")

    # --- what the API says

    def _listener(self, resource: Resource) -> Listener:
        def listen(key: Key, old: Obj | None, new: Obj | None) -> None:
            old, new = _named(resource, old), _named(resource, new)
            if resource is PODS:
                self._pod_changed(key, new)
            else:
                feed_change(self.table, old, new)
            if new is not None and new["kind"] in POLICY_KINDS:
                self._fresh.add(id_of(new))
            self._wake.set()

        return listen

    def _pod_changed(self, key: Key, new: Obj | None) -> None:
        pod: Pod | None = parse_pod(new) if new is not None else None
        if new is None:
            self._uids.pop(key, None)
        else:
            self._uids[key] = new["metadata"].get("uid", "")
        if pod is None or pod != self.table.pod(key):
            self.table.set_pod(key, pod)
        arrived = self._arrived.get(key)
        if arrived is not None:
            arrived.set()

    async def _follow_cluster_policies(self, group: asyncio.TaskGroup) -> None:
        """Follow a kind of cluster-wide policy once the API serves it."""
        await self._crds.synced.wait()
        by_name = {f"{r.plural}.{r.group}": r for r in CLUSTER_POLICIES}

        def served(key: Key, old: Obj | None, new: Obj | None) -> None:
            resource = by_name.get(key.name)
            if resource is None or new is None or key.name in self._served:
                return
            self._served.add(key.name)
            informer = Informer(self._client, resource, clock=self._clock)
            informer.listen(self._listener(resource))
            self._informers.append(informer)
            group.create_task(informer.run())

        self._crds.listen(served)

    async def _first_cluster_policies(self) -> None:
        """Return when the cluster-wide policies that are there at the start are known."""
        await self._crds.synced.wait()
        await asyncio.sleep(0)
        for informer in self._informers[4:]:
            try:
                async with asyncio.timeout(_MAX_BACKOFF_S):
                    await informer.synced.wait()
            except TimeoutError:
                _log.error("not-served", kind=informer.resource.kind)

    # --- pods that start

    async def admit(self, attachment: Attachment, ips: tuple[IPAddress, ...]) -> None:
        """Return when the policies of a new sandbox are in force. Raises MachineError.

        Until then its addresses are closed: see ``render.nftables``.
        """
        key = Key(attachment.namespace, attachment.name)
        try:
            async with asyncio.timeout(self.admit_within_s):
                await self.synced.wait()
                while self._uids.get(key) != attachment.uid:
                    arrived = self._arrived.setdefault(key, asyncio.Event())
                    arrived.clear()
                    await arrived.wait()
                await self._fence.pass_through(attachment.namespace)
        except ApiError as error:
            raise MachineError("policy", "admit", f"pod {key}", error, "its policies cannot be listed") from None
        except TimeoutError:
            hint = "is the API server reachable?"
            raise MachineError("policy", "admit", f"pod {key}", "its object or policies did not arrive", hint) from None
        finally:
            self._arrived.pop(key, None)
        self.table.admit(attachment.sandbox_id, key, ips)
        try:
            self._programmer.program()
        except MachineError:
            self._programmer.forget()
            self._wake.set()
            raise

    def release(self, attachment: Attachment) -> None:
        """Forget a sandbox's addresses: they are closed until another pod has them."""
        self.table.release(attachment.sandbox_id)
        self._wake.set()

    # --- the kernel

    async def _program_for_ever(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            start_s = self._clock.monotonic()
            whole = not self._programmer.in_force
            try:
                changed = self._programmer.program()
                failures = 0
            except MachineError as error:
                failures += 1
                self._programmer.forget()
                _log.error("sync-failed", node=self._node, error=str(error))
                await self._clock.sleep(min(_MAX_BACKOFF_S, 0.02 * 2 ** min(failures, 8)))
                continue
            if changed or whole:
                pods, chains, sets = self.table.count()
                took_s = self._clock.monotonic() - start_s
                write = _log.info if whole else _log.debug
                write(
                    "reconciled", node=self._node, pods=pods, chains=chains, sets=sets, changed=changed, took_s=took_s
                )
            self.synced.set()
            self._tell_problems()
            await self._clock.sleep(_BURST_S)
            await self._wake.wait()

    async def _watch_kernel(self) -> None:
        """Notice transactions of others, compare with the kernel, and repair."""
        await self.synced.wait()
        while True:
            # Reading a large table back takes long: it may cost at most a fiftieth of the time.
            await self._clock.sleep(max(_WATCH_S, 50 * self._check_s))
            try:
                start_s = self._clock.monotonic()
                if self._programmer.disturbed() and not self._programmer.check():
                    _log.warning("table-changed", node=self._node, hint="somebody else edited it; building it anew")
                    self._programmer.forget()
                    self._wake.set()
                self._check_s = self._clock.monotonic() - start_s
            except MachineError as error:
                _log.warning("kernel-unreadable", error=str(error))

    # --- what cannot be enforced as written

    def _tell_problems(self) -> None:
        fresh, self._fresh = self._fresh, set()
        for id in sorted(fresh):
            policy = self.table.policies.get(id)
            said = list(problems_of(policy)) if policy is not None else []
            if policy is None or not said:
                continue
            _log.warning("policy-problem", policy=str(policy), problem=said[0])
            if self._group is not None:
                self._group.create_task(self._record(policy, said))

    async def _record(self, policy: Policy, said: Sequence[str]) -> None:
        try:
            await self._client.create(EVENTS, event_about(policy, said, self._node, self._clock))
        except ApiError as error:
            _log.warning("event", policy=str(policy), error=str(error))


def _named(resource: Resource, obj: Obj | None) -> Obj | None:
    """Return the object with its kind: a list's items may come without."""
    return obj if obj is None or "kind" in obj else {**obj, "kind": resource.kind}


def problems_of(policy: Policy) -> Iterable[str]:
    """Yield what of a policy is not enforced as it was written. All of it fails closed."""
    yield from (f"{p.field}: {p.why}; its pods are closed" for p in policy.problems)
    for direction in DIRECTIONS:
        for rule in policy.rules(direction):
            if rule.why:
                yield f"{rule.path}: {rule.why}"
            for peer in rule.peers or ():
                if isinstance(peer, DomainPeer):
                    yield f"{peer.path}: domain names are not followed by this node; the peer matches nothing"


def event_about(policy: Policy, said: Sequence[str], node: str, clock: Clock) -> Obj:
    """Return the event that tells a policy's owner."""
    group = "networking.k8s.io/v1" if policy.kind == "NetworkPolicy" else f"{_GROUP}/v1alpha1"
    if policy.kind == "ClusterNetworkPolicy":
        group = f"{_GROUP}/v1alpha2"
    now = clock.now()
    namespace = policy.key.namespace or "default"
    reference = {"apiVersion": group, "kind": policy.kind, "name": policy.key.name}
    if policy.key.namespace:
        reference["namespace"] = policy.key.namespace
    serial = micro_timestamp(now).translate({ord(c): None for c in "-:.TZ"})
    return {
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": f"{policy.key.name[:200]}.{node}.{serial}", "namespace": namespace},
        "involvedObject": reference, "type": "Warning", "reason": "NotEnforcedAsWritten", "count": 1,
        "message": "; ".join(said)[:1000], "source": {"component": "podwire-policy", "host": node},
        "firstTimestamp": timestamp(now), "lastTimestamp": timestamp(now),
        "reportingComponent": "podwire-policy", "reportingInstance": node,
    }  # fmt: skip


def trim_pod(pod: Obj) -> Obj:
    """Return as much of a pod as policies look at."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    trimmed_spec = {k: spec[k] for k in ("nodeName", "hostNetwork") if spec.get(k)}
    for group in ("initContainers", "containers"):
        kept = [
            {"ports": c["ports"], "restartPolicy": c.get("restartPolicy")}
            for c in spec.get(group) or ()
            if c.get("ports")
        ]
        if kept:
            trimmed_spec[group] = kept
    return {
        "kind": "Pod",
        "metadata": {k: meta[k] for k in ("namespace", "name", "uid", "resourceVersion", "labels") if k in meta},
        "spec": trimmed_spec,
        "status": {k: status[k] for k in ("phase", "podIP", "podIPs") if k in status},
    }


def _trim_crd(crd: Obj) -> Obj:
    meta = crd["metadata"]
    return {
        "kind": "CustomResourceDefinition",
        "metadata": {k: meta[k] for k in ("name", "resourceVersion") if k in meta},
    }
