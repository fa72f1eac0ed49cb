"""status, list, kubeconfig, logs, doctor."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from podwire.cli.terminal import print_error, print_json, print_table
from podwire.lab import cluster
from podwire.lab.home import cluster as place_of
from podwire.model.errors import BadInput, Problem


def status(arguments: argparse.Namespace) -> int:
    """Show one cluster."""
    state = cluster.status(arguments.name)
    if arguments.output == "json":
        print_json(state)
        return 0
    head = f"{state['name']}: {state['state']}, API at {state['server']}"
    print(f"{head}, {state['backend']}, pods {', '.join(state['podCIDR'])}")
    print(f"kubeconfig: {state['kubeconfig']}")
    for p in state["publish"]:
        print(f"published: {p['listen']} -> {p['to']}")
    if state["nodes"]:
        print()
        rows = [(n["name"], n["power"], n["underlay"], " ".join(n["addresses"]), n["pid1"]) for n in state["nodes"]]
        print_table(("NODE", "POWER", "UNDERLAY", "ADDRESSES", "PID"), rows)
        print()
        processes = [
            (p["name"], p["state"], p["ready"], p["restarts"], p["pid"], p["lastExit"]) for p in state["processes"]
        ]
        print_table(("PROCESS", "STATE", "READY", "RESTARTS", "PID", "LAST EXIT"), processes)
    return 0


def list_clusters(arguments: argparse.Namespace) -> int:
    """List every cluster of this user."""
    rows = cluster.listing()
    if arguments.output == "json":
        print_json(rows)
    elif not rows:
        print("No clusters. `podwire up` makes one.", file=sys.stderr)
    else:
        columns = ("name", "state", "nodes", "server", "kubeconfig")
        print_table([c.upper() for c in columns], [[r[c] for c in columns] for r in rows])
    return 0


def kubeconfig(arguments: argparse.Namespace) -> int:
    """Print where the kubeconfig is, or what it says."""
    place = place_of(arguments.name)
    place.load()
    print(place.kubeconfig.read_text() if arguments.print else place.kubeconfig)
    return 0


def logs(arguments: argparse.Namespace) -> int:
    """Show a process's log."""
    place = place_of(arguments.name)
    place.load()
    known = sorted(p.stem for p in place.logs.glob("*.log"))
    if not arguments.process:
        rows = [(n, (place.logs / f"{n}.log").stat().st_size) for n in known]
        print_table(("PROCESS", "BYTES"), rows)
        return 0
    if arguments.process not in known:
        raise BadInput(Problem("logs", arguments.process, f"no such process; there are: {', '.join(known)}"))
    path = place.logs / f"{arguments.process}.log"
    lines = path.read_text(errors="replace").splitlines()[-arguments.tail :]
    print("\n".join(lines), flush=True)
    if arguments.follow:
        _follow(path)
    return 0


def _follow(path: Path) -> None:
    with path.open(errors="replace") as file:
        file.seek(0, 2)
        while True:
            text = file.read()
            if text:
                print(text, end="", flush=True)
            time.sleep(0.2)


def doctor(arguments: argparse.Namespace) -> int:
    """Say what this machine can do. Exit code 3 when `podwire up` cannot work here."""
    from podwire.lab import doctor as checks

    findings = checks.examine()
    if arguments.output == "json":
        print_json([f.as_json() for f in findings])
    else:
        rows = [(f.verdict, f.what, f.found, f.remedy) for f in findings]
        print_table(("", "CHECK", "FOUND", "REMEDY"), rows)
    if any(f.verdict == "fail" for f in findings):
        print_error("`podwire up` will not work here until the failed checks pass; `podwire up --dry-kernel` does")
        return 3
    return 0
