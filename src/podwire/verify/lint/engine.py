"""Collect what every rule finds. The order of everything is in this file."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from podwire.model.errors import BadInput, Problem
from podwire.verify.lint import coverage, dns, ingresses, platform, selectors, services, validity
from podwire.verify.lint.finding import Finding, Rule
from podwire.verify.world import ASSUMED, World

_TOPICS = (validity, selectors, dns, coverage, services, ingresses, platform)

RULES: tuple[Rule, ...] = tuple(sorted((rule for topic in _TOPICS for rule in topic.RULES), key=lambda rule: rule.id))
"""Every rule, by id."""

_RANK = {"error": 0, "warning": 1, "note": 2}


def lint(world: World, *, ignore: Collection[str] = ()) -> tuple[Finding, ...]:
    """Return what is wrong, by file and line. ``ignore``: ids or names of rules to leave out.

    An object may opt out itself: annotation ``podwire/lint-ignore: "PW011,PW012"``. Raises BadInput for rules that
    do not exist.
    """
    known = {name for rule in RULES for name in (rule.id, rule.name)}
    unknown = sorted(set(ignore) - known)
    if unknown:
        raise BadInput(Problem("lint", "--ignore", f"no such rule: {', '.join(unknown)}"))
    found = [f for f in _all(world) if f.rule.id not in ignore and f.rule.name not in ignore and not _opted_out(f)]
    return tuple(sorted(found, key=lambda f: (f.place.file, f.place.line, _RANK[f.rule.severity], f.rule.id, f.path)))


def _all(world: World) -> Iterator[Finding]:
    for topic in _TOPICS:
        for finding in topic.check(world):
            if finding.located.file != ASSUMED:
                yield finding


def _opted_out(finding: Finding) -> bool:
    annotations = finding.located.object["metadata"].get("annotations") or {}
    words = {w.strip() for w in str(annotations.get("podwire/lint-ignore") or "").split(",")}
    return bool(words & {finding.rule.id, finding.rule.name})
