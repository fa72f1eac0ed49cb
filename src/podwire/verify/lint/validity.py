"""Policies that cannot be read as written: Kubernetes refuses them, or they fail closed."""

from __future__ import annotations

from collections.abc import Iterator

from podwire.policy.parse import POLICY_KINDS, parse_policy
from podwire.policy.rules import Policy
from podwire.verify.lint.finding import POLICIES, Finding, Rule
from podwire.verify.sources import of_kind
from podwire.verify.world import World

INVALID = Rule("PW001", "policy-invalid", "error", "A policy that cannot be read: it denies all to its pods", POLICIES)
FAILS_CLOSED = Rule("PW008", "rule-fails-closed", "warning",
    "A rule holds a field that is not known: it allows nothing, or denies all",
    "https://network-policy-api.sigs.k8s.io/api-overview/")  # fmt: skip

RULES = (INVALID, FAILS_CLOSED)


def check(world: World) -> Iterator[Finding]:
    """Yield what these rules find."""
    for located in of_kind(world.objects, *POLICY_KINDS):
        parsed = parse_policy(located.object)
        if not isinstance(parsed, Policy):
            for problem in parsed:
                yield Finding(INVALID, located, problem.field, problem.why, "correct the field")
            continue
        for rule in (*parsed.ingress, *parsed.egress):
            if rule.why:
                yield Finding(FAILS_CLOSED, located, rule.path, rule.why, "use fields that every implementation knows")
