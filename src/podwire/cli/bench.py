"""`podwire bench`."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

from podwire.cli.terminal import print_json, print_table

SUBJECTS = {"up": "lab", "dns": "dns", "services": "proxy", "policy": "policy"}
"""What can be measured, and the room whose ``bench.py`` does it."""


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the figures."""
    bench = importlib.import_module(f"podwire.{SUBJECTS[arguments.what]}.bench")
    more: dict[str, Any] = {}
    if arguments.what == "services":
        more = {"services": arguments.services, "endpoints": arguments.endpoints, "mode": arguments.mode}
    figures = bench.measure(lambda text: print(f"   {text}", file=sys.stderr, flush=True), **more)
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}
    if arguments.output == "json":
        print_json(rounded)
    else:
        meanings = bench.explain()
        print_table(("FIGURE", "VALUE", "WHAT"), [(k, v, meanings.get(k, "")) for k, v in rounded.items()])
    return 0
