"""suggest: least-privilege policies from the connections that were seen."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from podwire.cli.questions import world_of
from podwire.cli.terminal import print_error
from podwire.model.errors import BadInput, Problem

if TYPE_CHECKING:
    from podwire.verify.changes import Change
    from podwire.verify.suggest import SeenFlow

_EVERY_S = 1.0


def suggest(arguments: argparse.Namespace) -> int:
    """Print the policies on standard output, and what they cut on standard error."""
    from podwire.verify import changes, sources, suggest, world
    from podwire.verify.located import overlay

    flows = _read(Path(arguments.flows)) if arguments.flows else _watch(arguments.name, arguments.watch)
    now = world_of(arguments)
    spaces = [arguments.namespace] if arguments.only_namespace else []
    found = suggest.suggest(now, flows, spaces)
    if not found:
        print_error("no connection between pods was seen; use the application while `--watch 60` runs")
        return 1
    text = suggest.render(found)
    print(text, end="")
    after = world.build(overlay(now.objects, sources.parse("<suggested>", text)), plugin=arguments.plugin)
    _report(changes.changes(now, after), len(flows))
    return 0


def _report(found: Sequence[Change], flows: int) -> None:
    print(f"{flows} connections seen. Against what is allowed now, these policies cut:", file=sys.stderr)
    for change in found:
        if not change.opens:
            print(f"  - {change.source} -> {change.destination}: {change.ports}", file=sys.stderr)


def _watch(name: str, duration_s: float) -> set[SeenFlow]:
    from podwire.lab import flows
    from podwire.lab.home import cluster

    place = cluster(name)
    nodes = list(place.load().node_names)
    end = time.monotonic() + duration_s
    found = flows.seen(place, nodes)
    while time.monotonic() < end:
        time.sleep(min(_EVERY_S, max(0.0, end - time.monotonic())))
        found |= flows.seen(place, nodes)
    return found


def _read(path: Path) -> set[SeenFlow]:
    from podwire.verify.suggest import SeenFlow

    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise BadInput(Problem(str(path), "", f"cannot be read: {error.strerror}")) from None
    found = set()
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                found.add(_flow(json.loads(line), SeenFlow))
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(Problem(f"{path}:{number}", "", f"is no flow: {error}")) from None
    return found


def _flow(raw: dict[str, object], kind: type[SeenFlow]) -> SeenFlow:
    ends = ip_address(str(raw["source"])), ip_address(str(raw["destination"]))
    return kind(*ends, str(raw.get("protocol", "TCP")).upper(), int(str(raw["port"])))
