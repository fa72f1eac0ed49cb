"""Real packets in real namespaces, predicted by the model: the kernel must agree, on random clusters and in detail."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from podwire.kernel.nft.port import Element, ElementChange
from podwire.model.errors import MachineError
from podwire.model.objects import Key
from podwire.policy.feed import feed_all, feed_change
from podwire.policy.fuzz import NODES, slot_addresses, slot_node
from podwire.policy.packets import PacketWorld, Sent
from podwire.policy.programmer import Programmer
from podwire.policy.proof import prove
from podwire.policy.render import nftables as render
from podwire.policy.table import PolicyTable

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def world() -> Iterator[PacketWorld]:
    made = PacketWorld()
    yield made
    made.close()


@pytest.fixture
def lab(world: PacketWorld) -> Iterator[Lab]:
    world.forget_connections()
    made = Lab(world)
    yield made
    for name in NODES:
        for table in render.TABLES:
            world.nft[name].apply(render.delete(table))


class Lab:
    """Two nodes under the agent's own table and programmer, with pods named after their slots."""

    def __init__(self, world: PacketWorld) -> None:
        self.world = world
        self.tables = {n: PolicyTable(n, (4, 6)) for n in NODES}
        self.programmers = {n: Programmer(world.nft[n], self.tables[n]) for n in NODES}
        self.tell({"kind": "Namespace", "metadata": {"name": "a", "labels": {"team": "a"}}})
        self.tell({"kind": "Namespace", "metadata": {"name": "b", "labels": {"team": "b"}}})
        for number, name in enumerate(NODES):
            cidrs = [f"10.244.{number}.0/24", f"fd00:10:244:{number}::/64"]
            addresses = [
                {"type": "InternalIP", "address": a} for a in (f"192.168.71.{10 + number}", f"fd00:71::{10 + number}")
            ]
            self.tell(
                {
                    "kind": "Node",
                    "metadata": {"name": name},
                    "spec": {"podCIDRs": cidrs},
                    "status": {"addresses": addresses},
                }
            )

    def tell(self, *objects: dict[str, Any]) -> None:
        for table in self.tables.values():
            feed_all(table, objects)

    def forget(self, obj: dict[str, Any]) -> None:
        for table in self.tables.values():
            feed_change(table, obj, None)

    def program(self) -> None:
        for programmer in self.programmers.values():
            programmer.program()

    def pod(
        self, slot: int, namespace: str = "a", ports: list[dict[str, Any]] | None = None, **labels: str
    ) -> dict[str, Any]:
        obj = {
            "kind": "Pod", "metadata": {"name": f"p{slot}", "namespace": namespace, "labels": labels},
            "spec": {"nodeName": slot_node(slot), "containers": [{"ports": ports or []}]},
            "status": {"phase": "Running", "podIPs": [{"ip": a} for a in slot_addresses(slot, dual=True)]},
        }  # fmt: skip
        self.tell(obj)
        return obj

    def policy(self, spec: dict[str, Any], name: str = "np", namespace: str = "a") -> dict[str, Any]:
        obj = {"kind": "NetworkPolicy", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
        self.tell(obj)
        return obj

    def reaches(
        self, source: int | str, destination: int | str, port: int = 80, protocol: str = "TCP", six: bool = False
    ) -> bool:
        ends = [
            ip_address(slot_addresses(e, dual=True)[six] if isinstance(e, int) else e) for e in (source, destination)
        ]
        return self.world.deliver([Sent(*ends, protocol, port)])[0]


STRANGER = "203.0.113.7"


def test_random_clusters_behave_as_the_model_says(world: PacketWorld) -> None:
    tally = prove(world, range(1000, 1300), probes=18)
    assert not tally.differences, "\n".join(map(str, tally.differences[:10]))
    assert tally.clusters == 300
    assert tally.probes >= 20_000
    assert 0.2 < tally.allowed / tally.probes < 0.9


class Careless(Programmer):
    """Opens, after each round, one pod that is to be isolated."""

    def program(self) -> int:
        done = super().program()
        closed = [e for e in self._elements.get("ingress-pods", {}).values() if e.verdict != "accept"][:1]
        if closed:
            opened = tuple(Element(e.key, verdict="accept") for e in closed)
            self._nft.change([ElementChange(render.FAMILY, self.in_force, "ingress-pods", opened, tuple(closed))])
            self.forget()
        return done


def test_the_proof_finds_a_rule_that_is_wrong(world: PacketWorld) -> None:
    assert prove(world, range(12), make=Careless).differences


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("near", [True, False], ids=["same-node", "across"])
def test_a_pod_is_isolated_and_opened(lab: Lab, six: bool, near: bool) -> None:
    client, server = 0, 2 if near else 1
    lab.pod(client, app="client")
    lab.pod(server, app="server")
    lab.program()
    assert lab.reaches(client, server, six=six)
    lab.policy({"podSelector": {"matchLabels": {"app": "server"}}})
    lab.program()
    assert not lab.reaches(client, server, six=six)
    assert lab.reaches(server, client, six=six)
    lab.policy(
        {
            "podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 80}]}],
        }
    )
    lab.program()
    assert lab.reaches(client, server, six=six)
    assert not lab.reaches(client, server, 81, six=six)
    assert not lab.reaches(client, server, 80, "UDP", six=six)


def test_an_address_of_no_known_pod_is_closed_until_it_is_admitted(lab: Lab) -> None:
    lab.pod(0)
    lab.program()
    assert not lab.reaches(0, 2)
    assert not lab.reaches(2, 0)
    assert not lab.reaches(STRANGER, 2)
    obj = lab.pod(2)
    lab.forget(obj)
    started = {**obj, "status": {"phase": "Pending"}}
    lab.tell(started)
    lab.program()
    assert not lab.reaches(0, 2)
    lab.tables["node-0"].admit("sandbox", Key("a", "p2"), tuple(ip_address(a) for a in slot_addresses(2, dual=True)))
    lab.program()
    assert lab.reaches(0, 2)
    assert lab.reaches(0, 2, six=True)
    lab.tables["node-0"].release("sandbox")
    lab.program()
    assert not lab.reaches(0, 2)


def test_an_address_changes_hands_with_no_rights_of_the_former_owner(lab: Lab) -> None:
    lab.pod(0, app="server")
    friend = lab.pod(1, role="friend")
    lab.policy(
        {
            "podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
        }
    )
    lab.program()
    assert lab.reaches(1, 0)
    lab.forget(friend)
    stranger = {**friend, "metadata": {**friend["metadata"], "name": "other", "labels": {}}}
    lab.tell(stranger)
    lab.program()
    assert not lab.reaches(1, 0)


def test_a_new_agent_takes_over_without_an_open_or_a_closed_moment(lab: Lab) -> None:
    lab.pod(0, app="server")
    lab.pod(2, role="friend")
    lab.pod(4)
    lab.policy(
        {
            "podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
        }
    )
    lab.program()
    nft = lab.world.nft["node-0"]
    first = lab.programmers["node-0"].in_force
    seen: list[tuple[bool, bool]] = []

    class Watching:
        """The node's nftables; asks the packets after every transaction of the new agent."""

        def __getattr__(self, name: str) -> Any:
            act = getattr(nft, name)

            def watched(*words: Any) -> Any:
                answer = act(*words)
                seen.append((lab.reaches(2, 0), lab.reaches(4, 0)))
                return answer

            return watched

    table = lab.tables["node-0"]
    successor = Programmer(Watching(), table)  # type: ignore[arg-type]
    successor.program()
    assert len(seen) > 4
    assert set(seen) == {(True, False)}
    assert successor.in_force != first
    assert nft.list_table(render.FAMILY, first) is None


def test_a_half_built_table_of_a_killed_agent_is_replaced(lab: Lab) -> None:
    lab.pod(0, app="server")
    lab.pod(2)
    lab.policy({"podSelector": {"matchLabels": {"app": "server"}}})
    lab.program()
    nft = lab.world.nft["node-0"]
    half = next(t for t in render.TABLES if t != lab.programmers["node-0"].in_force)
    nft.apply(render.skeleton(half, (4, 6)))
    lab.programmers["node-0"] = Programmer(nft, lab.tables["node-0"])
    lab.program()
    assert not lab.reaches(2, 0)
    assert nft.elements(render.FAMILY, half, render.GENERATION) == (Element(struct.pack("=I", 2)),)


def test_a_foreign_edit_is_noticed_and_repaired(lab: Lab) -> None:
    lab.pod(0, app="server")
    lab.pod(2)
    lab.policy({"podSelector": {"matchLabels": {"app": "server"}}})
    lab.program()
    nft, programmer = lab.world.nft["node-0"], lab.programmers["node-0"]
    assert not programmer.disturbed()
    nft.apply("table inet others { }")
    assert programmer.disturbed()
    assert programmer.check()
    assert not programmer.disturbed()
    nft.apply("delete table inet others")
    nft.apply(f"flush map inet {programmer.in_force} ingress-pods")
    assert programmer.disturbed()
    assert not programmer.check()
    programmer.forget()
    programmer.program()
    assert not lab.reaches(2, 0)


def test_a_failed_write_changes_nothing_and_the_next_one_mends(lab: Lab) -> None:
    lab.pod(0, app="server")
    lab.pod(2)
    lab.program()
    nft, programmer = lab.world.nft["node-0"], lab.programmers["node-0"]
    nft.apply(f"delete table inet {programmer.in_force}")
    lab.policy({"podSelector": {"matchLabels": {"app": "server"}}})
    with pytest.raises(MachineError):
        programmer.program()
    programmer.forget()
    lab.program()
    assert not lab.reaches(2, 0)


def test_many_peers_and_ports_get_a_chain_of_their_own(lab: Lab) -> None:
    lab.pod(0, app="server")
    lab.pod(1)
    peers = [{"ipBlock": {"cidr": f"198.51.{n}.0/24"}} for n in range(40)]
    ports = [{"port": 1000 + n} for n in range(20)]
    lab.policy({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": peers, "ports": ports}]})
    lab.program()
    chains = [c for c in lab.programmers["node-0"]._chains if c.endswith(".ports")]
    assert len(chains) == 1
    assert lab.reaches("198.51.100.9", 0, 1019) is False
    peers.append({"ipBlock": {"cidr": "198.51.100.0/24"}})
    lab.policy({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": peers, "ports": ports}]})
    lab.program()
    assert lab.reaches("198.51.100.9", 0, 1019)
    assert not lab.reaches("198.51.100.9", 0, 1020)


def test_what_is_listed_says_why(lab: Lab) -> None:
    lab.pod(0, app="server")
    lab.pod(2)
    lab.policy(
        {
            "podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"namespaceSelector": {}}], "ports": [{"port": 80}]}],
        },
        name="db",
    )
    lab.program()
    assert lab.reaches(2, 0)
    assert not lab.reaches(2, 0, 81)
    text = lab.world.nft["node-0"].list_table("inet", lab.programmers["node-0"].in_force) or ""
    assert 'tcp dport 80 counter packets 1 bytes 40 accept comment "a/db spec.ingress[0].from[0] ports[0]"' in text
    assert 'counter packets 1 bytes 40 drop comment "isolated by a/db; no rule allows it"' in text
    assert 'comment "namespaces all; pods all"' in text
