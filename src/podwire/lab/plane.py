"""What runs in each process of a cluster: the one place that puts rooms together and picks real or fake.

Every ``run_*`` is the body of a process that init has forked; ``ready`` tells init that it serves.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import secrets
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podwire.lab import underlay, view
from podwire.lab.config import LabConfig
from podwire.lab.home import ClusterDir
from podwire.lab.machine import MachineSpec
from podwire.runtime.logging import get

if TYPE_CHECKING:
    from podwire.apiserver.pki import KeyPair, Pki
    from podwire.client.http import HttpClient
    from podwire.node.config import NodeConfig

Ready = Callable[[], None]
log = get("lab")

API_MODULES = ("aiohttp", "uvloop", "orjson", "podwire.client.http")
NODE_MODULES = (
    "cryptography.x509",
    "podwire.cni.conflist",
    "podwire.cni.network",
    "podwire.cni.real",
    "podwire.cni.server",
    "podwire.controllers.agent",
    "podwire.dns.main",
    "podwire.dns.manifests",
    "podwire.fabric.agent",
    "podwire.kernel.conntrack.real",
    "podwire.kernel.link.monitor",
    "podwire.kernel.announce.real",
    "podwire.kernel.nft.real",
    "podwire.lab.addons",
    "podwire.loadbalancer.agent",
    "podwire.node.agent",
    "podwire.policy.gate",
    "podwire.node.runtime.real",
    "podwire.node.runtime.shim",
    "podwire.node.server",
    "podwire.proxy.agent",
)
CONTROLLERS = "system:kube-controller-manager"


@dataclass(frozen=True, slots=True)
class Identities:
    """The keys of everybody in the cluster, in init's memory: children inherit what they need."""

    pki: Pki
    admin: KeyPair
    controllers: KeyPair
    nodes: dict[str, KeyPair]
    insider_token: str = field(repr=False)  # the controllers', for the loopback of the lab's own namespace


def build_cni() -> Path:
    """Return the executable podwire-cni, compiled on first use and kept in the user's cache."""
    from podwire.cni import build
    from podwire.lab.home import cache

    return build.build(cache())


def open_keeper() -> int:
    """Return a descriptor of the executable podwire-keeper, compiled on first use; -1 without a compiler."""
    from podwire.lab.home import cache
    from podwire.runtime.compiler import cached_path, compile_page, find_compiler

    source = Path(__file__).parent / "native" / "podwire-keeper.c"
    path = cached_path(source, cache())
    try:
        if path.exists() or compile_page(find_compiler() or "cc", source, path):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        log.warning("no-keeper", why=error)
    return -1


def warm_up_api() -> None:
    """Import what the API server and everybody else share."""
    for name in API_MODULES:
        importlib.import_module(name)


def warm_up_nodes() -> None:
    """Import what controllers, agents, shims and pods of our own images share; freeze it for the forks."""
    for name in NODE_MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def prepare_identities(config: LabConfig, cluster: ClusterDir) -> Identities:
    """Return the cluster's keys, made where they are missing, and write the kubeconfig."""
    from podwire.apiserver import pki

    services = [network[1] for network in config.service_cidrs]
    names = (f"kubernetes.default.svc.{config.domain}",)
    keys = pki.ensure(cluster.path / "pki", names=names, addresses=[*services, *underlay.api_addresses(config)])
    admin = pki.mint(keys.authority, "podwire-admin", ("system:masters",))
    server = f"https://127.0.0.1:{config.api_port}"
    text = pki.kubeconfig(
        server, keys.authority.cert_pem, cluster=f"podwire-{config.name}", user=f"podwire-{config.name}", pair=admin
    )
    pki.write_private(cluster.kubeconfig, text)
    nodes = {}
    for index, name in enumerate(config.node_names):
        ips = () if config.dry_kernel else underlay.node_addresses(config, index).ips
        nodes[name] = pki.mint(keys.authority, f"system:node:{name}", ("system:nodes",), names=(name,), addresses=ips)
    return Identities(keys, admin, pki.mint(keys.authority, CONTROLLERS), nodes, secrets.token_urlsafe(32))


