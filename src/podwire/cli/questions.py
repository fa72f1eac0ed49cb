"""why, matrix, diff, lint: answers about a cluster or about files. The exit code is the verdict.

0  allowed, equal, or nothing worse than a note found
1  denied, different, or errors and warnings found
2  the input cannot be used
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from podwire.cli.terminal import print_json, print_table
from podwire.model.errors import BadInput, Problem

if TYPE_CHECKING:
    from podwire.verify.grid import Grid
    from podwire.verify.located import Located
    from podwire.verify.world import World


Command = Callable[..., argparse.ArgumentParser]

_WHY_ABOUT = """\
Say whether A reaches B on a port, what decides it, each hop on the way, and the smallest change.
  podwire why web db:5432                 pods, workloads or Services of these names, in the lab or $KUBECONFIG
  podwire why deploy/web svc/api:80       by kind; NAMESPACE/KIND/NAME for other namespaces
  podwire why -f manifests/ web api:http  from files alone
  podwire why internet web:80/TCP         from outside; so do addresses (10.0.0.7) and DNS names (api.prod.svc)
Exit code 0: allowed, 1: denied, 2: the question makes no sense."""

_MATRIX_ABOUT = """\
Show who reaches whom on which ports, by workload or by pod. "~": the pods of a workload differ."""

_DIFF_ABOUT = """\
Show what a change opens (+) and cuts (-), with a packet for each.
  podwire diff old/ new/                  two directories or files
  podwire diff git:HEAD~1:deploy deploy   a git revision and the working tree
  podwire diff live deploy/               a cluster and files
  podwire diff -f change.yaml             a cluster, and the same after `kubectl apply -f change.yaml`
Exit code 0: nothing, 1: something is opened or cut."""

_LINT_ABOUT = """\
Say what is wrong with manifests, or with what a cluster holds. `podwire lint --rules` lists what is looked for.
An object opts out with the annotation podwire/lint-ignore: "PW011,PW012".
Exit code 1: there are errors or warnings."""


_SUGGEST_ABOUT = """\
Write least-privilege NetworkPolicies from the connections that were seen, each rule with the flows behind it, and
show on standard error what they would cut.
  podwire suggest > policies.yaml         from what the lab's nodes track now (about the last two minutes)
  podwire suggest --watch 60              watch for a minute while the application does all that it does
  podwire suggest --flows seen.jsonl      from a file: {"source": IP, "destination": IP, "protocol", "port"} a line
