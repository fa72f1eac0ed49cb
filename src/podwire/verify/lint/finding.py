"""A rule and what it found, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from podwire.verify.located import Located, Place

Severity = Literal["error", "warning", "note"]
"""error: it cannot do what it says. warning: it most likely does not do what was meant. note: worth a look."""

_DOCS = "https://kubernetes.io/docs/concepts/services-networking"
POLICIES = f"{_DOCS}/network-policies/"
SERVICES = f"{_DOCS}/service/"
INGRESS = f"{_DOCS}/ingress/"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that can be wrong."""

    id: str  # stable: "PW004"
    name: str  # for people: "namespace-label"
    severity: Severity
    title: str
    reference: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where a rule does not hold."""

    rule: Rule
    located: Located
    path: str  # the field: "spec.ingress[0].from[0].namespaceSelector"
    why: str
    fix: str

    @property
    def place(self) -> Place:
        """The file and line of the field."""
        return self.located.place(self.path)

    def as_json(self) -> dict[str, object]:
        """Return the finding for machines."""
        return {
            "rule": self.rule.id, "name": self.rule.name, "severity": self.rule.severity,
            "object": str(self.located.key), "field": self.path, "file": self.place.file, "line": self.place.line,
            "message": self.why, "fix": self.fix, "reference": self.rule.reference,
        }  # fmt: skip
