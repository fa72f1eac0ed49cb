"""Each rule finds what it is for, where it is, and is quiet about the corrected text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from podwire.model.errors import BadInput
from podwire.verify import sources, world
from podwire.verify.lint import engine, sarif

GUIDES = Path(__file__).parents[2] / "scenarios" / "guides"

POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {ns}, labels: {{app: {name}}}}}
spec: {{containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]{more}}}
---
"""
WEB = POD.format(name="web", ns="prod", more="")
DB = POD.format(name="db", ns="prod", more="")


def policy(spec: str, name: str = "p", extra: str = "") -> str:
    """Return a NetworkPolicy in prod; ``spec`` is flow YAML."""
    return f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: prod{extra}}}\nspec: {spec}\n---\n"


DENY = policy("{podSelector: {}, policyTypes: [Ingress]}", "default-deny")


def found(text: str, plugin: str = "") -> set[tuple[str, str]]:
    """Return (rule, field) of everything that is found."""
    return {(f.rule.id, f.path) for f in engine.lint(world.build(sources.parse("t.yaml", text), plugin=plugin))}


CASES = {
    "an empty peer": ("PW001", "spec.ingress[0].from[0]", DENY + policy("{podSelector: {}, ingress: [{from: [{}]}]}")),
    "except outside cidr": ("PW001", "spec.ingress[0].from[0].ipBlock.except[0]", DENY + policy("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [198.51.100.0/24]}}]}]}")),
    "no pod selected": ("PW002", "spec.podSelector", WEB + DENY + policy("{podSelector: {matchLabels: {app: wbe}}, ingress: [{}]}")),
    "no peer": ("PW003", "spec.ingress[0].from[0]", WEB + DENY + policy("{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: nobody}}}]}]}")),
    "namespace label": ("PW004", "spec.ingress[0].from[0].namespaceSelector", WEB + DENY + policy("{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {name: prod}}}]}]}")),
    "dns cut": ("PW005", "spec.egress", WEB + DB + DENY + policy("{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}")),
    "dns over udp only": ("PW006", "spec.egress[0].ports[0]", WEB + DENY + policy("{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{protocol: UDP, port: 53}]}]}")),
    "redundant": ("PW007", "spec.ingress[1]", WEB + DB + DENY + policy("{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}, {from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 8080}]}]}")),
    "named port": ("PW010", "spec.ingress[0].ports[0].port", WEB + DENY + policy("{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: htp}]}]}")),
    "default-deny": ("PW011", "metadata.namespace", WEB + DB + policy("{podSelector: {matchLabels: {app: web}}, ingress: [{}]}")),
    "block over pods": ("PW012", "spec.ingress[0].from[0].ipBlock.cidr", WEB + DENY + policy("{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}")),
    "two peers": ("PW019", "spec.ingress[0].from[1]", WEB + DENY + policy("{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {}}, {podSelector: {matchLabels: {app: web}}}]}]}")),
    "rules ignored": ("PW020", "spec.egress[0]", WEB + DENY + policy("{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], egress: [{}]}")),
    "host network": ("PW021", "spec.podSelector", POD.format(name="web", ns="prod", more=", hostNetwork: true") + DENY + policy("{podSelector: {matchLabels: {app: web}}, ingress: [{}]}")),
    "service port": ("PW023", "spec.ingress[0].ports[0].port", WEB + DENY + policy("{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}") + "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: prod}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n"),
    "service selects nobody": ("PW101", "spec.selector", WEB + "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: prod}\nspec: {selector: {app: wbe}, ports: [{port: 80}]}\n"),
    "service port name": ("PW101", "spec.ports[0].targetPort", WEB + "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: prod}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: htp}]}\n"),
    "service target": ("PW102", "spec.ports[0].port", WEB + "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: prod}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n"),
    "ingress backend": ("PW203", "spec.defaultBackend.service.name", "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: prod}\nspec: {ports: [{port: 80}]}\n---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i, namespace: prod}\nspec: {defaultBackend: {service: {name: wbe, port: {number: 80}}}}\n"),
    "priority tie": ("PW014", "spec.priority", "".join(f"apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {n}}}\nspec: {{tier: Admin, priority: 5, subject: {{namespaces: {{}}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]}}\n---\n" for n in "ab")),
    "shadowed": ("PW009", "spec.ingress[1]", "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: a}\nspec: {tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}, {action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}\n"),
    "unknown peer": ("PW008", "spec.ingress[0]", "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: a}\nspec: {tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{moon: {}}]}]}\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_rule_finds_it(name: str) -> None:
    rule, path, text = CASES[name]
    assert (rule, path) in found(text)


def test_well_written_manifests_are_left_alone() -> None:
    rule = "{from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}"
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: prod}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}\n"
    dns = "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}], ports: [{protocol: UDP, port: 53}, {port: 53}]}"
    web = policy(
        f"{{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Ingress, Egress], ingress: [{rule}], egress: [{dns}]}}",
        "web",
    )
    deny = policy("{podSelector: {}, policyTypes: [Ingress, Egress]}", "deny")
    names = policy(f"{{podSelector: {{matchLabels: {{app: db}}}}, policyTypes: [Egress], egress: [{dns}]}}", "db")
    assert found(WEB + DB + deny + web + names + service) == set()


