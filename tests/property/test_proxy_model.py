"""Random clusters, random packets: the model and a walk through the rendered rules of each mode agree."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from proxy_random import NETS, addr, pod, random_packet, random_service
from proxy_tracers import IptablesTracer, NftTracer

from podwire.kernel.iptables.fake import FakeIptables
from podwire.kernel.nft.fake import FakeNft
from podwire.model.objects import Key, key_of
from podwire.proxy.apply.iptables import IptablesDataplane
from podwire.proxy.apply.nftables import NftablesDataplane
from podwire.proxy.desired import Here, ServiceRules
from podwire.proxy.evaluate import Model, Outcome, Place
from podwire.proxy.plan import plan_service
from podwire.proxy.programmer import Programmer


def judged(o: Outcome) -> tuple[Any, ...]:
    return o.verdict, o.targets, o.masqueraded


@pytest.mark.parametrize("v", [4, 6])
def test_model_and_both_modes_agree_on_random_packets(v: int) -> None:
    rng = random.Random(v)
    pods, services = [ip_network(NETS[v][0])], [ip_network(NETS[v][1])]
    own = frozenset({ip_address(addr(v, 2, 10)), ip_address(pod(v, 1, 254))})
    here = Here("n1", (ip_address(addr(v, 2, 10)),))
    place = Place(tuple(pods), tuple(services), own)
    verdicts: dict[str, int] = {}
    for _ in range(60):
        nft, iptables = FakeNft(), FakeIptables()
        programmers = [
            Programmer(NftablesDataplane(nft, [v], pods, services), None),
            Programmer(IptablesDataplane(iptables, [v], pods, services, lambda: 0), None),
        ]
        plans: dict[Key, ServiceRules | None] = {}
        for round_ in range(2):  # written whole, then by differences
            changed: dict[Key, ServiceRules | None] = {}
            for number in rng.sample(range(6), 4):
                service, pieces = random_service(rng, v, number)
                changed[key_of(service)] = (
                    None if round_ and rng.random() < 0.2 else plan_service(service, pieces, here)
                )
            plans |= changed
            for programmer in programmers:
                programmer.program(changed)
        model = Model(plans, place)
        tracers = (
            NftTracer(nft.scripts, nft.tables["inet", "podwire-proxy"], place),
            IptablesTracer(iptables.tables[v], place),
        )
        for _ in range(50):
            packet = random_packet(rng, v)
            expected = model.evaluate(packet)
            verdicts[expected.verdict] = verdicts.get(expected.verdict, 0) + 1
            for tracer in tracers:
                assert judged(tracer.trace(packet)) == judged(expected), (type(tracer).__name__, packet, expected)
    assert min(verdicts.get(w, 0) for w in ("forward", "pass", "reject", "drop")) > 100, verdicts
