"""`why` on a small shop: the verdict, what decides it with its line, the hops, and a change that is proved."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from podwire.model.errors import BadInput
from podwire.verify import sources, world
from podwire.verify.answer import Answer, render
from podwire.verify.grid import grid
from podwire.verify.located import overlay
from podwire.verify.why import why
from podwire.verify.world import World

SHOP = Path(__file__).parents[2] / "scenarios" / "shop"


@pytest.fixture(scope="module")
def shop() -> World:
    return world.build(sources.read([str(SHOP)]))


def ask(shop: World, question: str) -> Answer:
    """Return the answer to "A -> B:PORT", asked in the namespace shop."""
    source, _, destination = question.partition(" -> ")
    return why(shop, source, destination, "shop")


TABLE = [
    # question, verdict, what decides
    ("frontend -> backend:80", True, "NetworkPolicy shop/backend spec.ingress[0]"),
    ("deploy/frontend -> deploy/backend:8080", True, "NetworkPolicy shop/backend spec.ingress[0]"),
    ("deploy/frontend -> deploy/backend:http", True, "NetworkPolicy shop/backend spec.ingress[0]"),
    ("frontend -> deploy/backend:8081", False, "NetworkPolicy shop/default-deny spec.podSelector"),
    ("frontend -> backend.shop.svc.cluster.local:80", True, "NetworkPolicy shop/backend spec.ingress[0]"),
    ("frontend -> svc/backend", True, "NetworkPolicy shop/backend spec.ingress[0]"),
    ("frontend -> backend:81", False, "Service shop/backend spec.ports"),
    ("frontend -> db:5432", False, "NetworkPolicy shop/default-deny spec.podSelector"),
    ("backend -> db.shop:5432", True, "NetworkPolicy shop/db spec.ingress[0]"),
    ("backend -> pod/db-0:5432", True, "NetworkPolicy shop/db spec.ingress[0]"),
    ("backend -> 198.51.100.7:443", False, "NetworkPolicy shop/default-deny spec.podSelector"),
    ("backend -> api.example.com:443", False, "NetworkPolicy shop/default-deny spec.podSelector"),
    ("internet -> frontend:80", True, "NetworkPolicy shop/frontend spec.ingress[0]"),
    ("internet -> deploy/backend:8080", False, "NetworkPolicy shop/default-deny spec.podSelector"),
    ("10.9.8.7 -> frontend:80/TCP", True, "NetworkPolicy shop/frontend spec.ingress[0]"),
    ("frontend -> kube-system/kube-dns:53/UDP", True, "NetworkPolicy shop/names spec.egress[0]"),
    ("ns/shop -> backend:80", False, "NetworkPolicy shop/default-deny spec.podSelector"),
]


@pytest.mark.parametrize(("question", "allowed", "deciding"), TABLE)
def test_verdicts(shop: World, question: str, allowed: bool, deciding: str) -> None:
    answer = ask(shop, question)
    assert (answer.allowed, answer.deciding) == (allowed, deciding), render(answer)
    assert ("to fix:" in render(answer)) is not allowed


def test_hops_in_their_order_with_file_and_line(shop: World) -> None:
    answer = ask(shop, "frontend -> backend:80")
    assert [h.kind for h in answer.hops] == ["dns", "service", "nat", "egress", "route", "encapsulation", "ingress"]
    text = (SHOP / "shop.yaml").read_text().splitlines()
    assert answer.place is not None
    assert text[answer.place.line - 1].startswith("  - from:")
    assert answer.place.line > text.index("metadata: {name: backend, namespace: shop}")


DENIED = [q for q, allowed, decides in TABLE if not allowed and decides.startswith("NetworkPolicy")]


@pytest.mark.parametrize("question", [q for q in DENIED if not q.startswith("ns/")])
def test_the_proposed_change_works_when_it_is_made(shop: World, question: str) -> None:
    """Apply each fix to the text, read it again, and ask again."""
    answer = ask(shop, question)
    assert answer.fixes
    objects = list(shop.objects)
    for fix in answer.fixes:
        assert fix.proved
        snippet = yaml.safe_load(fix.yaml)
        if isinstance(snippet, dict):
            objects = list(overlay(objects, sources.parse("fix", fix.yaml)))
            continue
        kind_and_name, path = fix.text.removeprefix("add to NetworkPolicy ").removesuffix(":").split(" ")
        located = next(o for o in objects if o.key.kind == "NetworkPolicy" and f"shop/{o.key.name}" == kind_and_name)
        changed = yaml.safe_load(yaml.safe_dump(located.object))
        holder = changed
        parts = path.replace("]", "").replace("[", ".").split(".")
        for step in parts[:-1]:
            holder = holder[int(step) if step.isdigit() else step]
        holder[parts[-1]] = [*holder.get(parts[-1], []), *snippet]
        objects = list(overlay(objects, sources.parse("fix", yaml.safe_dump(changed))))
    assert ask(world.build(objects), question).allowed


def test_a_fix_goes_to_the_policy_about_the_fewest_pods(shop: World) -> None:
    fixes = ask(shop, "frontend -> db:5432").fixes
    assert [f.text for f in fixes] == [
        "add to NetworkPolicy shop/frontend spec.egress:",
        "add to NetworkPolicy shop/db spec.ingress[0].from:",
    ]


def test_dns_cut_off_is_the_answer_for_names_and_a_note_for_services(shop: World) -> None:
    without = world.build(o for o in shop.objects if o.key.name != "names")
    by_name = ask(without, "frontend -> backend.shop.svc:80")
    assert not by_name.allowed
    assert by_name.reason.startswith("the name cannot be resolved")
    assert yaml.safe_load(by_name.fixes[0].yaml)[0]["ports"] == [
        {"protocol": "UDP", "port": 53},
        {"protocol": "TCP", "port": 53},
    ]
    by_service = ask(without, "frontend -> svc/backend:80")
    assert by_service.allowed
    assert any("cannot look the name up" in note for note in by_service.notes)


def test_a_service_without_endpoints_says_which_label_is_wrong(shop: World) -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\nspec: {selector: {app: backends}, ports: [{port: 80}]}\n"
    answer = ask(world.build([*shop.objects, *sources.parse("svc.yaml", text)]), "frontend -> api:80")
    assert not answer.allowed
    assert "no pod has app=backends" in answer.reason
    assert str(answer.place) == "svc.yaml:4"


def test_a_plugin_without_policies_lets_everything_pass(shop: World) -> None:
    loose = world.build(shop.objects, plugin="flannel")
    answer = ask(loose, "frontend -> db:5432")
    assert answer.allowed
    assert "isolated by NetworkPolicy" in answer.reason
    assert "flannel does not enforce" in answer.reason
    assert {c.word for c in grid(loose, outside=False).cells.values()} == {"all"}


CLUSTER_DENY = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-db}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}
  ingress:
  - {name: nobody, action: Deny, from: [{namespaces: {}}]}
"""


