"""What `podwire why` answers, as values, as text and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from podwire.verify.located import Place

Mark = Literal["ok", "stop", "note"]
_SIGNS = {"ok": "✓", "stop": "✗", "note": "·"}


@dataclass(frozen=True, slots=True)
class Hop:
    """One thing that happens to the packet on its way. ``mark`` stop: it ends here."""

    kind: str  # dns service nat egress route encapsulation ingress
    mark: Mark
    text: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Fix:
    """The smallest change that lets the packet pass; ``proved``: the model was asked again, and it does."""

    text: str
    snippet: Any = None  # what to write there
    place: Place | None = None
    proved: bool = False

    @property
    def yaml(self) -> str:
        """What to write, as YAML; "" when there is only advice."""
        if self.snippet is None:
            return ""
        import yaml

        return yaml.safe_dump(self.snippet, sort_keys=False, default_flow_style=False).rstrip()


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict on A to B, with one packet that shows it."""

    source: str
    destination: str
    allowed: bool
    reason: str  # one line: what decided
    deciding: str = ""  # "NetworkPolicy prod/db spec.ingress[0]"; "" when nothing did
    place: Place | None = None
    hops: tuple[Hop, ...] = ()
    fixes: tuple[Fix, ...] = ()
    pairs: int = 1  # how many pairs of ends were judged
    allowed_pairs: int = 0
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the answer for machines."""
        return {
            "source": self.source, "destination": self.destination,
            "verdict": "allowed" if self.allowed else "denied", "reason": self.reason,
            "deciding": {"object": self.deciding, **_place(self.place)} if self.deciding else None,
            "pairs": self.pairs, "allowedPairs": self.allowed_pairs,
            "hops": [{"hop": h.kind, "result": h.mark, "text": h.text, **_place(h.place)} for h in self.hops],
            "fixes": [{"text": f.text, "yaml": f.yaml, "proved": f.proved, **_place(f.place)} for f in self.fixes],
            "notes": list(self.notes),
        }  # fmt: skip


def _place(place: Place | None) -> dict[str, object]:
    return {"file": place.file, "line": place.line} if place is not None else {}


def render(answer: Answer) -> str:
    """Return the answer as people read it: verdict first, then the way, then what to change."""
    word = "allowed" if answer.allowed else "DENIED"
    lines = [f"{word}: {answer.source} -> {answer.destination}"]
    where = f"  ({answer.place})" if answer.place is not None and answer.place.line else ""
    lines.append(f"  because: {answer.reason}{where}")
    if answer.pairs > 1:
        lines.append(f"  {answer.allowed_pairs} of {answer.pairs} pairs of pods are allowed; shown is one that is "
                     f"{'allowed' if answer.allowed else 'not'}")  # fmt: skip
    width = max((len(h.kind) for h in answer.hops), default=0)
    for hop in answer.hops:
        shown = f"  ({hop.place})" if hop.place is not None and hop.place.line else ""
        lines.append(f"  {_SIGNS[hop.mark]} {hop.kind.ljust(width)}  {hop.text}{shown}")
    lines += [f"  note: {note}" for note in answer.notes]
    for fix in answer.fixes:
        lines += _fix_lines(fix)
    return "\n".join(lines)


def _fix_lines(fix: Fix) -> Sequence[str]:
    where = f" ({fix.place})" if fix.place is not None and fix.place.line else ""
    return [f"to fix: {fix.text}{where}", *(f"    {line}" for line in fix.yaml.splitlines())]
