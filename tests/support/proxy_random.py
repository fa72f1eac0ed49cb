"""Random Services and packets for the proxy's tests, in either IP family."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network
from typing import Any

from podwire.model.objects import Obj
from podwire.proxy.evaluate import Packet

PREFIX = {
    4: ("10.244.", "10.96.0.", "192.168.71.", "198.51.100."),
    6: ("fd00:10:", "fd00:96::", "fd00:71::", "2001:db8::"),
}
NETS = {4: ("10.244.0.0/16", "10.96.0.0/24"), 6: ("fd00:10::/32", "fd00:96::/112")}


def pod(v: int, node: int, last: int) -> str:
    return f"10.244.{node}.{last}" if v == 4 else f"fd00:10:{node}::{last}"


def addr(v: int, kind: int, last: int) -> str:
    return f"{PREFIX[v][kind]}{last}"


def random_service(rng: random.Random, v: int, number: int) -> tuple[Obj, list[Obj]]:
    spec: dict[str, Any] = {"type": rng.choice(["ClusterIP", "ClusterIP", "NodePort", "LoadBalancer"])}
    vip = addr(v, 1, rng.randrange(1, 9))
    spec |= {"clusterIP": vip, "clusterIPs": [vip]}
    ports = []
    for name, protocol in rng.sample([("t", "TCP"), ("u", "UDP"), ("s", "SCTP")], rng.randrange(1, 4)):
        port = {"name": name, "port": rng.choice([80, 443]), "protocol": protocol}
        if spec["type"] != "ClusterIP":
            port["nodePort"] = rng.choice([30001, 30002, 30003])
        ports.append(port)
    spec["ports"] = ports
    if rng.random() < 0.3:
        spec["externalIPs"] = [addr(v, 3, rng.randrange(1, 4))]
    if rng.random() < 0.4:
        spec["externalTrafficPolicy"] = "Local"
    if rng.random() < 0.2:
        spec["internalTrafficPolicy"] = "Local"
    if rng.random() < 0.3:
        spec["sessionAffinity"] = "ClientIP"
    status: dict[str, Any] = {}
    if spec["type"] == "LoadBalancer":
        if rng.random() < 0.5:
            spec["loadBalancerSourceRanges"] = rng.sample(
                [
                    f"{pod(v, 1, 1)}/{32 if v == 4 else 128}",
                    f"{addr(v, 2, 0)}/{24 if v == 4 else 64}",
                    f"{pod(v, 2, 0)}/{24 if v == 4 else 48}",
                ],
                rng.randrange(1, 3),
            )
        ingress = [{"ip": addr(v, 3, rng.randrange(4, 8))}]
        if rng.random() < 0.2:
            ingress[0]["ipMode"] = "Proxy"
        status = {"loadBalancer": {"ingress": ingress}}
    endpoints = []
    for _ in range(rng.choice([0, 1, 2, 3, 6])):
        node = rng.randrange(1, 4)
        ready = rng.random() < 0.7
        conditions = {"ready": ready, "serving": ready or rng.random() < 0.5, "terminating": not ready}
        endpoints.append(
            {"addresses": [pod(v, node, rng.randrange(1, 6))], "nodeName": f"n{node}", "conditions": conditions}
        )
    meta = {"namespace": "default", "name": f"s{number}", "creationTimestamp": str(2020 + rng.randrange(4))}
    piece = {
        "kind": "EndpointSlice", "metadata": {"namespace": "default", "name": f"s{number}-1"}, "addressType": f"IPv{v}",
        "ports": [{"name": p["name"], "port": 8080, "protocol": p["protocol"]} for p in ports], "endpoints": endpoints,
    }  # fmt: skip
    return {"kind": "Service", "metadata": meta, "spec": spec, "status": status}, [piece]


def random_packet(rng: random.Random, v: int) -> Packet:
    source = rng.choice(
        [pod(v, rng.randrange(1, 4), rng.randrange(1, 6)), addr(v, 2, 10), addr(v, 2, 1), addr(v, 3, 200)]
    )
    outside = [(addr(v, 2, 10), rng.choice([30001, 30002, 30003, 30004]))]
    outside += [(addr(v, 3, rng.randrange(1, 9)), rng.choice([80, 443])), (pod(v, 2, 1), 8080)]
    inside = [(addr(v, 1, rng.randrange(1, 11)), rng.choice([80, 443, 81]))] * 3
    # A pod of another node brings its packets to cluster IPs there, not here.
    afar = any(ip_address(source) in ip_network(f"{pod(v, n, 0)}/{24 if v == 4 else 48}") for n in (2, 3))
    destination, port = rng.choice(outside if afar else [*inside, *outside])
    return Packet(ip_address(source), ip_address(destination), rng.choice([6, 17, 132]), port)
