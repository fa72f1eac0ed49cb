"""Random clusters, policies and changes, for comparing what judges say. Equal seeds give equal clusters. Pure.

Everything is drawn from small alphabets, so that selectors meet pods, blocks hold addresses and names clash.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

from podwire.model.objects import Obj

NAMESPACES = ("a", "b", "c")
NODES = ("node-0", "node-1")
_KEYS, _VALUES = ("app", "tier"), ("x", "y", "z")
PORTS = (80, 81, 443, 8080)
_NAMES = ("http", "web", "dns")
PROTOCOLS = ("TCP", "UDP")
SLOTS = 12  # pods at a time; each slot is a place on a node, with its addresses
STRANGERS = {4: ("203.0.113.7", "198.51.100.9"), 6: ("2001:db8::7", "2001:db8:1::9")}


def slot_node(number: int) -> str:
    """Return the node of a slot."""
    return NODES[number % len(NODES)]


def slot_addresses(number: int, *, dual: bool) -> list[str]:
    """Return the addresses of a slot, IPv4 first."""
    node = number % len(NODES)
    return [f"10.244.{node}.{10 + number}", *([f"fd00:10:244:{node}::{10 + number:x}"] if dual else [])]


class RandomCluster:
    """API objects that change at random."""

    def __init__(self, seed: int, *, pods: int = 8, policies: int = 5, dual: bool = False) -> None:
        self._random = random.Random(seed)
        self._dual = dual
        self._serial = 0
        self._slots: dict[int, tuple[str, str]] = {}
        self.objects: dict[tuple[str, str, str], Obj] = {}
        for number, name in enumerate(NODES):
            self._keep(self._node(name, number))
        for name in NAMESPACES:
            self._keep(self._namespace(name))
        for n in range(min(pods, SLOTS)):
            self._keep(self._pod(f"p{n}", n))
        for n in range(policies):
            self._keep(self._policy(f"np{n}"))

    def _keep(self, obj: Obj) -> Obj:
        meta = obj["metadata"]
        self.objects[obj["kind"], meta.get("namespace", ""), meta["name"]] = obj
        return obj

    def mutate(self) -> tuple[Obj | None, Obj | None]:
        """Change one thing; return (old, new): an object made, changed (both) or gone (new None)."""
        r = self._random
        choice = r.random()
        kinds = {
            k: [o for key, o in self.objects.items() if key[0] == k] for k in ("Pod", "NetworkPolicy", "Namespace")
        }
        self._serial += 1
        if choice < 0.35 and kinds["Pod"]:
            old = r.choice(kinds["Pod"])
            new = {**old, "metadata": {**old["metadata"], "labels": self._labels()}}
            if r.random() < 0.1:
                new["status"] = {**old["status"], "phase": r.choice(("Succeeded", "Running"))}
            return old, self._keep(new)
        free = [n for n in range(SLOTS) if n not in self._slots]
        if choice < 0.45 and free:
            return None, self._keep(self._pod(f"q{self._serial}", r.choice(free)))
        if choice < 0.55:
            old = r.choice(kinds["Namespace"])
            return old, self._keep(self._namespace(old["metadata"]["name"]))
        doomed = r.choice((*kinds["NetworkPolicy"], *kinds["Pod"])) if choice > 0.9 else None
        if doomed is not None:
            meta = doomed["metadata"]
            del self.objects[doomed["kind"], meta["namespace"], meta["name"]]
            if doomed["kind"] == "Pod":
                self._slots = {n: who for n, who in self._slots.items() if who != (meta["namespace"], meta["name"])}
            return doomed, None
        if choice < 0.75 and kinds["NetworkPolicy"]:
            old = r.choice(kinds["NetworkPolicy"])
            meta = old["metadata"]
            return old, self._keep(self._policy(meta["name"], meta["namespace"]))
        return None, self._keep(self._policy(f"np{self._serial + 100}"))

    def probes(self, count: int) -> Iterator[tuple[str, str, str, int]]:
        """Yield (source address, destination address, protocol, port) between pods, nodes and strangers."""
        r = self._random
        for _ in range(count):
            version = 6 if self._dual and r.random() < 0.5 else 4
            mine = self._addresses(version)
            source, destination = r.choice(mine), r.choice(mine)
            protocol = r.choice((*PROTOCOLS, "ICMP"))
            yield source, destination, protocol, r.choice(PORTS) if protocol != "ICMP" else 0

    def _addresses(self, version: int) -> list[str]:
        found = [
            e["ip"]
            for (kind, _, _), o in self.objects.items()
            if kind == "Pod"
            for e in o["status"]["podIPs"]
            if ip_address(e["ip"]).version == version
        ]
        return [*found, *STRANGERS[version]]

    # --- objects

    def _labels(self) -> dict[str, str]:
        return {k: self._random.choice(_VALUES) for k in _KEYS if self._random.random() < 0.7}

    def _node(self, name: str, number: int) -> Obj:
        cidrs = [f"10.244.{number}.0/24", *([f"fd00:10:244:{number}::/64"] if self._dual else [])]
        addresses = [f"192.168.71.{10 + number}", *([f"fd00:71::{10 + number}"] if self._dual else [])]
        return {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {"podCIDRs": cidrs},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]},
        }  # fmt: skip

    def _namespace(self, name: str) -> Obj:
        labels = {"kubernetes.io/metadata.name": name, **self._labels()}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}

    def _pod(self, name: str, number: int) -> Obj:
        r = self._random
        namespace = r.choice(NAMESPACES)
        self._slots[number] = (namespace, name)
        ips = slot_addresses(number, dual=self._dual)
        ports = [
            {"name": p, "containerPort": r.choice(PORTS), "protocol": r.choice(PROTOCOLS)}
            for p in _NAMES
            if r.random() < 0.6
        ]
        return {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": self._labels()},
            "spec": {"nodeName": slot_node(number), "containers": [{"name": "c", "image": "nginx", "ports": ports}]},
            "status": {"phase": "Running", "podIP": ips[0], "podIPs": [{"ip": i} for i in ips]},
        }  # fmt: skip

    def _selector(self) -> dict[str, Any]:
        r = self._random
        choice = r.random()
        if choice < 0.25:
            return {}
        if choice < 0.65:
            return {"matchLabels": {r.choice(_KEYS): r.choice(_VALUES)}}
        operator = r.choice(("In", "NotIn", "Exists", "DoesNotExist"))
        expression: dict[str, Any] = {"key": r.choice(_KEYS), "operator": operator}
        if operator in ("In", "NotIn"):
            expression["values"] = r.sample(_VALUES, r.randint(1, 2))
        return {"matchExpressions": [expression]}

    def _peer(self) -> dict[str, Any]:
        r = self._random
        choice = r.random()
        if choice < 0.25:
            return {"ipBlock": self._block()}
        peer: dict[str, Any] = {}
        if choice < 0.75:
            peer["podSelector"] = self._selector()
        if choice > 0.5:
            chosen = {"matchLabels": {"kubernetes.io/metadata.name": r.choice(NAMESPACES)}}
            peer["namespaceSelector"] = chosen if r.random() < 0.4 else self._selector()
        return peer

    def _block(self) -> dict[str, Any]:
        r = self._random
        texts = ["0.0.0.0/0", "10.244.0.0/16", "10.244.0.0/24", "203.0.113.0/24", "10.244.1.8/29", "10.244.0.12/32"]
        if self._dual:
            texts += ["::/0", "fd00:10:244::/48", "fd00:10:244:1::/64", "2001:db8::/64"]
        network = ip_network(r.choice(texts))
        block: dict[str, Any] = {"cidr": str(network)}
        if network.prefixlen < 28 and r.random() < 0.5:
            halves = list(network.subnets(prefixlen_diff=2))
            block["except"] = [str(n) for n in r.sample(halves, r.randint(1, 2))]
        return block

    def _port(self) -> dict[str, Any]:
        r = self._random
        choice = r.random()
        port: dict[str, Any] = {"protocol": r.choice(PROTOCOLS)} if r.random() < 0.7 else {}
        if choice < 0.4:
            port["port"] = r.choice(PORTS)
        elif choice < 0.6:
            port |= {"port": 80, "endPort": r.choice((81, 443))}
        elif choice < 0.85:
            port["port"] = r.choice(_NAMES)
        return port

    def _policy(self, name: str, namespace: str = "") -> Obj:
        r = self._random
        spec: dict[str, Any] = {"podSelector": self._selector()}
        types = r.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"], None))
        if types is not None:
            spec["policyTypes"] = types
        for direction, side in (("ingress", "from"), ("egress", "to")):
            if r.random() < 0.75:
                spec[direction] = [self._rule(side) for _ in range(r.randint(0, 2))]
        meta = {"name": name, "namespace": namespace or r.choice(NAMESPACES)}
        return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}

    def _rule(self, side: str) -> dict[str, Any]:
        r = self._random
        rule: dict[str, Any] = {}
        if r.random() < 0.85:
            rule[side] = [self._peer() for _ in range(r.randint(0, 2))]
        if r.random() < 0.6:
            rule["ports"] = [self._port() for _ in range(r.randint(0, 2))]
        return rule
