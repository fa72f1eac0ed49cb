"""Random small clusters with random policies, as API objects: dense in the edges where engines go wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from podwire.model.objects import Obj

NAMESPACES = ("a", "b", "c")
_KEYS = {"app": ("x", "y", ""), "tier": ("x", "z")}
_BLOCKS = (
    "0.0.0.0/0",
    "10.244.0.0/16",
    "10.244.1.0/24",
    "10.244.2.4/30",
    "203.0.113.0/24",
    "192.168.71.0/24",
    "::/0",
    "fd00:10:244:1::/64",
)
_EXCEPTS = {"0.0.0.0/0": ("10.0.0.0/8", "203.0.113.0/24", "10.244.1.4/30"), "10.244.0.0/16": ("10.244.1.0/24", "10.244.2.5/32"),
            "::/0": ("fd00:10:244:2::/64",)}  # fmt: skip
NUMBERS = (53, 80, 81, 443, 8080)
_NAMES = ("http", "dns")

labels = st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in _KEYS.items()})


@st.composite
def _expression(draw: st.DrawFn) -> Obj:
    key = draw(st.sampled_from([*_KEYS, "gone"]))
    operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
    made: Obj = {"key": key, "operator": operator}
    if operator in ("In", "NotIn"):
        made["values"] = draw(st.lists(st.sampled_from(["x", "y", "z", ""]), min_size=1, max_size=2))
    return made


selectors = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {}, optional={"matchLabels": labels, "matchExpressions": st.lists(_expression(), max_size=2)}
    ),
)
namespace_selectors = st.one_of(
    selectors, st.builds(lambda n: {"matchLabels": {"kubernetes.io/metadata.name": n}}, st.sampled_from(NAMESPACES))
)


@st.composite
def _block(draw: st.DrawFn) -> Obj:
    cidr = draw(st.sampled_from(_BLOCKS))
    excepts = draw(st.lists(st.sampled_from(_EXCEPTS[cidr]), max_size=2)) if cidr in _EXCEPTS else []
    return {"ipBlock": {"cidr": cidr, **({"except": excepts} if excepts else {})}}


@st.composite
def _port(draw: st.DrawFn) -> Obj:
    made: Obj = {}
    if draw(st.booleans()):
        made["protocol"] = draw(st.sampled_from(["TCP", "UDP", "SCTP"]))
    kind = draw(st.integers(0, 4))
    if kind == 1:
        made["port"] = draw(st.sampled_from(_NAMES))
    elif kind >= 2:
        made["port"] = draw(st.sampled_from(NUMBERS))
        if kind == 4:
            made["endPort"] = draw(st.sampled_from([n for n in NUMBERS if n >= made["port"]]))
    return made


peers = st.one_of(
    st.builds(lambda s: {"podSelector": s}, selectors),
    st.builds(lambda s: {"namespaceSelector": s}, namespace_selectors),
    st.builds(lambda n, p: {"namespaceSelector": n, "podSelector": p}, namespace_selectors, selectors),
    _block(),
)


def _rules(side: str) -> st.SearchStrategy[list[Obj]]:
    rule = st.fixed_dictionaries(
        {}, optional={side: st.lists(peers, max_size=2), "ports": st.lists(_port(), max_size=2)}
    )
    return st.lists(rule, max_size=2)


@st.composite
def network_policies(draw: st.DrawFn, name: str = "p") -> Obj:
    spec: Obj = {"podSelector": draw(selectors)}
    if draw(st.booleans()):
        spec["policyTypes"] = draw(
            st.lists(st.sampled_from(["Ingress", "Egress"]), min_size=1, max_size=2, unique=True)
        )
    if draw(st.booleans()):
        spec["ingress"] = draw(_rules("from"))
    if draw(st.booleans()):
        spec["egress"] = draw(_rules("to"))
    return {
        "kind": "NetworkPolicy",
        "metadata": {"namespace": draw(st.sampled_from(NAMESPACES)), "name": name},
        "spec": spec,
    }


def _cluster_pods() -> st.SearchStrategy[Obj]:
    return st.one_of(
        st.builds(lambda s: {"namespaces": s}, namespace_selectors),
        st.builds(lambda n, p: {"pods": {"namespaceSelector": n, "podSelector": p}}, namespace_selectors, selectors),
    )


@st.composite
def _cluster_rule(draw: st.DrawFn, side: str, actions: tuple[str, ...]) -> Obj:
    known: list[st.SearchStrategy[Any]] = [_cluster_pods(), _cluster_pods()]
    if side == "to":
        known.append(st.builds(lambda s: {"nodes": s}, selectors))
        known.append(st.builds(lambda c: {"networks": c}, st.lists(st.sampled_from(_BLOCKS), min_size=1, max_size=2)))
    if draw(st.integers(0, 19)) == 0:
        known.append(st.just({"unheardOf": {}}))
    made: Obj = {
        "action": draw(st.sampled_from(actions)),
        side: draw(st.lists(st.one_of(known), min_size=1, max_size=2)),
    }
    protocols = []
    for _ in range(draw(st.integers(0, 2))):
        number = draw(st.sampled_from(NUMBERS))
        ends = [n for n in NUMBERS if n > number] or [65535]
        protocol = draw(st.sampled_from(["tcp", "udp"]))
        protocols.append(draw(st.sampled_from([
            {protocol: {"destinationPort": {"number": number}}},
            {protocol: {"destinationPort": {"range": {"start": number, "end": ends[0]}}}},
            {"destinationNamedPort": "http"},
        ])))  # fmt: skip
    if protocols:
        made["protocols"] = protocols
    return made


@st.composite
def cluster_policies(draw: st.DrawFn, name: str = "c") -> Obj:
    spec: Obj = {
        "tier": draw(st.sampled_from(["Admin", "Baseline"])),
        "priority": draw(st.integers(0, 2)),
        "subject": draw(_cluster_pods()),
    }
    actions = ("Accept", "Deny", "Pass")
    for direction, side in (("ingress", "from"), ("egress", "to")):
        if draw(st.booleans()):
            spec[direction] = draw(st.lists(_cluster_rule(side, actions), max_size=3))
    return {"kind": "ClusterNetworkPolicy", "metadata": {"name": name}, "spec": spec}


@st.composite
def pods(draw: st.DrawFn, number: int) -> Obj:
    node = draw(st.integers(1, 2))
    host = draw(st.integers(0, 9)) == 0
    address = f"192.168.71.1{node}" if host else f"10.244.{node}.{number + 2}"
    ips = [{"ip": address}]
    if not host and draw(st.booleans()):
        ips.append({"ip": f"fd00:10:244:{node}::{number + 2}"})
    named = [
        {"name": n, "containerPort": draw(st.sampled_from(NUMBERS)), "protocol": draw(st.sampled_from(["TCP", "UDP"]))}
        for n in draw(st.lists(st.sampled_from(_NAMES), unique=True, max_size=2))
    ]
    return {
        "kind": "Pod",
        "metadata": {"namespace": draw(st.sampled_from(NAMESPACES)), "name": f"pod-{number}", "labels": draw(labels)},
        "spec": {"nodeName": f"n{node}", "hostNetwork": host, "containers": [{"ports": named}]},
        "status": {"phase": draw(st.sampled_from(["Running"] * 9 + ["Failed"])), "podIPs": ips},
    }


NODES: tuple[Obj, ...] = tuple(
    {
        "kind": "Node",
        "metadata": {"name": f"n{n}", "labels": {"app": "x"} if n == 1 else {"tier": "z"}},
        "spec": {"podCIDRs": [f"10.244.{n}.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.71.1{n}"}]},
    }
    for n in (1, 2)
)


@st.composite
def worlds(draw: st.DrawFn) -> list[Obj]:
    """A cluster's objects: namespaces with labels, two nodes, up to eight pods, up to five policies."""
    objects: list[Obj] = [{"kind": "Namespace", "metadata": {"name": n, "labels": draw(labels)}} for n in NAMESPACES]
    objects += NODES
    objects += [draw(pods(n)) for n in range(draw(st.integers(1, 8)))]
    objects += [draw(network_policies(f"p{n}")) for n in range(draw(st.integers(0, 4)))]
    objects += [draw(cluster_policies(f"c{n}")) for n in range(draw(st.integers(0, 2)))]
    return objects
