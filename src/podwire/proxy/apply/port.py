"""What every mode of the proxy can do. Errors: MachineError, after which ``adopt`` must come first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from podwire.proxy.desired import FrontKey, ServiceRules, Target

Change = tuple[ServiceRules | None, ServiceRules | None]
"""What a Service had and what it has now; None for nothing."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a round wrote. ``orphans``: UDP translations that the kernel held and nobody wants any more."""

    changed: int
    orphans: tuple[tuple[FrontKey, Target], ...] = ()


class Dataplane(Protocol):
    """The Service rules of one network namespace, in one mode. Synchronous."""

    def adopt(self, rules: Sequence[ServiceRules]) -> Written:
        """Make the kernel hold exactly these rules, whatever it holds; write only the difference."""
        ...

    def update(self, changes: Sequence[Change]) -> Written:
        """Replace the rules of some Services. Only after ``adopt``."""
        ...

    def disturbed(self) -> bool:
        """Return whether somebody else may have changed our rules since the last round."""
        ...

    def remove(self) -> None:
        """Delete everything that this mode has ever made here. Nothing there: no error."""
        ...
