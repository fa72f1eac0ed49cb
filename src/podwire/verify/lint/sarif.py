"""Findings as SARIF 2.1.0, which code review tools show beside the changed lines. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from podwire import __version__
from podwire.verify.lint.finding import Finding, Rule

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def render(findings: Sequence[Finding], rules: Sequence[Rule]) -> dict[str, Any]:
    """Return one SARIF log with one run. A severity is a SARIF level, word for word."""
    index = {rule.id: number for number, rule in enumerate(rules)}
    driver = {
        "name": "podwire",
        "version": __version__,
        "rules": [_rule(rule) for rule in rules],
    }
    results = [_result(finding, index[finding.rule.id]) for finding in findings]
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.title},
        "helpUri": rule.reference,
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(finding: Finding, rule_index: int) -> dict[str, Any]:
    place = finding.place
    physical: dict[str, Any] = {"artifactLocation": {"uri": place.file}}
    if place.line:
        physical["region"] = {"startLine": place.line}
    logical = {"fullyQualifiedName": f"{finding.located.key}: {finding.path}", "kind": "member"}
    return {
        "ruleId": finding.rule.id,
        "ruleIndex": rule_index,
        "level": finding.rule.severity,
        "message": {"text": f"{finding.located.key}: {finding.why}. To fix: {finding.fix}"},
        "locations": [{"physicalLocation": physical, "logicalLocations": [logical]}],
        "partialFingerprints": {"podwire/v1": f"{finding.rule.id}:{finding.located.key}:{finding.path}"},
    }