def test_a_cluster_wide_denial_names_its_rule_and_is_fixed_in_front_of_it(shop: World) -> None:
    answer = ask(world.build([*shop.objects, *sources.parse("cnp.yaml", CLUSTER_DENY)]), "backend -> db:5432")
    assert (answer.allowed, answer.deciding, str(answer.place)) == (
        False, "ClusterNetworkPolicy no-db spec.ingress[0]", "cnp.yaml:9",
    )  # fmt: skip
    (fix,) = answer.fixes
    assert fix.proved
    assert yaml.safe_load(fix.yaml)[0]["action"] == "Accept"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("frontnd -> backend:80", "did you mean frontend?"),
        ("frontend -> deploy/backend:99999", "is no port"),
        ("frontend -> deploy/backend:grpc", "no container port has this name"),
        ("frontend -> nowhere.shop.svc:80", "not found in namespace shop"),
        ("ns/empty -> backend:80", "no pod is in it"),
        ("frontend -> 10.1.1.1", "which port?"),
        ("a/b/c/d -> backend:80", "write NAME"),
    ],
)
def test_questions_that_make_no_sense(shop: World, question: str, words: str) -> None:
    with pytest.raises(BadInput, match=re.escape(words)):
        ask(shop, question)


def test_names_in_two_namespaces_must_be_told_apart(shop: World) -> None:
    other = "apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: %s}\nspec: {containers: [{name: c, ports: [{containerPort: 80}]}]}\n"
    both = world.build([*shop.objects, *sources.parse("a", other % "one"), *sources.parse("b", other % "two")])
    with pytest.raises(BadInput, match="ambiguous"):
        ask(both, "frontend -> x:80")
    assert not ask(both, "frontend -> two/x:80").allowed


def test_json_has_the_same_content(shop: World) -> None:
    shown = ask(shop, "frontend -> db:5432").as_json()
    assert shown["verdict"] == "denied"
    assert shown["deciding"]["object"] == "NetworkPolicy shop/default-deny spec.podSelector"
    assert shown["hops"][-1] | {"text": ""} == {
        "hop": "egress",
        "result": "stop",
        "text": "",
        "file": str(SHOP / "shop.yaml"),
        "line": 67,
    }
