"""`podwire verify`: prove by packets that the kernel does what the model says. Exit code 1: it does not."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from podwire.cli.terminal import print_json
from podwire.model.errors import BadInput, MachineError, Problem

_ABOUT = """\
Send a packet of every class that the policies can tell apart between the cluster's pods, and report each that the
kernel treats otherwise than the model says.
  podwire verify                     the running cluster
  podwire verify --fuzz 300          300 random clusters, policies and changes, in namespaces of their own
Packets carry no data: a server sees a connection that is reset at once, or an empty datagram.
Exit code 0: no difference, 1: differences."""


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``verify`` to the parser."""
    sub = command("verify", "verify:run", "prove by packets that policies do what is said of them", about=_ABOUT)
    sub.add_argument("--name", default="podwire", metavar="NAME", help="which cluster (default: podwire)")
    sub.add_argument("--limit", type=int, default=20_000, metavar="N", help="at most so many packets (default: 20000)")
    sub.add_argument("--fuzz", type=int, default=0, metavar="N", help="N random clusters in place of the running one")
    sub.add_argument("--seed", type=int, default=1, metavar="N", help="the first random cluster (default: 1)")
    sub.add_argument("--save", metavar="DIR", help="where to write each cluster with a difference (--fuzz)")
    sub.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")


def run(arguments: argparse.Namespace) -> int:
    """Verify and report."""
    began = time.monotonic()
    if arguments.fuzz < 0 or arguments.limit < 1:
        raise BadInput(Problem("verify", "--fuzz", "must not be negative, and --limit at least 1"))
    found = _fuzz(arguments) if arguments.fuzz else _live(arguments)
    differences = found["differences"]
    if arguments.output == "json":
        print_json(found)
    else:
        for line in differences:
            print(line)
        said = "no difference" if not differences else f"{len(differences)} differences"
        more = f", {found['left_out']} classes left out (--limit)" if found.get("left_out") else ""
        of = f" on {found['clusters']} clusters" if "clusters" in found else ""
        took_s = time.monotonic() - began
        print(
            f"{found['probes']} packets{of}, {found['allowed']} allowed: {said}{more} ({took_s:.1f} s)", file=sys.stderr
        )
    return 1 if differences else 0


def _live(arguments: argparse.Namespace) -> dict[str, Any]:
    from podwire.lab import verify
    from podwire.lab.home import cluster as place_of

    place = place_of(arguments.name)
    place.load()
    report = verify.verify(place, limit=arguments.limit, seed=arguments.seed)
    return {
        "probes": report.probes,
        "allowed": report.allowed,
        "left_out": report.left_out,
        "differences": [str(m) for m in report.mismatches],
    }


def _fuzz(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the proof as the first process of namespaces of its own; root or not."""
    from podwire.lab import namespaces

    read, write = os.pipe()

    def main() -> None:
        os.close(read)
        with os.fdopen(write, "w") as out:
            json.dump(_prove(arguments.seed, arguments.fuzz), out)
        os._exit(0)

    namespaces.launch(main)  # type: ignore[arg-type]
    os.close(write)
    with os.fdopen(read) as source:
        text = source.read()
    if not text:
        raise MachineError("policy", "prove", "random clusters", "the process died", "run `podwire doctor`")
    found: dict[str, Any] = json.loads(text)
    if arguments.save:
        _save(Path(arguments.save), found)
    found.pop("scenarios")
    return found


def _prove(seed: int, count: int) -> dict[str, Any]:
    from podwire.policy.packets import PacketWorld
    from podwire.policy.proof import prove

    world = PacketWorld()
    tally = prove(world, range(seed, seed + count))
    return {
        "clusters": tally.clusters,
        "probes": tally.probes,
        "allowed": tally.allowed,
        "differences": [str(d) for d in tally.differences],
        "scenarios": [{"name": f"seed-{d.seed}-{d.step}", "objects": d.objects} for d in tally.differences],
    }


def _save(directory: Path, found: dict[str, Any]) -> None:
    import yaml

    for scenario in found["scenarios"]:
        place = directory / scenario["name"]
        place.mkdir(parents=True, exist_ok=True)
        (place / "cluster.yaml").write_text(yaml.safe_dump_all(scenario["objects"], sort_keys=False))
        (place / "probes.yaml").write_text(yaml.safe_dump(found["differences"]))
