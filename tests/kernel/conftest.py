"""What kernel tests share: a fresh world of namespaces, real or fake, that ends with the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from podwire.kernel.fake import FakeMachine
from podwire.kernel.netns.fake import FakeNetns
from podwire.kernel.netns.real import RealNetns


@dataclass
class World:
    """Namespaces to work in. ``here`` is a fresh one; nothing reaches the machine's own."""

    kind: str
    netns: Any
    machine: FakeMachine | None
    descriptors: list[int] = field(default_factory=list)
    opened: list[Any] = field(default_factory=list)

    def namespace(self) -> int:
        fd = self.netns.make()
        self.descriptors.append(fd)
        return fd

    def links(self, fd: int) -> Any:
        return self._open(fd, "links", "podwire.kernel.link.real", "RealLinks")

    def routes(self, fd: int) -> Any:
        return self._open(fd, "routes", "podwire.kernel.route.real", "RealRoutes")

    def sysctl(self, fd: int) -> Any:
        return self._open(fd, "sysctl", "podwire.kernel.sysctl.real", "RealSysctl")

    def _open(self, fd: int, name: str, module: str, cls: str) -> Any:
        import importlib

        factory: Callable[[], Any]
        factory = getattr(self.machine, name) if self.machine else getattr(importlib.import_module(module), cls)
        made = self.netns.within(fd, factory)
        self.opened.append(made)
        return made

    def close(self) -> None:
        for thing in self.opened:
            if hasattr(thing, "close"):
                thing.close()
        if self.machine is None:
            for fd in self.descriptors:
                os.close(fd)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kernel)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A fresh world: once on the fakes, once on the kernel."""
    machine = FakeMachine() if request.param == "fake" else None
    made = World(request.param, FakeNetns(machine) if machine else RealNetns(), machine)
    yield made
    made.close()