Only answered connections count. What was not seen is not allowed: read before you apply."""


def add_commands(command: Command) -> None:
    """Add why, matrix, diff, lint and suggest to the parser."""
    sub = command("why", "questions:why", "say whether A reaches B, and what decides it", about=_WHY_ABOUT)
    sub.add_argument("source", metavar="A", help="a pod, KIND/NAME, an address, or `internet`")
    sub.add_argument("destination", metavar="B:PORT[/PROTO]", help="the same with a port, or a DNS name")
    _add_source_options(sub, ("text", "json"))
    sub = command("matrix", "questions:matrix", "show who reaches whom", about=_MATRIX_ABOUT)
    sub.add_argument("--by", choices=("workload", "pod"), default="workload", help="what a row is (default: workload)")
    sub.add_argument("--exposure", action="store_true", help="show what strangers reach: outside, new namespaces")
    sub.add_argument("--only-namespace", action="store_true", help="only pods of the namespace -n")
    _add_source_options(sub, ("table", "json", "csv", "dot", "html"))
    sub = command("diff", "questions:diff", "show what a change opens and cuts", about=_DIFF_ABOUT)
    sub.add_argument("old", nargs="?", default="", metavar="OLD", help="a file, a directory, git:REV:PATH, live or -")
    sub.add_argument("new", nargs="?", default="", metavar="NEW", help="the same")
    _add_source_options(sub, ("table", "json"))
    sub = command("suggest", "suggestions:suggest", "write policies from what was seen", about=_SUGGEST_ABOUT)
    sub.add_argument("--flows", default="", metavar="FILE", help="read connections from a file, not from a lab")
    sub.add_argument(
        "--watch", type=float, default=0.0, metavar="SECONDS", help="how long to watch (default: one look)"
    )
    sub.add_argument("--only-namespace", action="store_true", help="only workloads of the namespace -n")
    _add_source_options(sub, ("yaml",))
    sub = command("lint", "questions:lint", "say what is wrong with manifests", about=_LINT_ABOUT)
    sub.add_argument("paths", nargs="*", metavar="PATH", help="files and directories (none: the cluster)")
    sub.add_argument("--ignore", action="append", default=[], metavar="RULE", help="leave out a rule, by id or name")
    sub.add_argument("--rules", action="store_true", help="list the rules")
    _add_source_options(sub, ("text", "json", "sarif"))


def _add_source_options(sub: argparse.ArgumentParser, outputs: tuple[str, ...]) -> None:
    """Add the flags that say where objects are read from."""
    add = sub.add_argument
    add("-o", "--output", choices=outputs, default=outputs[0], help=f"how to print (default: {outputs[0]})")
    if "json" in outputs:
        add("--json", action="store_const", const="json", dest="output", help="the same as -o json")
    add("-f", "--filename", action="append", default=[], metavar="FILE", help="read files, not a cluster: a file, "
        "a directory, git:REV:PATH, or - for standard input")  # fmt: skip
    add("--kubeconfig", default="", metavar="FILE", help="which cluster (default: $KUBECONFIG, else the lab --name)")
    add("--context", default="", metavar="NAME", help="which context of the kubeconfig")
    add("--name", default="podwire", metavar="NAME", help="which lab, when no kubeconfig says otherwise")
    add("-n", "--namespace", default="default", metavar="NS", help="where names without a namespace are looked for")
    add("--plugin", default="", metavar="NAME", help="judge as this network plugin enforces (flannel: not at all)")


def _live(arguments: argparse.Namespace, context: str = "") -> tuple[Located, ...]:
    from podwire.lab.home import cluster
    from podwire.verify import live

    path = live.find_kubeconfig(arguments.kubeconfig, cluster(arguments.name).kubeconfig)
    return live.read(path, context or arguments.context)


def _objects(arguments: argparse.Namespace, source: str) -> tuple[Located, ...]:
    """Return the objects of one source: "live", "live:CONTEXT", a file, a directory, git:REV:PATH or "-"."""
    from podwire.verify import sources

    if source == "live" or source.startswith("live:"):
        return _live(arguments, source.partition(":")[2])
    return sources.read([source], arguments.namespace)


def _plugin(arguments: argparse.Namespace, *, live: bool) -> str:
    """Return the network plugin to judge by: the flag's, else the profile of the lab that is asked about."""
    from podwire.lab.home import clusters
    from podwire.verify.live import find_kubeconfig

    if arguments.plugin or not live:
        return str(arguments.plugin)
    labs = {place.kubeconfig.resolve(): place for place in clusters()}
    fallback = next((p.kubeconfig for p in labs.values() if p.name == arguments.name), None)
    asked = labs.get(find_kubeconfig(arguments.kubeconfig, fallback).resolve())
    return asked.load().cni_profile if asked is not None and not arguments.context else ""


def world_of(arguments: argparse.Namespace) -> World:
    """Return the world that the flags name: files, or a cluster."""
    from podwire.verify import sources, world

    files = arguments.filename
    objects = sources.read(files, arguments.namespace) if files else _live(arguments)
    return world.build(objects, plugin=_plugin(arguments, live=not files))


def why(arguments: argparse.Namespace) -> int:
    """Say whether A reaches B, and why. Exit code 0: allowed, 1: denied."""
    from podwire.verify import why as question
    from podwire.verify.answer import render

    answer = question.why(world_of(arguments), arguments.source, arguments.destination, arguments.namespace)
    if arguments.output == "json":
        print_json(answer.as_json())
    else:
        print(render(answer))
    return 0 if answer.allowed else 1


def lint(arguments: argparse.Namespace) -> int:
    """Say what is wrong with manifests. Exit code 1 when there are errors or warnings."""
    from podwire.verify import sources, world
    from podwire.verify.lint import engine, sarif

    if arguments.rules:
        print_table(("ID", "NAME", "SEVERITY", "WHAT"), [(r.id, r.name, r.severity, r.title) for r in engine.RULES])
        return 0
    paths = [*arguments.paths, *arguments.filename]
    objects = sources.read(paths, arguments.namespace) if paths else _live(arguments)
    plugin = _plugin(arguments, live=not paths)
    found = engine.lint(world.build(objects, plugin=plugin), ignore=arguments.ignore)
    if arguments.output == "json":
        print_json([f.as_json() for f in found])
    elif arguments.output == "sarif":
        print_json(sarif.render(found, engine.RULES))
    else:
        for f in found:
            print(f"{f.place}: {f.rule.severity} {f.rule.id} {f.rule.name}: {f.located.key} {f.path}")
            print(f"    {f.why}\n    to fix: {f.fix}")
        counts = {s: sum(f.rule.severity == s for f in found) for s in ("error", "warning", "note")}
        shown = ", ".join(f"{n} {s}{'s'[: n != 1]}" for s, n in counts.items())
        print(f"{len(objects)} objects: {shown}", file=sys.stderr)
    return 1 if any(f.rule.severity != "note" for f in found) else 0


