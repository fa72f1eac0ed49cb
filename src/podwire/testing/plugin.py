"""The pytest plugin: settings and the two fixtures. Registered as ``podwire`` under pytest11."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from podwire.testing.live import LiveCluster
    from podwire.testing.offline import Manifests


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings."""
    about = "manifests for podwire's fixtures: files and directories, from the root directory"
    parser.addini("podwire_manifests", about, type="linelist", default=[])
    parser.addini("podwire_nodes", "how many nodes the `cluster` fixture brings up", default="1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show beside a failure why the connection that was asked about last passed or did not."""
    report = yield
    spoken = sys.modules.get("podwire.testing.sentences")
    if report.when == "call" and spoken is not None:
        if report.failed and spoken.LATEST:
            report.sections.append(("podwire why", spoken.LATEST[-1].why))
        spoken.LATEST.clear()
    return report


def _sources(request: pytest.FixtureRequest) -> list[str]:
    """Return the manifests of a test module: its PODWIRE_MANIFESTS, beside it, else those of the settings."""
    own: Any = getattr(request.module, "PODWIRE_MANIFESTS", None)
    if own is not None:
        base = Path(request.path).parent
        return [str(base / name) for name in ([own] if isinstance(own, str | Path) else own)]
    return [str(request.config.rootpath / name) for name in request.config.getini("podwire_manifests")]


@pytest.fixture(scope="module")
def manifests(request: pytest.FixtureRequest) -> Manifests:
    """The manifests, judged by the policy model: no cluster, no packets, milliseconds."""
    from podwire.testing.offline import Manifests

    return Manifests.read(_sources(request))


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """A cluster of the module's own with the manifests in it, up in about a second and gone afterwards."""
    from podwire.testing.live import LiveCluster

    nodes = getattr(request.module, "PODWIRE_NODES", None) or int(request.config.getini("podwire_nodes"))
    live = LiveCluster.up(tmp_path_factory.mktemp("podwire"), nodes=int(nodes))
    try:
        sources = _sources(request)
        if sources:
            live.apply(*sources)
        yield live
    finally:
        live.down()
