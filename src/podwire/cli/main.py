"""`podwire`: the parser, the dispatch, and the exit codes.

0  done
1  the machine or the cluster failed
2  the input cannot be used (flags, files, names)
3  the kernel or this machine does not allow it, or lacks it
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from podwire import KUBERNETES_VERSION, __version__
from podwire.cli import dns, questions, verify
from podwire.cli.terminal import print_error
from podwire.model.errors import BadInput, NotPermitted, PodwireError, Unsupported

OK, FAILED, BAD_INPUT, NOT_ALLOWED = 0, 1, 2, 3

_ABOUT = f"""\
The whole Kubernetes network, on one machine, in about a second.

  podwire up                          three nodes, real packets, a kubeconfig
  export KUBECONFIG=$(podwire kubeconfig)
  kubectl create deployment web --image nginx --replicas 2
  kubectl expose deployment web --port 80
  kubectl run -it --rm box --image busybox -- curl http://web
  podwire down

podwire {__version__}, serving the API of Kubernetes {KUBERNETES_VERSION}."""

_EXIT = "Exit codes: 0 done, 1 failed, 2 unusable input, 3 not allowed or not possible on this machine."


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("podwire", description=_ABOUT, epilog=_EXIT, formatter_class=raw)
    parser.add_argument(
        "--version", action="version", version=f"podwire {__version__} (Kubernetes {KUBERNETES_VERSION})"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run: str, help: str, **more: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=more.pop("about", help), formatter_class=raw, **more)
        sub.set_defaults(run=run)
        return sub

    def named(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("--name", default="podwire", metavar="NAME", help="which cluster (default: podwire)")
        return sub

    def printable(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
        return sub

    _add_up(named(command("up", "lifecycle:up", "make a cluster, or start it again", about=_UP_ABOUT)))
    named(command("down", "lifecycle:down", "end a cluster and delete all it holds"))
    named(command("stop", "lifecycle:stop", "end a cluster's processes and keep its objects"))
    named(command("start", "lifecycle:start", "start a stopped cluster as it was"))
    printable(named(command("status", "inspect:status", "show a cluster's nodes and processes")))
    printable(command("list", "inspect:list_clusters", "list your clusters"))
    named(command("kubeconfig", "inspect:kubeconfig", "print the path of a cluster's kubeconfig")).add_argument(
        "--print", action="store_true", help="print its content in place of its path"
    )
    logs = named(command("logs", "inspect:logs", "show what a cluster's process wrote", about=_LOGS_ABOUT))
    logs.add_argument("process", nargs="?", default="", metavar="PROCESS", help="apiserver, node-0-agent, ...")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs.add_argument("--tail", type=int, default=200, metavar="N", help="the last N lines (default: 200)")
    _add_node(named(command("node", "node:run", "run a command on a node, or make it fail", about=_NODE_ABOUT)))
    questions.add_commands(command)
    dns.add_commands(command)
    verify.add_command(command)
    printable(command("doctor", "inspect:doctor", "say what this machine can do, and what to change"))
    bench = command("bench", "bench:run", "measure podwire on this machine", about=_BENCH_ABOUT)
    bench.add_argument("what", choices=("up", "dns", "services", "policy"), help="what to measure")
    bench.add_argument("--services", type=int, default=10_000, metavar="N", help="services: how many (default: 10000)")
    bench.add_argument("--endpoints", type=int, default=10, metavar="M", help="services: of each (default: 10)")
    bench.add_argument("--mode", choices=("nftables", "iptables"), default="nftables", help="services: which proxy")
    printable(bench)
    return parser


_UP_ABOUT = """\
Make a cluster: API server, controllers and nodes in namespaces of their own, pods as processes.
It outlives the terminal. An existing cluster that was stopped, or killed, is started with all its objects.
Nothing of the host's network is touched; the API listens on 127.0.0.1 only."""

_LOGS_ABOUT = """\
Show the log of one process of a cluster: init, apiserver, controllers, NODE-agent, NODE-shim.
Without a process: list them. Pods' logs come from `kubectl logs`."""

_NODE_ABOUT = """\
  podwire node NODE -- CMD ...    run a command in the node's namespaces (no command: a shell)
  podwire node stop NODE          power it off, without warning
  podwire node start NODE         power it on
  podwire node cut NODE           unplug it from the other nodes and the API server
  podwire node heal NODE          plug it in again"""

_BENCH_ABOUT = """\
  podwire bench up    time to API, to nodes Ready, to 30 and 300 pods; memory; CNI; cross-node throughput
  podwire bench dns   CPU and memory of the cluster DNS, propagation, killed workers; beside unbound or dnsmasq
  podwire bench services  many Services: first sync, one changed endpoint, memory (--services --endpoints --mode)
  podwire bench policy   who reaches whom in large clusters; one change at a time; enforcement and its cost"""


def _add_up(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--nodes", type=int, metavar="N", help="how many nodes (default: 3)")
    add(
        "-f",
        "--filename",
        action="append",
        default=[],
        metavar="FILE",
        help="apply manifests: a file, a directory, or -",
    )
    add(
        "--pod-cidr",
        metavar="CIDR",
        help="pod addresses, a /24 a node (default: 10.244.0.0/16); dual: two, by comma",
    )
    add(
        "--service-cidr",
        metavar="CIDR",
        help="Service addresses (default: 10.96.0.0/12); dual: two, by comma",
    )
    add("--ip-family", choices=("ipv4", "ipv6", "dual"), help="default: ipv4")
    add("--backend", choices=("vxlan", "host-gw"), help="how nodes reach each other's pods (default: vxlan)")
    add("--proxy-mode", metavar="MODE", help="how Services are done: nftables or iptables (default: nftables)")
    add("--cni-profile", choices=("podwire", "flannel"),
        help="flannel enforces no NetworkPolicy, as the real one (default: podwire)")  # fmt: skip
    add(
        "--mtu",
        type=int,
        metavar="BYTES",
        help="MTU of the node network (default: 1500; pods get 50 or 70 less)",
    )
    add(
        "--image",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="use a local directory or program as an image",
    )
    add("--publish", action="append", default=[], metavar="[ADDR:]PORT:svc/NS/NAME:PORT",
        help="open a port of 127.0.0.1 that leads to a Service")  # fmt: skip
    add("--upstream-zone", metavar="FILE", help="a zone file: what the cluster DNS answers for names of elsewhere")
    add("--config", metavar="FILE", help="a YAML file with any of: name nodes ipFamily podCIDR serviceCIDR backend mtu "
        "proxyMode images publish apiPort upstreamZone; flags win over it")  # fmt: skip
    add(
        "--api-port",
        type=int,
        metavar="PORT",
        help="the API's port on 127.0.0.1 (default: 6443 or a free one)",
    )
    add(
        "--dry-kernel",
        action="store_true",
        help="no namespaces and no packets: API, controllers and a fake kernel",
    )
    add("-q", "--quiet", action="store_true", help="print nothing but errors and the kubeconfig's path")


def _add_node(sub: argparse.ArgumentParser) -> None:
    sub.usage = "podwire node [--name NAME] (NODE [-- CMD ...] | stop|start|cut|heal NODE)"
    sub.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help=argparse.SUPPRESS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    module, _, function = arguments.run.partition(":")
    try:
        result: int | None = getattr(importlib.import_module(f"podwire.cli.{module}"), function)(arguments)
        return result or OK
    except BadInput as error:
        print_error(str(error))
        return BAD_INPUT
    except (NotPermitted, Unsupported) as error:
        print_error(str(error))
        return NOT_ALLOWED
    except PodwireError as error:
        print_error(str(error))
        return FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
