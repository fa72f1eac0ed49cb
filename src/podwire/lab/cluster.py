"""What the commands do to a cluster: up, stop, down, status. Runs on the host, in the command's process."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn

from podwire.lab import config as lab_config
from podwire.lab import control, namespaces
from podwire.lab.config import LabConfig, Publish
from podwire.lab.home import ClusterDir, cluster, clusters
from podwire.model.errors import AlreadyInUse, BadInput, MachineError, Problem

Report = Callable[[dict[str, Any]], None]
"""Hears ``{"step": title}``, ``{"done": title, "took_s": s}`` and ``{"note": text}``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What ``up`` brought about."""

    cluster: ClusterDir
    config: LabConfig
    was_running: bool


def up(wanted: LabConfig, report: Report, *, explicit: bool = True) -> Outcome:
    """Bring the cluster up, new or from its state, and return when every node is Ready.

    ``explicit`` False: a stopped cluster is started as it was, whatever ``wanted`` says (`podwire start`).
    Raises BadInput when the cluster exists with other settings, AlreadyInUse for a port that is taken,
    NotPermitted when namespaces are refused, MachineError when a process does not come up. A cluster that did
    not exist before leaves nothing behind when it fails.
    """
    place = cluster(wanted.name)
    existed = place.exists()
    config = _settle(place, wanted, explicit) if existed else wanted
    if is_running(place):
        return Outcome(place, config, was_running=True)
    api = _listen_for_api(config)
    publish = tuple(_listen(p.host, p.port, f"--publish {p}") for p in config.publish)
    config = replace(config, api_port=api.getsockname()[1])
    place.create(config)
    try:
        _launch(config, place, (api,), publish, report)
    except BaseException:
        kill(place)
        if not existed:
            _keep_logs(place, report)
            place.remove()
        raise
    finally:
        for s in (api, *publish):
            s.close()
    return Outcome(place, config, was_running=False)


def _keep_logs(place: ClusterDir, report: Report) -> None:
    """Put the logs of a cluster that did not come up aside, and say where."""
    shutil.rmtree(place.failed_logs, ignore_errors=True)
    place.logs.rename(place.failed_logs)
    report({"note": f"nothing is left of it but its logs, in {place.failed_logs}"})


def _settle(place: ClusterDir, wanted: LabConfig, explicit: bool) -> LabConfig:
    """Return the settings to start an existing cluster with. Raises BadInput when they contradict."""
    old = place.load()
    if not explicit:
        return old
    differing = lab_config.differences(old, wanted)
    if differing:
        why = "exists with " + "; ".join(differing)
        raise BadInput(
            Problem(f"cluster {place.name}", "", f"{why}. Take it down first: podwire down --name {place.name}")
        )
    merged = dict(old.images) | dict(wanted.images)
    return replace(old, images=merged, publish=wanted.publish or old.publish, dry_kernel=wanted.dry_kernel)


def _listen_for_api(config: LabConfig) -> socket.socket:
    if config.api_port:
        return _listen("127.0.0.1", config.api_port, f"the API server of {config.name}")
    try:
        return _listen("127.0.0.1", 6443, "the API server")
    except AlreadyInUse:
        return _listen("127.0.0.1", 0, "the API server")


def _listen(host: str, port: int, wish: str) -> socket.socket:
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host, port))
        server.listen(1024)
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise AlreadyInUse(
                "lab", "listen on", f"{host}:{port}", f"the port is in use ({wish})",
                f"see who has it: ss -ltnp 'sport = :{port}', or choose another port",
            ) from None  # fmt: skip
        raise MachineError("lab", "listen on", f"{host}:{port}", error.strerror or error) from None
    return server


def _launch(
    config: LabConfig,
    place: ClusterDir,
    api: tuple[socket.socket, ...],
    publish: tuple[socket.socket, ...],
    report: Report,
) -> None:
    heard, progress = os.pipe()

    def main() -> NoReturn:
        from podwire.lab import init

        os.close(heard)
        init.run(init.Launch(config, place, api, publish, progress))

    if config.dry_kernel:
        from podwire.lab import dry

        pid = dry.launch(main)
    else:
        report({"step": "Entering namespaces of its own"})
        pid = namespaces.launch(main)
        report({"done": "Entering namespaces of its own", "took_s": 0.0})
    os.close(progress)
    place.pid_file.write_text(f"{pid} {_started(pid)}\n")
    _follow(heard, report)


def _follow(heard: int, report: Report) -> None:
    """Pass progress on until init is ready. Raises MachineError with init's words when it fails."""
    with os.fdopen(heard) as lines:
        for line in lines:
            message = json.loads(line)
            if message.get("ready"):
                return
            if "error" in message:
                raise MachineError("lab", "bring up", "the cluster", message["error"])
            report(message)
    raise MachineError("lab", "bring up", "the cluster", "it died while starting", "see `podwire logs init`")


