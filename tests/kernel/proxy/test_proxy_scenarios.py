"""Every scenario folder, and random clusters, judged by the model, the tracer and real packets.

A folder has ``cluster.yaml`` (Services and slices, with $names for addresses) and ``probes.yaml``: who asks whom,
and either ``verdict`` (reject, drop, pass) or ``answers`` and whom these see: the client, or the node.
"""

from __future__ import annotations

import random
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml
from proxy_tracers import IptablesTracer, NftTracer
from proxy_world import PORT, REFUSED, SILENT, Plan, Proxy, World

from podwire.kernel.iptables.fake import FakeIptables
from podwire.kernel.nft.fake import FakeNft
from podwire.model.objects import Key, Obj
from podwire.proxy.apply.iptables import IptablesDataplane
from podwire.proxy.apply.nftables import NftablesDataplane
from podwire.proxy.desired import TCP, UDP, ServiceRules, Target
from podwire.proxy.evaluate import Model, Outcome, Packet
from podwire.proxy.programmer import Programmer

pytestmark = pytest.mark.kernel

FOLDERS = Path(__file__).parents[2] / "scenarios" / "services"
ZONE = "east"
ASKS = 24
NUMBERS = {"tcp": TCP, "udp": UDP}


def names(p: Plan) -> dict[str, str]:
    lb, external = ("203.0.113.5", "203.0.113.6") if p.v == 4 else ("fd00:203::5", "fd00:203::6")
    return {
        **p.pods, "vip": p.vip, "other_vip": p.other_vip, "node": p.node, "gateway": p.gateway, "outside": p.outside,
        "lb": lb, "external": external, "bits": str(p.bits[1]), "family": f"IPv{p.v}",
    }  # fmt: skip


@cache
def read(path: Path, plan_v: int, plan: Any) -> list[Any]:
    text = Template(path.read_text()).substitute(names(plan.value))
    return [d for d in yaml.safe_load_all(text) if d is not None]


class Held:
    """A value by which ``cache`` tells nothing apart but the IP version."""

    def __init__(self, value: Plan) -> None:
        self.value = value

    def __hash__(self) -> int:
        return self.value.v

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and other.value.v == self.value.v


def packet_of(world: World, probe: dict[str, Any]) -> Packet:
    source = names(world.plan)[probe["from"]]
    number = NUMBERS[probe.get("protocol", "tcp")]
    return Packet(ip_address(source), ip_address(str(probe["to"])), number, probe["port"])


def trace(proxy: Proxy, plans: dict[Key, ServiceRules | None], packet: Packet) -> Outcome:
    """Return what a walk through this mode's rules says."""
    place, v = proxy.place, proxy.world.plan.v
    nets = place.pod_networks, place.service_networks
    if proxy.mode == "iptables":
        iptables = FakeIptables()
        Programmer(IptablesDataplane(iptables, [v], *nets, lambda: 0), None).program(plans)
        return IptablesTracer(iptables.tables[v], place).trace(packet)
    nft = FakeNft()
    Programmer(NftablesDataplane(nft, [v], *nets), None).program(plans)
    return NftTracer(nft.scripts, nft.tables["inet", "podwire-proxy"], place).trace(packet)


def expected(world: World, probe: dict[str, Any]) -> Outcome:
    if "verdict" in probe:
        return Outcome(probe["verdict"])
    port = {"tcp": PORT, "udp": PORT}[probe.get("protocol", "tcp")]
    ports = {"p3": PORT + 1} if probe.get("answers") == ["p3"] else {}
    targets = {n: Target(ip_address(world.plan.pods[n]), ports.get(n, port)) for n in probe["answers"]}
    sees = probe["sees"] if isinstance(probe["sees"], dict) else dict.fromkeys(targets, probe["sees"])
    return Outcome(
        "forward", frozenset(targets.values()), frozenset(t for n, t in targets.items() if sees[n] == "node")
    )


def seen(world: World, packet: Packet, target: Target, masqueraded: bool) -> str:
    """Return what a server there answers."""
    name = next(n for n, a in world.plan.pods.items() if ip_address(a) == target.address)
    hidden = world.plan.node if name == "far" else world.plan.gateway
    return f"{name} {hidden if masqueraded else packet.source}"


def answers_of(world: World, packet: Packet, outcome: Outcome) -> set[str]:
    """Return the answers that real packets may bring."""
    match outcome.verdict:
        case "forward":
            return {seen(world, packet, t, t in outcome.masqueraded) for t in outcome.targets}
        case "reject":
            return {REFUSED}
        case "drop":
            return {SILENT}
    return {REFUSED, SILENT}


def judged(o: Outcome) -> tuple[Any, ...]:
    return o.verdict, o.targets, o.masqueraded


