"""What is wrong with a policy is said by field."""

from __future__ import annotations

import pytest
import yaml

from podwire.model.errors import Problem
from podwire.policy.parse import parse_policy, read_policy
from podwire.policy.rules import Policy

BAD = [
    ("{podSelector: 3}", "spec.podSelector", "must be a label selector"),
    ("{podSelector: {matchlabels: {a: b}}}", "spec.podSelector.matchlabels", "unknown field"),
    ("{podSelector: {}, policyTypes: [ingress]}", "spec.policyTypes[0]", "neither"),
    ("{podSelector: {}, ingress: {}}", "spec.ingress", "must be a list"),
    ("{podSelector: {}, ingress: [{form: []}]}", "spec.ingress[0].form", "unknown field"),
    ("{podSelector: {}, ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]", "empty peer"),
    ("{podSelector: {}, ingress: [{from: [{podselector: {}}]}]}", "spec.ingress[0].from[0].podselector", "unknown"),
    ("{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.1}}]}]}", "spec.egress[0].to[0].ipBlock.cidr", "not a CIDR"),
    ("{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}]}", "spec.egress[0].to[0].ipBlock.except[0]", "strict part"),
    ("{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/64']}}]}]}", "spec.egress[0].to[0].ipBlock.except[0]", "strict part"),
    ("{podSelector: {}, egress: [{ports: [{port: 0}]}]}", "spec.egress[0].ports[0].port", "not a port"),
    ("{podSelector: {}, egress: [{ports: [{endPort: 9}]}]}", "spec.egress[0].ports[0].endPort", "needs a port"),
    ("{podSelector: {}, egress: [{ports: [{port: http, endPort: 9}]}]}", "spec.egress[0].ports[0].endPort", "named port"),
    ("{podSelector: {}, egress: [{ports: [{port: 10, endPort: 9}]}]}", "spec.egress[0].ports[0].endPort", "below"),
    ("{podSelector: {}, egress: [{ports: [{protocol: tcp}]}]}", "spec.egress[0].ports[0].protocol", "not TCP"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "field", "why"), BAD)
def test_problem_names_the_field(spec: str, field: str, why: str) -> None:
    obj = yaml.safe_load(f"{{kind: NetworkPolicy, metadata: {{namespace: a, name: p}}, spec: {spec}}}")
    problems = parse_policy(obj)
    assert not isinstance(problems, Policy)
    assert [(p.object, p.field) for p in problems] == [("NetworkPolicy a/p", field)]
    assert why in problems[0].why
    closed = read_policy(obj)
    assert closed.problems == problems
    assert closed.ingress == closed.egress == ()
    assert closed.isolates


def test_every_problem_is_reported() -> None:
    spec = "{podSelector: {}, ingress: [{from: [{}, {podSelector: {}}, {}], ports: [{port: -1}]}]}"
    obj = yaml.safe_load(f"{{kind: NetworkPolicy, metadata: {{namespace: a, name: p}}, spec: {spec}}}")
    problems = parse_policy(obj)
    assert [p.field for p in problems if isinstance(p, Problem)] == [  # type: ignore[union-attr]
        "spec.ingress[0].from[0]", "spec.ingress[0].from[2]", "spec.ingress[0].ports[0].port",
    ]  # fmt: skip


CLUSTER_BAD = [
    ("{priority: 1, subject: {namespaces: {}}}", "spec.tier"),
    ("{tier: Admin, priority: 1001, subject: {namespaces: {}}}", "spec.priority"),
    ("{tier: Admin, priority: 1, subject: {}}", "spec.subject"),
    ("{tier: Admin, priority: 1, subject: {services: {}}}", "spec.subject.services"),
    ("{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: {}}", "spec.ingress"),
]


@pytest.mark.parametrize(("spec", "field"), CLUSTER_BAD)
def test_cluster_wide_problem_names_the_field(spec: str, field: str) -> None:
    obj = yaml.safe_load(f"{{kind: ClusterNetworkPolicy, metadata: {{name: p}}, spec: {spec}}}")
    problems = parse_policy(obj)
    assert not isinstance(problems, Policy)
    assert [p.field for p in problems] == [field]


def test_an_unreadable_subject_means_everyone_but_accepts_nothing() -> None:
    text = "{{kind: ClusterNetworkPolicy, metadata: {{name: p}}, spec: {{tier: Admin, priority: 1, subject: {{x: 1}}, ingress: [{{action: {}, from: [{{namespaces: {{}}}}]}}]}}}}"
    accepts = read_policy(yaml.safe_load(text.format("Accept")))
    assert accepts.ingress == ()
    denies = read_policy(yaml.safe_load(text.format("Deny")))
    assert [(r.action, r.peers) for r in denies.ingress] == [("Deny", None)]
    assert denies.egress == ()