def _serve(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a process's event loop to its end."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def _client(config: LabConfig, identities: Identities, pair: KeyPair, who: str) -> HttpClient:
    """Return a client that acts as ``pair``."""
    from podwire.client.http import Access, HttpClient

    if config.dry_kernel:
        server = f"https://127.0.0.1:{config.api_port}"
    else:
        server = f"https://{underlay.url_host(underlay.api_addresses(config)[0])}:{underlay.API_PORT}"
    access = Access(server, identities.pki.authority.cert_pem, pair.cert_pem, pair.key_pem)
    return HttpClient(access, user_agent=f"podwire/{who}")


def _insider(config: LabConfig, identities: Identities) -> HttpClient:
    """Return the controllers' client. In a lab it speaks plain HTTP with a token over the loopback of the lab's own
    namespace, which holds nobody else: sixty watches without TLS save 10 MB and a third of their CPU.
    """
    from podwire.client.http import Access, HttpClient

    if config.dry_kernel:
        return _client(config, identities, identities.controllers, "controllers")
    server = f"http://127.0.0.1:{underlay.INSIDER_PORT}"
    return HttpClient(Access(server, token=identities.insider_token), user_agent="podwire/controllers")


def run_api(
    config: LabConfig,
    cluster: ClusterDir,
    identities: Identities,
    sockets: tuple[socket.socket, ...],
    ready: Ready,
) -> None:
    """Be the API server: on the host's loopback, the underlay, and the loopback of the lab."""
    from podwire.apiserver import agent
    from podwire.apiserver.values import User

    listening, plain, insiders = list(sockets), [], {}
    if not config.dry_kernel:
        listening += [_listen(str(host), underlay.API_PORT) for host in underlay.api_addresses(config)]
        plain = [_listen("127.0.0.1", underlay.INSIDER_PORT)]
        insiders = {identities.insider_token: User(CONTROLLERS, groups=("system:authenticated",))}
    advertised = ip_address("127.0.0.1") if config.dry_kernel else underlay.api_addresses(config)[0]
    settings = agent.Config(
        state_dir=cluster.path,
        sockets=listening,
        plain_sockets=plain,
        static_tokens=insiders,
        advertise=advertised,
        advertise_port=config.api_port if config.dry_kernel else underlay.API_PORT,
        service_cidrs=[str(network) for network in config.service_cidrs],
        cluster_domain=config.domain,
        loopback=config.dry_kernel,
    )
    _serve(lambda: agent.serve(settings, ready=ready))


def _listen(host: str, port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    server.listen(1024)
    return server


def run_controllers(config: LabConfig, identities: Identities, ready: Ready) -> None:
    """Be every control loop, and put the cluster's own workloads (DNS, flannel's ConfigMap) there first."""

    async def main() -> None:
        from podwire.controllers import agent
        from podwire.controllers.config import ControllersConfig
        from podwire.lab import addons

        client = _insider(config, identities)
        administrator = _client(config, identities, identities.admin, "lab")
        settings = ControllersConfig(
            root_ca_pem=identities.pki.authority.cert_pem,
            cluster_cidrs=config.pod_cidrs,
            service_cidrs=config.service_cidrs,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run(client, settings))
            await addons.ensure(administrator, config)
            await administrator.close()
            ready()

    _serve(main)


def run_shim(spec: MachineSpec, config: LabConfig, cluster: ClusterDir) -> None:
    """Be a node's first process and its container runtime. Runs inside the node."""
    from podwire.dns import main as dns
    from podwire.node.runtime import shim

    shim.main(
        shim.ShimConfig(
            run_dir=view.RUN,
            node_name=spec.name,
            socket_path=view.RUN / "shim.sock",
            images={name: Path(path) for name, path in config.images.items()},
            builtins={"podwire/coredns": dns.main},
            hidden=(str(cluster.path), str(view.STATE)),
        )
    )


def cluster_dns(config: LabConfig) -> tuple[underlay.IPAddress, ...]:
    """Return the cluster DNS's Service addresses: the tenth of each Service network."""
    return tuple(network[10] for network in config.service_cidrs)


def run_agent(spec: MachineSpec, config: LabConfig, identities: Identities, cni: Path, ready: Ready) -> None:
    """Be a node's agent: fabric, proxy, CNI and kubelet in one process. Runs inside the node."""
    _serve(lambda: _agent(spec, config, identities, cni, ready))


async def _agent(spec: MachineSpec, config: LabConfig, identities: Identities, cni: Path, ready: Ready) -> None:
    from podwire.cni.network import CniNetwork
    from podwire.cni.plugin import PodwireCni
    from podwire.cni.real import real_kernel
    from podwire.cni.server import CniServer
    from podwire.fabric.agent import FabricAgent
    from podwire.kernel.announce.real import RealAnnounce
    from podwire.kernel.conntrack.real import RealConntrack
    from podwire.kernel.iptables.real import RealIptables
    from podwire.kernel.link.monitor import RealMonitor
    from podwire.kernel.link.real import RealLinks
    from podwire.kernel.netns.real import RealNetns
    from podwire.kernel.nft.real import RealNft
    from podwire.kernel.route.real import RealRoutes
    from podwire.kernel.sysctl.real import RealSysctl
    from podwire.loadbalancer.agent import Announcer
    from podwire.node import agent as node
    from podwire.node.runtime.real import RealRuntime
    from podwire.policy.agent import PolicyAgent
    from podwire.policy.gate import PolicyGate
    from podwire.proxy.agent import ProxyAgent

    pair = identities.nodes[spec.name]
    client = _client(config, identities, pair, spec.name)
    install_cni(cni, Path("/etc/cni/net.d"), Path("/opt/cni/bin"))
    plugin = PodwireCni(real_kernel())
    network = CniNetwork(in_process={"podwire-cni": plugin.run})
    fabric = FabricAgent(spec.name, client, RealLinks(), RealRoutes(), RealNft(), RealSysctl(), monitor=RealMonitor())
    proxy = ProxyAgent(
        spec.name, spec.addresses.ips, config.pod_cidrs, client, RealNft(), RealConntrack(),
        service_cidrs=config.service_cidrs, sysctl=RealSysctl(), iptables=RealIptables(), mode=config.proxy_mode,
    )  # fmt: skip
    announcer = Announcer(spec.name, client, RealAnnounce(spec.addresses.ips, RealSysctl()))
    policy = PolicyAgent(spec.name, config.families, client, RealNft(), sysctl=RealSysctl())
    enforcing = config.cni_profile == "podwire"
    pods = PolicyGate(network, policy) if enforcing else network
    settings = _node_config(spec.name, config, identities)
    async with asyncio.TaskGroup() as group:
        group.create_task(fabric.run())
        if enforcing:
            group.create_task(policy.run())
        group.create_task(proxy.run())
        group.create_task(announcer.run())
        group.create_task(CniServer(view.RUN / "cni.sock", plugin.run).serve())
        group.create_task(
            node.run(settings, client, RealRuntime(view.RUN / "shim.sock"), pods, netns=RealNetns(), on_ready=ready)
        )


def _node_config(name: str, config: LabConfig, identities: Identities) -> NodeConfig:
    from podwire.node.config import NodeConfig

    pair = identities.nodes[name]
    return NodeConfig(
        name=name,
        addresses=underlay.node_addresses(config, config.node_names.index(name)).ips,
        cluster_dns=cluster_dns(config),
        cluster_domain=config.domain,
        tls_cert_pem=pair.cert_pem,
        tls_key_pem=pair.key_pem,
        client_ca_pem=identities.pki.authority.cert_pem,
        dry=config.dry_kernel,
    )


def install_cni(executable: Path, config_directory: Path, binaries: Path) -> None:
    """Put podwire's conflist and executable where a container runtime looks for them."""
    from podwire.cni import build, conflist

    if not any(config_directory.iterdir()):
        text = conflist.encode(conflist.render_default())
        (config_directory / conflist.FILE_NAME).write_bytes(text)
    link = binaries / build.NAME
    link.unlink(missing_ok=True)
    link.symlink_to(executable)


def run_dry_agent(name: str, config: LabConfig, cluster: ClusterDir, identities: Identities, ready: Ready) -> None:
    """Be a node's agent on a fake kernel: nothing runs, and the Node says so."""

    async def main() -> None:
        from podwire.node import agent as node
        from podwire.node.fake_network import FakeNetwork
        from podwire.node.runtime.fake import FakeRuntime

        client = _client(config, identities, identities.nodes[name], name)
        here = cluster.node(name)
        settings = replace(  # the endpoint is on the node's loopback address, at the cluster's own port
            _node_config(name, config, identities),
            state_dir=here,
            log_dir=here / "log",
            port=config.api_port,
        )
        settings = replace(settings, bind=tuple(map(str, settings.addresses)))
        await node.run(settings, client, FakeRuntime(), FakeNetwork(client, name), on_ready=ready)

    _serve(main)


def run_publisher(config: LabConfig, identities: Identities, sockets: tuple[socket.socket, ...], ready: Ready) -> None:
    """Be the relay of published ports. Runs inside node-0."""

    async def main() -> None:
        from podwire.lab import publish

        client = _client(config, identities, identities.admin, "publish")
        await publish.run(client, list(zip(config.publish, sockets, strict=True)), ready)

    _serve(main)
