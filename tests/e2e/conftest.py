"""Labs for the end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from labkit import Lab


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PODWIRE_HOME of the tests' own."""
    return tmp_path_factory.mktemp("podwire")


@pytest.fixture(scope="session")
def new_lab(home: Path) -> Iterator[Callable[..., Lab]]:
    """Make labs that are taken down at the end: ``new_lab("name", "--nodes", "2")``."""
    made: list[Lab] = []

    def make(name: str, *flags: str) -> Lab:
        lab = Lab(name, home)
        made.append(lab)
        lab.podwire("up", *flags, timeout_s=90)
        return lab

    yield make
    for lab in made:
        lab.podwire("down", check=False)


@pytest.fixture(scope="session")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    """The cluster that most tests share: three nodes, VXLAN."""
    return new_lab("e2e")


@pytest.fixture
def namespace(lab: Lab, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own."""
    name = "t-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:40].strip("-")
    lab.kubectl("create", "namespace", name)
    yield name
    lab.kubectl("delete", "namespace", name, "--wait=false", check=False)
