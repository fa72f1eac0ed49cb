"""up, down, stop, start."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from podwire.cli.terminal import Progress, print_error
from podwire.lab import cluster, config
from podwire.lab.config import LabConfig
from podwire.model.errors import BadInput, Problem


def _wanted(arguments: argparse.Namespace) -> LabConfig:
    """Return what the flags and the configuration file ask for. Raises BadInput."""
    raw: dict[str, Any] = {}
    source = "options"
    if arguments.config:
        raw, source = _read_config(Path(arguments.config)), arguments.config
    flags = {
        "nodes": arguments.nodes, "ipFamily": arguments.ip_family, "podCIDR": arguments.pod_cidr,
        "serviceCIDR": arguments.service_cidr, "backend": arguments.backend, "mtu": arguments.mtu,
        "images": arguments.image or None, "publish": arguments.publish or None, "apiPort": arguments.api_port,
        "cniProfile": arguments.cni_profile,
        "proxyMode": arguments.proxy_mode, "upstreamZone": arguments.upstream_zone,
    }  # fmt: skip
    raw |= {k: v for k, v in flags.items() if v is not None}
    if arguments.name != "podwire" or "name" not in raw:
        raw["name"] = arguments.name
    return config.parse(raw, source=source)


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise BadInput(Problem(str(path), "", f"cannot be read: {error.strerror}")) from None
    except yaml.YAMLError as error:
        raise BadInput(Problem(str(path), "", f"is no YAML: {error}")) from None
    if not isinstance(raw, dict):
        raise BadInput(Problem(str(path), "", "must be a mapping of settings, as `nodes: 3`"))
    return raw


def up(arguments: argparse.Namespace) -> int:
    """Bring a cluster up and say how to use it."""
    from dataclasses import replace

    began = time.monotonic()
    wanted = replace(_wanted(arguments), dry_kernel=arguments.dry_kernel)
    progress = Progress(arguments.quiet)
    objects = []
    if arguments.filename:
        from podwire.lab import manifests

        objects = manifests.read(arguments.filename)
        manifests.check(objects)
    if not arguments.quiet:
        kernel = "a fake kernel (no packets)" if wanted.dry_kernel else "the real kernel"
        print(f'Creating cluster "{wanted.name}" with {wanted.nodes} nodes on {kernel}', file=sys.stderr)
    outcome = cluster.up(wanted, progress)
    if objects:
        from podwire.lab import manifests

        manifests.apply(outcome.cluster.kubeconfig, objects, progress)
    if outcome.was_running:
        print_error(f'cluster "{wanted.name}" is running already')
    _explain(outcome, arguments, time.monotonic() - began)
    return 0


def _explain(outcome: cluster.Outcome, arguments: argparse.Namespace, took_s: float) -> None:
    path = outcome.cluster.kubeconfig
    if arguments.quiet or not sys.stdout.isatty():
        print(path)
    if arguments.quiet:
        return
    name = "" if outcome.cluster.name == "podwire" else f" --name {outcome.cluster.name}"
    podwire = "podwire" if shutil.which("podwire") else sys.argv[0]  # as `make up` runs it: not on the PATH
    print(
        f"""\
Ready after {took_s:.2f} s. The kubeconfig is {path}

  export KUBECONFIG=$({podwire} kubeconfig{name})
  kubectl get nodes -o wide
  kubectl create deployment web --image nginx --replicas 2 && kubectl expose deployment web --port 80
  kubectl run box -it --rm --image busybox --restart Never -- curl -s http://web

`{podwire} status{name}` shows what runs, `{podwire} down{name}` ends it.""",
        file=sys.stderr,
    )


def down(arguments: argparse.Namespace) -> int:
    """End a cluster for good."""
    if not cluster.down(arguments.name):
        print_error(f'there is no cluster "{arguments.name}"; nothing to do')
    else:
        print(f'Cluster "{arguments.name}" is gone.', file=sys.stderr)
    return 0


def stop(arguments: argparse.Namespace) -> int:
    """Stop a cluster; its objects stay."""
    was_running = cluster.stop(arguments.name)
    word = "stopped" if was_running else "was not running"
    print(f'Cluster "{arguments.name}" {word}; `podwire start` brings it back.', file=sys.stderr)
    return 0


def start(arguments: argparse.Namespace) -> int:
    """Start a stopped cluster with the settings it was made with."""
    from podwire.lab.home import cluster as place_of

    outcome = cluster.up(place_of(arguments.name).load(), Progress(), explicit=False)
    word = "is running already" if outcome.was_running else "is running"
    print(f'Cluster "{arguments.name}" {word}.', file=sys.stderr)
    return 0
