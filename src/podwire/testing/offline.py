"""Manifests under test, without a cluster: the policy model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from podwire.testing.sentences import Network, Reach

if TYPE_CHECKING:
    from podwire.verify.world import World


@dataclass(frozen=True, slots=True)
class Manifests(Network):
    """A cluster as manifests say it would be."""

    judged: World

    @classmethod
    def read(cls, sources: Sequence[str]) -> Manifests:
        """Read files and directories. Raises BadInput."""
        from podwire.verify import sources as texts
        from podwire.verify import world

        return cls(world.build(texts.read(sources)))

    def including(self, text: str) -> Manifests:
        """Return these manifests with the objects of a YAML text added or replaced."""
        from podwire.verify import sources as texts
        from podwire.verify import world
        from podwire.verify.located import overlay

        return Manifests(world.build(overlay(self.judged.objects, texts.parse("<test>", text))))

    def world(self) -> World:
        """Return what the manifests make."""
        return self.judged

    def reach(self, source: str, destination: str, namespace: str) -> Reach:
        """Return what the policies say."""
        from podwire.verify.answer import render

        answer = self.why(source, destination, namespace)
        return Reach(answer.allowed, render(answer))