GUIDE_ERRATA = {
    "policies.yaml": [
        (9, "PW005"), (24, "PW004"), (84, "PW004"), (92, "PW004"), (178, "PW006"), (213, "PW006"), (217, "PW004"),
        (244, "PW005"),
    ],
    "ingresses.yaml": [(14, "PW202"), (34, "PW201"), (35, "PW201")],
    "machinery.yaml": [(7, "PW103"), (18, "PW301"), (26, "PW301"), (36, "PW302"), (46, "PW303")],
}  # fmt: skip


@pytest.mark.parametrize("file", GUIDE_ERRATA)
def test_each_mistake_of_the_guides_is_named_at_its_line(file: str) -> None:
    everything = engine.lint(world.build(sources.read([str(GUIDES / file)])), ignore=["PW011"])
    assert [(f.place.line, f.rule.id) for f in everything] == GUIDE_ERRATA[file]


def test_a_plugin_that_enforces_nothing_is_said_at_every_policy() -> None:
    assert ("PW013", "spec") in found(DENY, plugin="flannel")
    assert ("PW013", "spec") not in found(DENY, plugin="podwire")


def test_rules_can_be_left_out_by_flag_and_by_annotation() -> None:
    loud = DENY + policy("{podSelector: {}, policyTypes: [Ingress], egress: [{}]}", "p")
    quiet = DENY + policy(
        "{podSelector: {}, policyTypes: [Ingress], egress: [{}]}",
        "p",
        ', annotations: {podwire/lint-ignore: "PW020, PW999"}',
    )
    assert ("PW020", "spec.egress[0]") in found(loud)
    assert ("PW020", "spec.egress[0]") not in found(quiet)
    built = world.build(sources.parse("t.yaml", loud))
    assert all(f.rule.id != "PW020" for f in engine.lint(built, ignore=["rules-ignored"]))
    with pytest.raises(BadInput, match="no such rule"):
        engine.lint(built, ignore=["PW777"])


def test_sarif_points_at_file_and_line() -> None:
    findings = engine.lint(world.build(sources.read([str(GUIDES / "ingresses.yaml")])))
    log = json.loads(json.dumps(sarif.render(findings, engine.RULES)))
    run = log["runs"][0]
    assert log["version"] == "2.1.0"
    result = run["results"][0]
    place = result["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"].endswith("ingresses.yaml"), place["region"]["startLine"]) == (True, 14)
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "PW202"


def test_ids_and_names_are_unique_and_every_rule_has_a_reference() -> None:
    assert len({r.id for r in engine.RULES}) == len({r.name for r in engine.RULES}) == len(engine.RULES)
    assert all(r.reference.startswith("https://") for r in engine.RULES)
