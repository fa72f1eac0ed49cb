"""The API server put together, without sockets: what ``agent`` serves and tests drive."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence

import orjson

from podwire.apiserver import builtin_kinds, metricsapi
from podwire.apiserver.admission import Admission
from podwire.apiserver.authn import Authenticator
from podwire.apiserver.authz import GROUP as RBAC
from podwire.apiserver.authz import Authorizer
from podwire.apiserver.customkinds import CustomKinds
from podwire.apiserver.fieldindex import index_of
from podwire.apiserver.kinds import Registry
from podwire.apiserver.meter import Meter
from podwire.apiserver.metricsapi import MetricsApi
from podwire.apiserver.paths import Paths
from podwire.apiserver.reads import Reads
from podwire.apiserver.relay import direct, loopback_only
from podwire.apiserver.routes import Target
from podwire.apiserver.server import Server
from podwire.apiserver.serviceaddresses import ServiceAddresses
from podwire.apiserver.serviceips import NODE_PORTS, Network, ServiceIps
from podwire.apiserver.store.port import Change, IndexOf, Store
from podwire.apiserver.strategy import Strategy
from podwire.apiserver.streams import Streams
from podwire.apiserver.subresources import Subresources
from podwire.apiserver.tokens import TokenSigner
from podwire.apiserver.values import User
from podwire.apiserver.verbs import Verbs
from podwire.apiserver.writes import Writes
from podwire.model.objects import Key, Obj
from podwire.runtime.clock import Clock, SystemClock

SYSTEM = User("system:apiserver", groups=("system:masters",))
_RBAC_PLURALS = ("roles", "clusterroles", "rolebindings", "clusterrolebindings")


class Core:
    """Every floor of the room, wired. ``ready`` is what /readyz says."""

    def __init__(
        self,
        make_store: Callable[[IndexOf], Store],
        signer: TokenSigner,
        kubelet_context: Callable[[], ssl.SSLContext],
        *,
        service_networks: Sequence[Network],
        node_ports: tuple[int, int] = NODE_PORTS,
        static_tokens: dict[str, User] | None = None,
        open_paths: frozenset[str] | None = None,
        clock: Clock | None = None,
        loopback: bool = False,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.ready = False
        self.registry = Registry(builtin_kinds.kinds())
        self.store = make_store(index_of(self.registry))
        self.authorizer = Authorizer()
        options = {} if open_paths is None else {"open_paths": open_paths}
        self.authenticator = Authenticator(
            signer, self._uid_of, static_tokens=static_tokens, clock=self.clock, **options
        )
        self.services = ServiceIps(service_networks, node_ports)
        admission = Admission(self.registry, self.store, self.authorizer)
        self.writes = Writes(self.store, Strategy(self.registry, admission, self.services, self.clock), self.clock)
        self.reads = Reads(self.store, self.clock)
        self.custom = CustomKinds(self.registry, self.store, self.clock, SYSTEM)
        self.streams = Streams(self.get, kubelet_context, connect=loopback_only if loopback else direct)
        self.metrics = MetricsApi(self._all, kubelet_context, self.clock, loopback_only=loopback)
        for kind in metricsapi.KINDS:
            self.registry.add(kind)
        self.meter = Meter()
        self.verbs = Verbs(self)
        self.subresources = Subresources(self)
        self.paths = Paths(self)
        self.server = Server(self)
        self._restore()

    def _restore(self) -> None:
        """Bring up what is derived from stored objects: roles, service addresses."""
        for plural in _RBAC_PLURALS:
            bucket = f"{plural}.{RBAC}"
            for row in self.store.rows(bucket):
                self.authorizer.observe(plural, *row.key, orjson.loads(row.body))
            self.store.listen(bucket, self._observe_role(plural))
        self.services.restore(orjson.loads(r.body) for r in self.store.rows("services"))
        self.addresses = ServiceAddresses(self.registry, self.store, self.services, self.clock, SYSTEM)

    def _observe_role(self, plural: str) -> Callable[[Change], None]:
        def observe(change: Change) -> None:
            obj = None if change.type == "DELETED" else orjson.loads(change.row.body)
            self.authorizer.observe(plural, *change.row.key, obj)

        return observe

    def get(self, plural: str, namespace: str, name: str) -> Obj | None:
        """Return an object of the core group as it is now, or None."""
        row = self.store.peek(plural, Key(namespace, name))
        return None if row is None else orjson.loads(row.body)

    def _all(self, plural: str) -> Iterator[Obj]:
        """Yield the objects of a resource of the core group."""
        for row in self.store.rows(plural):
            yield orjson.loads(row.body)

    def _uid_of(self, plural: str, namespace: str, name: str) -> str | None:
        obj = self.get(plural, namespace, name)
        return None if obj is None else obj["metadata"]["uid"]

    @staticmethod
    def key(target: Target) -> Key:
        """Return where a target lies in its bucket."""
        return Key(target.namespace, target.name)