@pytest.mark.parametrize("case", sorted(p.name for p in FOLDERS.iterdir()))
def test_scenario(world: World, proxy: Proxy, case: str) -> None:
    held = Held(world.plan)
    documents = read(FOLDERS / case / "cluster.yaml", world.plan.v, held)
    services = [d for d in documents if d["kind"] == "Service"]
    plans = proxy.put(services, [d for d in documents if d["kind"] == "EndpointSlice"], ZONE)
    model = Model(plans, proxy.place)
    (probes,) = read(FOLDERS / case / "probes.yaml", world.plan.v, held)
    for probe in probes:
        packet, wanted = packet_of(world, probe), expected(world, probe)
        assert judged(model.evaluate(packet)) == judged(wanted), ("model", probe)
        assert judged(trace(proxy, plans, packet)) == judged(wanted), ("tracer", probe)
        ask = probe["from"], str(packet.destination), packet.port, probe.get("protocol", "tcp")
        quiet = wanted.verdict in ("drop", "pass")
        count = 2 if quiet else 4 if wanted.verdict == "reject" else ASKS  # ICMP errors have a limit in all
        got = world.ask_many([ask] * count, frozenset(range(count)) if quiet else frozenset())
        may = answers_of(world, packet, wanted)
        if probe.get("sticks"):
            later = {world.ask(*ask) for _ in range(6)}
            assert len(later) == 1, ("packets do not stick", probe, later)
            assert later <= may
        elif wanted.verdict == "pass":
            assert set(got) <= may, ("packets", probe)
        else:
            assert set(got) == may, ("packets", probe)


def random_cluster(rng: random.Random, world: World) -> tuple[list[Obj], list[Obj]]:
    """Return one or two Services over the pods that there are."""
    where, v = names(world.plan), world.plan.v
    services, slices = [], []
    for number, vip in enumerate(rng.sample([where["vip"], where["other_vip"]], rng.randrange(1, 3))):
        spec: dict[str, Any] = {"type": rng.choice(["ClusterIP", "NodePort", "LoadBalancer"]), "clusterIP": vip}
        spec["clusterIPs"] = [vip]
        spec["ports"] = [
            {"name": n, "port": 80, "protocol": n.upper(), "nodePort": 30080 + number} for n in ("tcp", "udp")
        ]
        spec["externalTrafficPolicy"] = rng.choice(["Cluster", "Local"])
        spec["internalTrafficPolicy"] = rng.choice(["Cluster", "Cluster", "Local"])
        spec["sessionAffinity"] = rng.choice(["None", "None", "ClientIP"])
        if rng.random() < 0.4:
            spec["externalIPs"] = [where["external"]]
        if rng.random() < 0.4:
            spec["loadBalancerSourceRanges"] = [f"{where[rng.choice(['p1', 'outside', 'far'])]}/{where['bits']}"]
        obj: Obj = {
            "kind": "Service", "spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": where["lb"]}]}},
            "metadata": {"namespace": "default", "name": f"s{number}", "creationTimestamp": str(2020 + number)},
        }  # fmt: skip
        endpoints = []
        for name in rng.sample(list(world.plan.pods), rng.randrange(0, 4)):
            ready = rng.random() < 0.7
            node = "far" if name == "far" else "node"
            conditions = {"ready": ready, "serving": ready or rng.random() < 0.5, "terminating": not ready}
            endpoints.append({"addresses": [world.plan.pods[name]], "nodeName": node, "conditions": conditions})
        ports = [{"name": n, "port": rng.choice([PORT, PORT + 1]), "protocol": n.upper()} for n in ("tcp", "udp")]
        meta = {"namespace": "default", "name": f"s{number}-1", "labels": {"kubernetes.io/service-name": f"s{number}"}}
        slices.append(
            {
                "kind": "EndpointSlice",
                "metadata": meta,
                "addressType": f"IPv{v}",
                "ports": ports,
                "endpoints": endpoints,
            }
        )
        services.append(obj)
    return services, slices


def test_real_packets_do_what_the_model_says(world: World, proxy: Proxy) -> None:
    """With 4 worlds (two modes, two families) 2,560 packets."""
    rng, where = random.Random(world.plan.v), names(world.plan)
    for _ in range(16):
        plans = proxy.put(*random_cluster(rng, world))
        model = Model(plans, proxy.place)
        asks, fates = [], []
        for _ in range(40):
            source = rng.choice(["p1", "p2", "p3", "node", "outside", "outside"])
            to, port = rng.choice(
                [
                    ("vip", 80),
                    ("vip", 81),
                    ("other_vip", 80),
                    ("node", 30080),
                    ("node", 30081),
                    ("lb", 80),
                    ("external", 80),
                ]
            )
            kind = rng.choice(["tcp", "udp"])
            packet = Packet(ip_address(where[source]), ip_address(where[to]), NUMBERS[kind], port)
            fates.append((packet, model.evaluate(packet)))
            asks.append((source, where[to], port, kind))
        quiet = frozenset(i for i, (_, o) in enumerate(fates) if o.verdict in ("drop", "pass"))
        got = world.ask_many(asks, quiet)
        for ask, (packet, fate), first in zip(asks, fates, got, strict=True):
            # The kernel sends a limited number of ICMP errors a second: an error that is missing is asked for again.
            answer = world.ask(*ask) if (fate.verdict, first) == ("reject", SILENT) else first
            assert answer in answers_of(world, packet, fate), (packet, fate)
