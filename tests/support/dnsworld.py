"""Scenarios of the DNS: a cluster, a Corefile, questions with their answers; and a responder made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from podwire.dns import blocks
from podwire.dns.corefile import Settings, parse_corefile
from podwire.dns.engine import make_index
from podwire.dns.index import Index
from podwire.dns.manifests import corefile
from podwire.dns.packed import pack_service, pack_slice
from podwire.dns.responder import Responder
from podwire.model.objects import Key, Obj, key_of, labels_of

SCENARIOS = sorted(p.parent for p in (Path(__file__).parent.parent / "scenarios" / "dns").glob("*/queries.yaml"))


@dataclass(frozen=True)
class Question:
    """One line of queries.yaml."""

    name: str
    type: str
    client: str
    rcode: str
    answer: tuple[str, ...]
    glue: tuple[str, ...] | None
    owner: str
    tools: bool  # whether programs on loopback see the same


def questions(case: Path) -> list[Question]:
    """Return what is asked in a scenario."""
    found = []
    for row in yaml.safe_load((case / "queries.yaml").read_text()):
        name, type = row["query"].split()
        glue = tuple(row["glue"]) if "glue" in row else None
        found.append(
            Question(name, type, row.get("from", "10.244.0.1"), row.get("rcode", "NOERROR"), tuple(row.get("answer", ())),
                     glue, row.get("owner", ""), row.get("tools", True))
        )  # fmt: skip
    return found


def objects(case: Path) -> list[Obj]:
    """Return the cluster's objects."""
    return [o for o in yaml.safe_load_all((case / "cluster.yaml").read_text()) if o]


def settings(case: Path) -> Settings:
    """Return the Corefile's, or a new cluster's."""
    file = case / "Corefile"
    text = file.read_text().replace("/HERE", str(case)) if file.exists() else corefile("cluster.local")
    return parse_corefile(text, str(file))


def fill(index: Index, cluster: list[Obj]) -> None:
    """Tell an index of every object."""
    pieces: dict[Key, list[bytes]] = {}
    for o in cluster:
        if o["kind"] == "EndpointSlice":
            owner = Key(key_of(o).namespace, labels_of(o)["kubernetes.io/service-name"])
            pieces.setdefault(owner, []).append(pack_slice(o))
    for o in cluster:
        if o["kind"] == "Service":
            index.put(key_of(o), pack_service(o), pieces.get(key_of(o), ()))
        elif o["kind"] == "Namespace":
            index.set_namespace(key_of(o).name, True)
        elif o["kind"] == "Pod":
            for ip in o["status"]["podIPs"]:
                index.count_pod_address(key_of(o).namespace, ip["ip"], 1)


def responder(case: Path) -> Responder:
    """Return a responder over the scenario's cluster."""
    wanted: Any = settings(case)
    index = make_index(wanted, serial=1)
    fill(index, objects(case))
    made = blocks.build(wanted, index, lambda: None).responder
    made.has_upstream = bool(wanted.zone_files)
    made.synced = True
    return made