def matrix(arguments: argparse.Namespace) -> int:
    """Show who reaches whom."""
    from podwire.verify import exposure, formats, grid

    world = world_of(arguments)
    if arguments.exposure:
        return _exposure(exposure.exposure(world), arguments.output)
    spaces = [arguments.namespace] if arguments.only_namespace else []
    table = grid.grid(world, by_pod=arguments.by == "pod", namespaces=spaces)
    match arguments.output:
        case "json":
            print_json(formats.as_json(table))
        case "csv":
            print(formats.as_csv(table), end="")
        case "dot":
            print(formats.as_dot(table), end="")
        case "html":
            print(formats.as_html(table, "Who reaches whom"), end="")
        case _:
            _print_grid(table)
    return 0


def _print_grid(table: Grid) -> None:
    if not table.lines or all(not line.pods for line in table.lines):
        raise BadInput(Problem("matrix", "", "there is no pod and no workload to show"))
    if len(table.lines) > 10:  # a wide table is no table
        cells = [c for c in table.cells.values() if c.ports or c.mixed]
        print_table(("SOURCE", "DESTINATION", "PORTS"), [(c.source, c.destination, c.word) for c in cells])
        return
    names = [line.name for line in table.lines]
    rows = [[line.name, *(c.word if c is not None else "" for c in cells)] for line, cells in table.rows()]
    print_table(["FROM \\ TO", *names], rows)


def _exposure(found: tuple[object, ...], output: str) -> int:
    import dataclasses

    rows = [dataclasses.asdict(e) for e in found]  # type: ignore[call-overload]
    if output == "json":
        print_json(rows)
        return 0
    columns = ("workload", "from_outside", "to_outside", "from_unknown", "to_unknown", "labelled", "ways_in")
    heads = (
        "WORKLOAD",
        "FROM OUTSIDE",
        "TO OUTSIDE",
        "FROM NEW NAMESPACES",
        "TO NEW NAMESPACES",
        "IF LABELLED",
        "WAYS IN",
    )
    print_table(heads, [[_shown(row[c]) for c in columns] for row in rows])
    return 0


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{k}: {v}" for k, v in value.items()) or "-"
    if isinstance(value, tuple | list):
        return "; ".join(map(str, value)) or "-"
    return str(value)


def _shared_namespaces(old: World, new: World) -> list[str]:
    """Return the namespaces to compare: those of the files, when a cluster is held against files; else all."""
    if old.complete == new.complete:
        return []
    files = old if new.complete else new
    return sorted({p.key.namespace for p in files.pods if not p.assumed}) or ["default"]


def diff(arguments: argparse.Namespace) -> int:
    """Show what a change opens and cuts. Exit code 0: nothing, 1: something."""
    from podwire.verify import changes, world
    from podwire.verify.located import overlay

    if arguments.filename:
        if arguments.old or arguments.new:
            raise BadInput(Problem("diff", "-f", "compares a cluster with itself after these files: no OLD, no NEW"))
        from podwire.verify import sources

        old = _live(arguments)
        new = overlay(old, sources.read(arguments.filename, arguments.namespace))
    elif arguments.old and arguments.new:
        old, new = _objects(arguments, arguments.old), _objects(arguments, arguments.new)
    else:
        raise BadInput(Problem("diff", "", "write podwire diff OLD NEW, or podwire diff -f FILE for a cluster"))
    worlds = world.build(old), world.build(new)
    found = changes.changes(*worlds, _shared_namespaces(*worlds))
    if arguments.output == "json":
        print_json([c.as_json() for c in found])
    elif not found:
        print("no connection is opened or cut", file=sys.stderr)
    else:
        rows = [("+" if c.opens else "-", c.source, c.destination, c.ports, c.example, c.because) for c in found]
        print_table(("", "FROM", "TO", "PORTS", "EXAMPLE", "BECAUSE"), rows)
    return 1 if found else 0
