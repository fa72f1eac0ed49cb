"""`podwire dns query`: why a name resolves, or does not."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podwire.cli.terminal import print_json, print_table
from podwire.model.errors import BadInput, Problem
from podwire.model.objects import Key, Obj, key_of, labels_of

if TYPE_CHECKING:
    from podwire.client.port import Client
    from podwire.dns.responder import Responder

_ABOUT = """\
Show every question that a pod's resolver asks for a name, what the cluster DNS answers to each, and why.
  podwire dns query web                         as a pod of the namespace default asks
  podwire dns query web.prod --from shop/cart   as this pod asks, by its own resolv.conf
  podwire dns query _http._tcp.web --type SRV
The answers are those of the cluster's Services, slices and Corefile as they are now. Exit code 1: no answer."""


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `dns` to the parser."""
    sub = command("dns", "dns:query", "show how a name is resolved, step by step", about=_ABOUT)
    sub.add_argument("verb", choices=("query",), help=argparse.SUPPRESS)
    sub.add_argument("host", metavar="NAME", help="the name, as a program in the pod would give it")
    sub.add_argument("--from", dest="pod", default="", metavar="[NS/]POD", help="the pod that asks")
    sub.add_argument("--type", default="A", metavar="TYPE", help="A, AAAA, SRV, PTR, CNAME, TXT ... (default: A)")
    sub.add_argument("-n", "--namespace", default="default", metavar="NS", help="the asking pod's namespace")
    sub.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
    sub.add_argument("--kubeconfig", default="", metavar="FILE", help="which cluster (default: $KUBECONFIG, or --name)")
    sub.add_argument("--name", default="podwire", metavar="NAME", help="which lab, when no kubeconfig says otherwise")


def query(arguments: argparse.Namespace) -> int:
    """Walk the search path and print it; return 1 when the name has no answer."""
    from podwire.dns.walk import Answered, ResolvConf
    from podwire.wire import dns as wire

    kind = arguments.type.upper()
    if kind not in wire.TYPES:
        raise BadInput(Problem("dns query", "--type", f"{arguments.type!r} is none of {', '.join(wire.TYPES)}"))
    resolver: ResolvConf
    steps: list[Answered]
    try:
        resolver, steps = asyncio.run(_walk(arguments, kind))
    except wire.Malformed as error:
        raise BadInput(Problem("dns query", "NAME", str(error))) from None
    found = steps[-1].verdict in ("NOERROR", "FORWARDED")
    if arguments.output == "json":
        print_json({
            "servers": resolver.servers, "search": resolver.search, "ndots": resolver.ndots, "resolved": found,
            "steps": [{"name": s.name, "answer": s.verdict, "records": s.records, "why": s.why} for s in steps],
        })  # fmt: skip
        return 0 if found else 1
    servers = ", ".join(resolver.servers) or "nobody"
    print(f"search {' '.join(resolver.search) or '(none)'}, ndots {resolver.ndots}; asked is {servers}")
    rows = [(s.name, kind, s.verdict, "; ".join(s.records) or "-", s.why) for s in steps]
    print_table(("QUESTION", "TYPE", "ANSWER", "RECORDS", "WHY"), rows)
    return 0 if found else 1


async def _walk(arguments: argparse.Namespace, kind: str) -> tuple[Any, list[Any]]:
    from podwire.client.http import HttpClient, from_kubeconfig
    from podwire.dns.walk import parse_resolv_conf, walk
    from podwire.lab.home import cluster

    path = arguments.kubeconfig or os.environ.get("KUBECONFIG", "")
    client = HttpClient(from_kubeconfig(Path(path) if path else cluster(arguments.name).kubeconfig))
    try:
        responder, domain, servers = await _read_cluster(client)
        pod = await _read_pod(client, arguments.pod, arguments.namespace)
    finally:
        await client.close()
    resolver = parse_resolv_conf(_resolv_conf(pod, servers, domain))
    return resolver, walk(arguments.host, kind, resolver, responder)


def _resolv_conf(pod: Obj, servers: list[str], domain: str) -> str:
    from ipaddress import ip_address

    from podwire.node.pod.files import resolv_conf

    return resolv_conf(pod, [ip_address(s) for s in servers], domain, "")


async def _read_pod(client: Client, name: str, namespace: str) -> Obj:
    """Return the asking pod; without a name one that could be anybody's."""
    from podwire.client.errors import NotFound
    from podwire.model.resources import PODS

    if not name:
        return {"metadata": {"name": "", "namespace": namespace}, "spec": {}}
    namespace, _, name = name.rpartition("/") if "/" in name else (namespace, "", name)
    try:
        return await client.get(PODS, name, namespace)
    except NotFound:
        raise BadInput(Problem("dns query", "--from", f"there is no pod {name!r} in namespace {namespace!r}")) from None


async def _read_cluster(client: Client) -> tuple[Responder, str, list[str]]:
    """Return a responder over what the cluster holds now, its domain, and the DNS Service's addresses."""
    from podwire.client.errors import NotFound
    from podwire.dns import blocks
    from podwire.dns.corefile import parse_corefile
    from podwire.dns.engine import make_index
    from podwire.dns.index import DNS_SERVICE
    from podwire.dns.manifests import corefile
    from podwire.dns.packed import pack_service, pack_slice
    from podwire.model.resources import CONFIGMAPS, ENDPOINTSLICES, NAMESPACES, PODS, SERVICES
    from podwire.model.serviceslices import SERVICE_NAME_LABEL
    from podwire.wire import dns as wire

    try:
        text = (await client.get(CONFIGMAPS, "coredns", "kube-system"))["data"]["Corefile"]
    except (NotFound, KeyError):
        text = corefile("cluster.local")
    settings = parse_corefile(text, "ConfigMap kube-system/coredns")
    # Files of the pod are not to be had here: what they answer counts as another server's.
    settings = replace(settings, zone_files=(), log=())
    index = make_index(settings, serial=1)
    pieces: dict[Key, list[bytes]] = {}
    for piece in (await client.list(ENDPOINTSLICES)).items:
        owner = Key(key_of(piece).namespace, labels_of(piece).get(SERVICE_NAME_LABEL, ""))
        pieces.setdefault(owner, []).append(pack_slice(piece))
    servers: list[str] = []
    for service in (await client.list(SERVICES)).items:
        key = key_of(service)
        index.put(key, pack_service(service), pieces.get(key, ()))
        if key == DNS_SERVICE:
            servers = list(service["spec"].get("clusterIPs") or ())
    for namespace in (await client.list(NAMESPACES)).items:
        index.set_namespace(key_of(namespace).name, True)
    if settings.kubernetes is not None and settings.kubernetes.pods == "verified":
        for pod in (await client.list(PODS)).items:
            for ip in (pod.get("status") or {}).get("podIPs") or ():
                index.count_pod_address(key_of(pod).namespace, ip["ip"], 1)
    responder = blocks.build(settings, index, lambda: None).responder
    responder.synced = True
    return responder, wire.name_text(index.zone.origin).rstrip("."), servers
