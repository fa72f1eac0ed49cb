"""The matrix, its formats, exposure, and the semantic difference."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path

import pytest

from podwire.policy.evaluate import Packet, evaluate
from podwire.policy.rules import PortRange
from podwire.verify import changes, exposure, formats, grid, sources, world
from podwire.verify.located import overlay
from podwire.verify.world import World

SHOP = Path(__file__).parents[2] / "scenarios" / "shop"


@pytest.fixture(scope="module")
def shop() -> World:
    return world.build(sources.read([str(SHOP)]))


def words(table: grid.Grid) -> dict[tuple[str, str], str]:
    """Return the cells as text."""
    return {pair: cell.word for pair, cell in table.cells.items()}


def test_workloads(shop: World) -> None:
    shown = words(grid.grid(shop, outside=False))
    assert {pair: word for pair, word in shown.items() if word != "-"} == {
        ("shop/deploy/frontend", "shop/deploy/backend"): "8080/TCP",
        ("shop/deploy/backend", "shop/sts/db"): "5432/TCP",
    }
    assert len(shown) == 6  # a single pod and itself are no pair


def test_every_cell_is_what_evaluate_says(shop: World) -> None:
    table = grid.grid(shop, by_pod=True)
    for a, b in itertools.permutations([line for line in table.lines if line.pods], 2):
        cell = table.cells[a.name, b.name]
        for protocol, port in itertools.product(("TCP", "UDP"), (53, 80, 5432, 8080)):
            ends = [shop.snapshot.pod_endpoint(line.pods[0].key) for line in (a, b)]
            expected = evaluate(shop.snapshot, Packet(ends[0], ends[1], protocol, port)).allowed
            shown = any(p.protocol == protocol and p.first <= port <= p.last for p in cell.ports)
            assert shown == expected, (a.name, b.name, protocol, port)


def test_pods_that_differ_are_marked(shop: World) -> None:
    pods = "\n---\n".join(
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: w-{n}, namespace: shop, labels: {{app: {app}}}, ownerReferences: "
        "[{apiVersion: apps/v1, kind: StatefulSet, name: w, uid: u, controller: true}]}\nspec: {containers: [{name: c}]}"
        for n, app in enumerate(("frontend", "other"))
    )
    table = grid.grid(world.build([*shop.objects, *sources.parse("w.yaml", pods)]))
    cell = table.cells["shop/sts/w", "shop/deploy/backend"]
    assert (cell.word, cell.some) == ("~-", (PortRange("TCP", 8080, 8080),))


def test_formats(shop: World) -> None:
    table = grid.grid(shop)
    rows = list(csv.reader(io.StringIO(formats.as_csv(table))))
    assert rows[0] == ["source", "destination", "ports"]
    assert ["shop/deploy/frontend", "shop/deploy/backend", "8080/TCP"] in rows
    dot = formats.as_dot(table)
    assert '"shop/deploy/frontend" -> "shop/deploy/backend" [label="8080/TCP"];' in dot
    assert '"shop/sts/db" -> ' not in dot
    page = formats.as_html(table, "a < b")
    assert "<title>a &lt; b</title>" in page
    assert page.count("<td class=some") == 3
    assert "http" not in page.replace("http</td>", "")  # it loads nothing
    (cell,) = [
        c for c in formats.as_json(table) if (c["source"], c["destination"]) == ("shop/deploy/backend", "shop/sts/db")
    ]
    assert cell["ports"] == [{"protocol": "TCP", "first": 5432, "last": 5432}]


def test_exposure_shows_the_outside_new_namespaces_and_ways_in(shop: World) -> None:
    invited = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: metrics, namespace: shop}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {team: ops}}}]
    ports: [{port: 9090}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop}
spec: {rules: [{host: shop.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: frontend, port: {number: 80}}}}]}}]}
"""
    found = {e.workload: e for e in exposure.exposure(world.build([*shop.objects, *sources.parse("i.yaml", invited)]))}
    frontend, backend = found["shop/deploy/frontend"], found["shop/deploy/backend"]
    assert (frontend.from_outside, frontend.from_unknown, frontend.to_outside) == ("8080/TCP", "8080/TCP", "-")
    assert frontend.ways_in == ("NodePort svc/frontend 80:30080/TCP", "Ingress web: shop.example.com/ -> svc/frontend")
    assert (backend.from_outside, backend.from_unknown, backend.labelled) == ("-", "-", {"team=ops": "9090/TCP"})


