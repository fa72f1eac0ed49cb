"""The words that tests are written in: ``cluster.pod("frontend").reaches("backend:8080")``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from podwire.verify.answer import Answer
    from podwire.verify.lint.finding import Finding
    from podwire.verify.world import World


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether one end reached another. True or false in an assertion; its text says why."""

    reached: bool
    why: str

    def __bool__(self) -> bool:
        return self.reached

    def __repr__(self) -> str:
        # pytest shows one short line of it; the plugin shows the rest beside the failure.
        return f"<{'reached' if self.reached else 'not reached'}: {self.why.splitlines()[0]}>"


LATEST: deque[Reach] = deque(maxlen=1)
"""What was asked last: a failing test shows it whole."""


@dataclass(frozen=True, slots=True)
class Client:
    """One end that connections start from, by name."""

    network: Network
    name: str
    namespace: str

    def reaches(self, destination: str) -> Reach:
        """Return whether this end reaches ``destination``: "backend:8080", "svc/web:80", "10.0.0.1:53/UDP" ..."""
        reach = self.network.reach(self.name, destination, self.namespace)
        LATEST.append(reach)
        return reach


class Network(ABC):
    """What both fixtures can say."""

    @abstractmethod
    def world(self) -> World:
        """Return what is there now."""

    @abstractmethod
    def reach(self, source: str, destination: str, namespace: str) -> Reach:
        """Return whether ``source`` reaches ``destination``, names read as in ``namespace``."""

    def pod(self, name: str, namespace: str = "default") -> Client:
        """Return a pod, or the pods of a workload or an app of this name, as the start of connections."""
        return Client(self, name, namespace)

    def deployment(self, name: str, namespace: str = "default") -> Client:
        """Return the pods of a Deployment."""
        return Client(self, f"deploy/{name}", namespace)

    def namespace(self, name: str) -> Client:
        """Return all pods of a namespace."""
        return Client(self, f"ns/{name}", name)

    def address(self, ip: str) -> Client:
        """Return an address outside the cluster."""
        return Client(self, ip, "default")

    @property
    def internet(self) -> Client:
        """Somebody outside the cluster."""
        return Client(self, "internet", "default")

    def why(self, source: str, destination: str, namespace: str = "default") -> Answer:
        """Return what `podwire why` answers."""
        from podwire.verify.why import why

        return why(self.world(), source, destination, namespace)

    def lint(self, *, ignore: tuple[str, ...] = ()) -> tuple[Finding, ...]:
        """Return what `podwire lint` finds."""
        from podwire.verify.lint.engine import lint

        return lint(self.world(), ignore=ignore)
