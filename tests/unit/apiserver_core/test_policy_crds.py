"""The cluster-wide policies' definitions are served by the API server, and check what they say they check."""

from __future__ import annotations

import pytest

from podwire.policy.crds import read_crds
from podwire.policy.parse import parse_policy
from podwire.policy.rules import Policy

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "/apis/policy.networking.k8s.io"


@pytest.fixture
async def served(api):
    for crd in read_crds():
        code, made, _ = await api.call("POST", CRDS, crd)
        assert code == 201, made
        assert {c["type"]: c["status"] for c in made["status"]["conditions"]}["Established"] == "True"
    return api


def cluster_policy(**spec):
    rule = {
        "name": "no metadata", "action": "Deny", "to": [{"networks": ["169.254.169.254/32"]}, {"nodes": {}}],
        "protocols": [{"tcp": {"destinationPort": {"range": {"start": 80, "end": 81}}}}],
    }  # fmt: skip
    accept = {"action": "Accept", "from": [{"pods": {"namespaceSelector": {}, "podSelector": {}}}]}
    base = {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "egress": [rule], "ingress": [accept]}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p"}, "spec": {**base, **spec},
    }  # fmt: skip


def older(kind, name, **spec):
    rule = {"action": "Deny", "from": [{"namespaces": {}}], "ports": [{"portNumber": {"port": 80}}, {"namedPort": "x"}]}
    base = {"subject": {"pods": {"namespaceSelector": {}, "podSelector": {}}}, "ingress": [rule]}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": kind,
        "metadata": {"name": name}, "spec": {**base, **spec},
    }  # fmt: skip


OBJECTS = [
    ("v1alpha2/clusternetworkpolicies", cluster_policy()),
    ("v1alpha1/adminnetworkpolicies", older("AdminNetworkPolicy", "p", priority=7)),
    ("v1alpha1/baselineadminnetworkpolicies", older("BaselineAdminNetworkPolicy", "default")),
]


@pytest.mark.parametrize(("path", "obj"), OBJECTS, ids=[o[1]["kind"] for o in OBJECTS])
async def test_what_is_stored_is_what_the_model_reads(served, path, obj):
    code, made, _ = await served.call("POST", f"{GROUP}/{path}", obj)
    assert code == 201, made
    assert made["spec"]["subject"] == obj["spec"]["subject"]
    policy = parse_policy(made)
    assert isinstance(policy, Policy), policy
    assert policy == parse_policy(obj)
    assert not any(rule.why for rule in (*policy.ingress, *policy.egress))


BAD = [
    {"tier": "Middle"},
    {"priority": 1001},
    {"subject": {}},
    {"subject": {"namespaces": {}, "pods": {"namespaceSelector": {}, "podSelector": {}}}},
    {"egress": [{"action": "Deny", "to": []}]},
    {"egress": [{"action": "Allow", "to": [{"nodes": {}}]}]},
    {"egress": [{"action": "Deny", "to": [{"nodes": {}, "namespaces": {}}]}]},
    {"egress": [{"action": "Deny", "to": [{"nodes": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 0}}}]}]},
]


@pytest.mark.parametrize("spec", BAD)
async def test_refused(served, spec):
    code, answer, _ = await served.call("POST", f"{GROUP}/v1alpha2/clusternetworkpolicies", cluster_policy(**spec))
    assert code == 422, answer