def test_a_change_is_told_by_what_it_opens_and_cuts(shop: World) -> None:
    text = (SHOP / "shop.yaml").read_text().replace("ports: [{port: 8080}]", "ports: [{port: 8080, endPort: 8082}]")
    text = text.replace(
        "    - podSelector: {matchLabels: {app: backend}}\n    ports: [{port: 5432}]",
        "    - podSelector: {}\n    ports: [{port: 5433}]",
    )
    found = changes.changes(shop, world.build(sources.parse("new.yaml", text)))
    assert [(c.opens, c.source, c.destination, c.ports) for c in found] == [
        (False, "shop/deploy/backend", "shop/sts/db", "5432/TCP"),
    ]
    assert "5432/TCP" in found[0].example
    assert "shop/db" in found[0].because
    assert "new.yaml:" in found[0].because


def test_equal_manifests_have_no_difference_and_order_does_not_count(shop: World) -> None:
    assert changes.changes(shop, world.build(reversed(shop.objects))) == ()


def test_new_and_removed_workloads_are_said_as_such(shop: World) -> None:
    less = world.build(o for o in shop.objects if o.key.name != "db")
    (cut,) = changes.changes(shop, less)
    assert (cut.opens, cut.source, cut.destination, cut.because) == (
        False,
        "shop/deploy/backend",
        "shop/sts/db",
        "shop/sts/db is gone",
    )


def test_deleting_a_policy_shows_a_packet_that_passes_now(shop: World) -> None:
    gone = [("NetworkPolicy", name) for name in ("default-deny", "frontend", "names")]
    open_ = world.build(o for o in shop.objects if (o.key.kind, o.key.name) not in gone)
    found = {(c.source, c.destination): c for c in changes.changes(shop, open_) if c.opens}
    change = found["shop/deploy/frontend", "(outside)"]
    assert change.ports == "all"
    assert "isolated by NetworkPolicy" in change.because


def test_a_block_that_moves_is_cut_in_one_place_and_opened_in_another(shop: World) -> None:
    text = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: partner, namespace: shop}
spec: {podSelector: {matchLabels: {app: backend}}, ingress: [{from: [{ipBlock: {cidr: 198.18.%d.0/24}}]}]}
"""
    old, new = (world.build([*shop.objects, *sources.parse("p.yaml", text % n)]) for n in (1, 2))
    found = [(c.opens, c.source, c.destination) for c in changes.changes(old, new)]
    assert found == [(False, "(outside)", "shop/deploy/backend"), (True, "(outside)", "shop/deploy/backend")]


def test_a_workload_in_a_file_gives_a_clusters_pods_its_new_labels(shop: World) -> None:
    from podwire.verify.located import LIVE, Located

    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "backend-abc-1", "namespace": "shop", "labels": {"app": "backend", "pod-template-hash": "abc"},
                     "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "backend-abc", "uid": "u", "controller": True}]},
        "spec": {"containers": [{"name": "c"}]}, "status": {"podIP": "10.244.0.9", "phase": "Running"},
    }  # fmt: skip
    live = [Located(o.object, LIVE) for o in shop.objects] + [Located(pod, LIVE)]
    before = world.build(live)
    assert [p.workload for p in before.pods if p.ip == "10.244.0.9"] == ["deploy/backend"]
    renamed = (
        (SHOP / "shop.yaml")
        .read_text()
        .replace("metadata: {labels: {app: backend}}", "metadata: {labels: {app: other}}")
    )
    files = [o for o in sources.parse("new.yaml", renamed) if o.key.name == "backend" and o.key.kind == "Deployment"]
    after = world.build(overlay(live, files))
    assert [dict(p.labels) for p in after.pods if p.ip == "10.244.0.9"] == [{"app": "other"}]
