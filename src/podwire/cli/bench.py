"""`podwire bench`."""

from __future__ import annotations

import argparse
import sys

from podwire.cli.terminal import print_json, print_table


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the figures."""
    from podwire.lab import bench

    figures = bench.measure(lambda text: print(f"   {text}", file=sys.stderr, flush=True))
    rounded = {k: v if v is None else round(v, 3) for k, v in figures.items()}
    if arguments.output == "json":
        print_json(rounded)
    else:
        meanings = bench.explain()
        print_table(("FIGURE", "VALUE", "WHAT"), [(k, v, meanings.get(k, "")) for k, v in rounded.items()])
    return 0
