"""Whatever the order of events, the iptables chains end the same; a restart writes only the difference."""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import ip_address, ip_network

import pytest
from proxy_random import NETS, addr, random_service

from podwire.kernel.iptables.fake import FakeIptables
from podwire.model.objects import Key, key_of
from podwire.proxy.apply.iptables import IptablesDataplane
from podwire.proxy.desired import Here, ServiceRules
from podwire.proxy.plan import plan_service
from podwire.proxy.programmer import Programmer

Plans = dict[Key, ServiceRules | None]


def programmer(iptables: FakeIptables, v: int) -> Programmer:
    pods, services = [ip_network(NETS[v][0])], [ip_network(NETS[v][1])]
    return Programmer(IptablesDataplane(iptables, [v], pods, services, lambda: 0), None)


def cluster(rng: random.Random, v: int) -> Plans:
    here = Here("n1", (ip_address(addr(v, 2, 10)),))
    made = [random_service(rng, v, number) for number in rng.sample(range(6), rng.randrange(1, 6))]
    return {key_of(s): plan_service(s, pieces, here) for s, pieces in made}


def comparable(iptables: FakeIptables, v: int) -> dict[tuple[str, str], tuple[Counter[str], list[str]]]:
    """Return the chains that hold rules; the order counts within a Service's own, whose names are long."""
    return {
        (table, chain): (Counter(rules), rules if len(chain) > 24 else [])
        for table, chains in iptables.tables[v].items()
        for chain, rules in chains.items()
        if rules
    }


@pytest.mark.parametrize("v", [4, 6])
def test_any_path_to_a_cluster_ends_in_the_same_chains(v: int) -> None:
    rng = random.Random(v)
    for _ in range(60):
        final = cluster(rng, v)
        fresh, walked = FakeIptables(), FakeIptables()
        programmer(fresh, v).program(final)
        walker = programmer(walked, v)
        walker.program({})
        for _ in range(rng.randrange(1, 4)):
            for key, rules in cluster(rng, v).items():
                walker.program({key: rules})
        everyone = {Key("default", f"s{n}"): final.get(Key("default", f"s{n}")) for n in range(6)}
        for key in rng.sample(list(everyone), len(everyone)):
            walker.program({key: everyone[key]})
        assert comparable(walked, v) == comparable(fresh, v)
        scripts = len(walked.scripts)
        assert programmer(walked, v).program(final).changed == 0
        assert len(walked.scripts) == scripts
        programmer(walked, v)._dataplane.remove()
        assert "KUBE-" not in walked.save(v)
        assert "PODWIRE-" not in walked.save(v)
