"""The API server as a process: TLS on given sockets, until cancelled.

await serve(Config(state_dir, sockets=(sock,), advertise=ip, advertise_port=6443))
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from aiohttp import web

from podwire.apiserver import pki
from podwire.apiserver.bootstrap import bootstrap
from podwire.apiserver.core import Core
from podwire.apiserver.server import MAX_BODY_BYTES
from podwire.apiserver.serviceips import NODE_PORTS, Network
from podwire.apiserver.store.sqlite import SqliteStore
from podwire.apiserver.tokens import TokenSigner
from podwire.apiserver.values import User
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get

LOOPBACK = IPv4Address("127.0.0.1")
COMPACT_EVERY_S = 60.0
_log = get("apiserver")


@dataclass(frozen=True, slots=True)
class Config:
    """How to serve. ``sockets`` are listening already; ``plain_sockets`` are served without TLS (tests)."""

    state_dir: Path
    sockets: Sequence[socket.socket] = ()
    plain_sockets: Sequence[socket.socket] = ()
    advertise: IPv4Address | IPv6Address = LOOPBACK
    advertise_port: int = 6443
    service_cidrs: Sequence[str] = ("10.96.0.0/12",)
    node_port_range: tuple[int, int] = NODE_PORTS
    cluster_domain: str = "cluster.local"
    static_tokens: Mapping[str, User] = field(default_factory=dict, repr=False)
    names: Sequence[str] = ()  # further names and addresses for the serving certificate
    addresses: Sequence[IPv4Address | IPv6Address] = ()
    loopback: bool = False  # reach kubelets and pods on loopback addresses only: the dry kernel

    @property
    def networks(self) -> Sequence[Network]:
        """The Service ranges, the primary family first."""
        return [ip_network(c) for c in self.service_cidrs]

    @property
    def issuer(self) -> str:
        """The issuer of ServiceAccount tokens."""
        return f"https://kubernetes.default.svc.{self.cluster_domain}"


def ensure_pki(config: Config) -> pki.Pki:
    """Return the cluster's certificates, made where missing. Callable before the server runs."""
    domain = config.cluster_domain
    addresses = {
        ip_address("127.0.0.1"),
        ip_address("::1"),
        config.advertise,
        *(n[1] for n in config.networks),
        *config.addresses,
    }
    names = (f"kubernetes.default.svc.{domain}", *config.names)
    return pki.ensure(config.state_dir / "pki", names=names, addresses=sorted(addresses, key=str))


def build(config: Config, *, clock: Clock | None = None) -> tuple[Core, pki.Pki]:
    """Return the server without its sockets. Raises AlreadyInUse and MachineError."""
    keys = ensure_pki(config)
    core = Core(
        lambda index_of: SqliteStore(config.state_dir / "store.db", index_of),
        TokenSigner(keys.service_account_key_pem, config.issuer),
        lambda: pki.kubelet_context(keys),
        service_networks=config.networks,
        node_ports=config.node_port_range,
        static_tokens=dict(config.static_tokens),
        clock=clock,
        loopback=config.loopback,
    )
    return core, keys


async def serve(config: Config, *, ready: Callable[[], None] | None = None) -> None:
    """Serve until cancelled; ``ready`` is called when every socket is answered and the cluster is set up."""
    clock = SystemClock()
    core, keys = build(config, clock=clock)
    try:
        await bootstrap(core, advertise=config.advertise, port=config.advertise_port, networks=config.networks)
        async with asyncio.TaskGroup() as group:
            group.create_task(core.custom.run(core.writes))
            group.create_task(core.addresses.run(core.writes))
            group.create_task(_compact(core, clock))
            runner = await _listen(core, config, pki.server_context(keys) if config.sockets else None)
            core.ready = True
            _log.info("serving", revision=core.store.revision, sockets=len(config.sockets))
            if ready is not None:
                ready()
            try:
                await asyncio.Event().wait()
            finally:
                await runner.cleanup()
                await core.metrics.close()
    finally:
        core.store.close()


async def _listen(core: Core, config: Config, context: ssl.SSLContext | None) -> web.ServerRunner:
    loop = asyncio.get_running_loop()

    def make_request(message, payload, protocol, writer, task):  # type: ignore[no-untyped-def]
        return web.Request(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)

    server = web.Server(
        core.server.handle,
        request_factory=make_request,
        handler_cancellation=True,  # a watcher that goes away ends its watch at once
        access_log=None,
        keepalive_timeout=120,
    )
    runner = web.ServerRunner(server, shutdown_timeout=0.2)
    await runner.setup()
    for sock in config.sockets:
        await web.SockSite(runner, sock, ssl_context=context, backlog=1024).start()
    for sock in config.plain_sockets:
        await web.SockSite(runner, sock, backlog=1024).start()
    return runner


async def _compact(core: Core, clock: Clock) -> None:
    while True:
        await clock.sleep(COMPACT_EVERY_S)
        core.store.compact()