def is_running(place: ClusterDir) -> bool:
    """Return whether the cluster's init answers."""
    connection = control.connect(place.control_socket)
    if connection is None:
        return False
    connection.close()
    return True


def _started(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot; "" when there is none, or only its corpse."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def init_pid(place: ClusterDir) -> int:
    """Return the pid of the cluster's init on this host, 0 when it does not run."""
    try:
        pid, started = place.pid_file.read_text().split()
    except (OSError, ValueError):
        return 0
    return int(pid) if started and _started(int(pid)) == started else 0


def kill(place: ClusterDir, limit_s: float = 10.0) -> bool:
    """End the cluster's init, and with it everything inside; return whether it ran.

    Returns when the process is gone. Raises MachineError when it will not go.
    """
    pid = init_pid(place)
    if not pid:
        return False
    try:
        descriptor = os.pidfd_open(pid)
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise MachineError("lab", "end", place.name, f"process {pid} belongs to another user") from None
    gone, _, _ = select.select([descriptor], [], [], limit_s)
    os.close(descriptor)
    if not gone:
        raise MachineError("lab", "end", place.name, f"process {pid} did not end in {limit_s:.0f} s")
    return True


def stop(name: str) -> bool:
    """Stop the cluster and keep its objects; return whether it ran."""
    place = cluster(name)
    place.load()
    connection = control.connect(place.control_socket)
    pid = init_pid(place)
    if connection is not None and pid:
        descriptor = os.pidfd_open(pid)
        with connection:
            control.send(connection, {"op": "stop"})
            select.select([descriptor], [], [], 2.0)
        os.close(descriptor)
    was_running = kill(place) or connection is not None
    place.control_socket.unlink(missing_ok=True)
    return was_running


def down(name: str) -> bool:
    """Stop the cluster and delete its state; return whether there was one."""
    place = cluster(name)
    shutil.rmtree(place.failed_logs, ignore_errors=True)
    if not place.path.exists():
        return False
    kill(place)
    place.remove()
    return True


def status(name: str) -> dict[str, Any]:
    """Return the state of one cluster: settings, and, when it runs, nodes and processes."""
    place = cluster(name)
    config = place.load()
    answer: dict[str, Any] = {"state": "stopped", "nodes": [], "processes": []}
    if is_running(place):
        answer = {"state": "running"} | control.call(place.control_socket, "status")
    return {
        "name": name, "pid": init_pid(place), "kubeconfig": str(place.kubeconfig),
        "server": f"https://127.0.0.1:{config.api_port}", "backend": config.backend,
        "podCIDR": [str(n) for n in config.pod_cidrs], "serviceCIDR": [str(n) for n in config.service_cidrs],
        "dryKernel": config.dry_kernel, "publish": [_describe(p) for p in config.publish], **answer,
    }  # fmt: skip


def _describe(publish: Publish) -> dict[str, str]:
    return {
        "listen": f"{publish.host}:{publish.port}",
        "to": f"svc/{publish.namespace}/{publish.service}:{publish.service_port}",
    }


def listing() -> list[dict[str, Any]]:
    """Return one row a cluster: name, state, nodes, API server, kubeconfig."""
    rows = []
    for place in clusters():
        config = place.load()
        rows.append({
            "name": place.name, "state": "running" if is_running(place) else "stopped", "nodes": config.nodes,
            "server": f"https://127.0.0.1:{config.api_port}", "kubeconfig": str(place.kubeconfig),
        })  # fmt: skip
    return rows
