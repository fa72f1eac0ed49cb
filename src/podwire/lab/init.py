"""Lab init: pid 1 of a cluster. Brings everything up in order, then serves `podwire`'s commands."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from podwire.kernel import libc
from podwire.lab import control, machine, plane, underlay
from podwire.lab.config import LabConfig
from podwire.lab.home import ClusterDir
from podwire.lab.machine import Machine
from podwire.lab.supervisor import Child, Supervisor
from podwire.model.errors import PodwireError
from podwire.runtime.logging import get

log = get("lab")


@dataclass(frozen=True, slots=True)
class Launch:
    """What init is handed by the command: descriptors opened on the host, before the namespaces."""

    config: LabConfig
    cluster: ClusterDir
    api_sockets: tuple[socket.socket, ...]
    publish_sockets: tuple[socket.socket, ...]
    progress: int  # a pipe to the command, one JSON object a line


def run(launch: Launch) -> NoReturn:
    """Be lab init. Never returns; the process ends when it is told to stop, and all others with it."""
    try:
        (DryLab if launch.config.dry_kernel else Lab)(launch).serve()
    except PodwireError as error:
        _tell(launch.progress, {"error": str(error)})
    except BaseException as error:
        _tell(launch.progress, {"error": _in_words(error)})
        with suppress(OSError):  # the disk may be what is wrong
            traceback.print_exc()
    finally:
        os._exit(1)


def _in_words(error: BaseException) -> str:
    """Return what went wrong as a person can use it."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = error.filename or "the state directory"
        return f"{where}: {error.strerror}; free some space, or set PODWIRE_HOME to a roomier place"
    return f"{type(error).__name__}: {error}"


def _tell(fd: int, message: dict[str, Any]) -> None:
    try:
        os.write(fd, json.dumps(message).encode() + b"\n")
    except OSError:  # the command has left: nobody needs to know
        pass


class Lab:
    """The running cluster, seen from its first process."""

    def __init__(self, launch: Launch) -> None:
        self.launch, self.config, self.cluster = launch, launch.config, launch.cluster
        self._settle()
        self.supervisor = Supervisor(self.cluster.logs)
        self.machines: dict[str, Machine] = {}
        self.off: set[str] = set()  # nodes powered off on purpose

    def _settle(self) -> None:
        """Take the log as standard streams and let no terminal signal through."""
        out = os.open(self.cluster.logs / "init.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        os.close(null)
        os.chdir("/")
        libc.set_process_name(f"podwire {self.cluster.name}")
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        began = time.monotonic()
        _tell(self.launch.progress, {"step": title})
        yield
        took_s = time.monotonic() - began
        _tell(self.launch.progress, {"done": title, "took_s": took_s})
        log.info("step", title=title, took_s=took_s)

    def serve(self) -> None:
        """Bring the cluster up, then serve until told to stop."""
        self._listen()
        with self._step("Preparing the underlay and certificates"):
            self._build_underlay()
            plane.warm_up_api()
            self.identities = plane.prepare_identities(self.config, self.cluster)
        with self._step("Starting the API server"):
            self._start_api()
            plane.warm_up_nodes()
            self.cni, self.keeper = plane.build_cni(), plane.open_keeper()
            self._power_on_all()
            self._wait_for(["apiserver"], 30.0)
        with self._step(f"Starting controllers and {self.config.nodes} node{'s'[: self.config.nodes != 1]}"):
            self._start_controllers()
            for name in self.config.node_names:
                self._start_agent(name)
            self._wait_for([f"{n}-agent" for n in self.config.node_names], 60.0)
        if self.launch.publish_sockets:
            self._start_publisher()
        _tell(self.launch.progress, {"ready": True})
        os.close(self.launch.progress)
        self.supervisor.run()

    # Bringing up

    def _build_underlay(self) -> None:
        from podwire.kernel.link.real import RealLinks
        from podwire.kernel.nft.real import RealNft
        from podwire.kernel.route.real import RealRoutes
        from podwire.kernel.sysctl.real import RealSysctl

        self.links = RealLinks()
        self.bridge = underlay.build(self.links, RealSysctl(), self.config)
        underlay.lead_to_pods(RealRoutes(), RealNft(), self.config)

    def _start_api(self) -> None:
        sockets = self.launch.api_sockets
        self.supervisor.start(
            "apiserver",
            lambda ready: plane.run_api(self.config, self.cluster, self.identities, sockets, ready),
            keep=tuple(s.fileno() for s in sockets),
        )

    def _start_controllers(self) -> None:
        self.supervisor.start("controllers", lambda ready: plane.run_controllers(self.config, self.identities, ready))

    def _power_on_all(self) -> None:
        for index in range(self.config.nodes):
            self._power_on(index)

    def _power_on(self, index: int) -> None:
        spec = machine.spec_of(self.config, index, self.cluster.node(self.config.node_names[index]))
        ours, theirs = socket.socketpair()
        name = f"{spec.name}-shim"

        def pid1() -> None:
            plane.run_shim(spec, self.config, self.cluster)

        keeper = self.supervisor.fork(
            name, lambda: machine.power_on(spec, theirs, pid1, self.keeper), keep=(theirs.fileno(), self.keeper)
        )
        theirs.close()
        node = self.machines[spec.name] = Machine(spec, ours)
        node.plug(self.links, self.bridge)
        self.supervisor.expect_exit(keeper, lambda code: self._lost_power(spec.index, node, code))

    def _lost_power(self, index: int, node: Machine, code: int) -> None:
        """A node's pid 1 ended: reboot it, unless that was the wish."""
        name = node.spec.name
        node.close()
        agent = self.supervisor.children.get(f"{name}-agent")
        if name in self.off:
            self.machines.pop(name, None)
            log.info("powered-off", node=name)
            return
        log.warning("node-died", node=name, code=code, act="reboot")
        if agent is not None:
            self.supervisor.hold(agent.name)
        self._power_on(index)
        if agent is not None:
            self.supervisor.after(0.05, lambda: self._start_agent(name))

    def _start_agent(self, name: str) -> None:
        node = self.machines[name]

        def main(ready: Callable[[], None]) -> None:
            machine.enter(
                self.machines[name],
                lambda: plane.run_agent(node.spec, self.config, self.identities, self.cni, ready),
                keeper=self.keeper,
            )

        self.supervisor.start(f"{name}-agent", main, keep=(*node.descriptors, self.keeper))

    def _start_publisher(self) -> None:
        first = self.config.node_names[0]
        sockets = self.launch.publish_sockets

        def main(ready: Callable[[], None]) -> None:
            machine.enter(
                self.machines[first], lambda: plane.run_publisher(self.config, self.identities, sockets, ready)
            )

        keep = (*self.machines[first].descriptors, *(s.fileno() for s in sockets))
        self.supervisor.start("publisher", main, keep=keep)

    def _wait_for(self, names: list[str], limit_s: float) -> None:
        """Serve events until the named children are ready. Raises MachineError after ``limit_s``."""
        from podwire.model.errors import MachineError

        end = time.monotonic() + limit_s
        waiting = set(names)
        while waiting := {n for n in waiting if not self.supervisor.children[n].ready}:
            left_s = end - time.monotonic()
            failed = [c for c in map(self.supervisor.children.__getitem__, waiting) if c.restarts > 3]
            if left_s <= 0 or failed:
                name = failed[0].name if failed else sorted(waiting)[0]
                raise MachineError("lab", "start", name, self._last_words(name), f"see {self.cluster.logs / name}.log")
            self.supervisor.turn(left_s)

    def _last_words(self, name: str) -> str:
        """Return the last line of a process's log that tells of trouble, else its last line."""
        try:
            lines = (self.cluster.logs / f"{name}.log").read_text().splitlines()
        except OSError:
            lines = []
        troubled = [line for line in lines if " INFO " not in line and " DEBUG " not in line]
        return (troubled or lines or ["not ready in time"])[-1].strip()

    # Serving commands

    def _listen(self) -> None:
        self._control = control.listen(self.cluster.control_socket)
        self.supervisor.watch(self._control.fileno(), self._accept)

    def _accept(self) -> None:
        connection, _ = self._control.accept()
        connection.settimeout(5.0)
        try:
            request, descriptors = control.receive(connection)
        except (EOFError, ValueError, OSError):
            connection.close()
            return
        operation = getattr(self, "op_" + str(request.get("op", "")).replace("-", "_"), None)
        try:
            if operation is None:
                raise PodwireError(f"unknown operation {request.get('op')!r}")
            answer = operation(request, connection, descriptors)
        except (PodwireError, KeyError, OSError) as error:
            answer = {"error": str(error)}
        for fd in descriptors:
            os.close(fd)
        if answer is not None:
            try:
                control.send(connection, answer)
            except OSError:
                pass
            connection.close()

    def op_status(self, request: dict[str, Any], connection: socket.socket, fds: list[int]) -> dict[str, Any]:
        """Answer with the process table and the nodes."""
        nodes = [
            {
                "name": name,
                "addresses": [str(i) for i in underlay.node_addresses(self.config, index).ips],
                "power": "off" if name in self.off else "on",
                "underlay": "cut" if name in self.machines and self.machines[name].is_cut else "joined",
                "pid1": self.machines[name].pid1 if name in self.machines else 0,
            }
            for index, name in enumerate(self.config.node_names)
        ]
        return {"processes": self.supervisor.describe(), "nodes": nodes}

    def op_node_exec(self, request: dict[str, Any], connection: socket.socket, fds: list[int]) -> dict[str, Any] | None:
        """Run a command in a node with the caller's descriptors; the answer is its exit code, later."""
        node = self._machine(request["node"])
        stdio = tuple(fds)

        def body() -> None:
            machine.enter(node, lambda: _execute(request, stdio))

        pid = self.supervisor.fork(f"{node.spec.name}-exec", body, keep=(*stdio, *node.descriptors))

        def ended(code: int) -> None:
            self.supervisor.unwatch(connection.fileno())
            try:
                control.send(connection, {"exit": code})
            except OSError:
                pass
            connection.close()

        self.supervisor.expect_exit(pid, ended)
        self.supervisor.watch(connection.fileno(), lambda: _hang_up(connection, pid))
        return None

    def _machine(self, name: str) -> Machine:
        if name not in self.config.node_names:
            raise PodwireError(f"there is no node {name!r}; there are: {', '.join(self.config.node_names)}")
        if name not in self.machines:
            raise PodwireError(f"{name} is powered off; `podwire node start {name}` powers it on")
        return self.machines[name]

    def op_node_stop(self, request: dict[str, Any], connection: socket.socket, fds: list[int]) -> dict[str, Any]:
        """Power a node off, at once and without warning."""
        node = self._machine(request["node"])
        self.off.add(node.spec.name)
        self.supervisor.hold(f"{node.spec.name}-agent")
        os.kill(node.pid1, signal.SIGKILL)
        return {"node": node.spec.name, "power": "off"}

    def op_node_start(self, request: dict[str, Any], connection: socket.socket, fds: list[int]) -> dict[str, Any]:
        """Power a node on."""
        name = request["node"]
        if name not in self.off:
            self._machine(name)
            return {"node": name, "power": "on"}
        if name in self.machines:
            raise PodwireError(f"{name} is still going down; try again in a moment")
        self.off.discard(name)
        self._power_on(self.config.node_names.index(name))
        self._start_agent(name)
        return {"node": name, "power": "on"}

    def op_node_cut(self, request: dict[str, Any], connection: socket.socket, fds: list[int]) -> dict[str, Any]:
        """Partition a node from the underlay."""
        return self._cut(request["node"], heal=False)

    def op_node_heal(self, request: dict[str, Any], connection: socket.socket, fds: list[int]) -> dict[str, Any]:
        """Join a partitioned node again."""
        return self._cut(request["node"], heal=True)

    def _cut(self, name: str, *, heal: bool) -> dict[str, Any]:
        node = self._machine(name)
        underlay.cut(self.links, node.spec.index, heal=heal)
        node.is_cut = not heal
        return {"node": name, "underlay": "joined" if heal else "cut"}

    def op_kill(self, request: dict[str, Any], connection: socket.socket, fds: list[int]) -> dict[str, Any]:
        """Kill one process of the table, as a fault; the supervisor starts it again."""
        child: Child = self.supervisor.children[request["process"]]
        if child.pid:
            os.kill(child.pid, signal.SIGKILL)
        return {"process": child.name, "killed": child.pid}

    def op_stop(self, request: dict[str, Any], connection: socket.socket, fds: list[int]) -> None:
        """End the cluster: pid 1 leaves and the kernel ends all others."""
        control.send(connection, {"stopping": True})
        api = self.supervisor.children.get("apiserver")
        if api is not None and api.pid:
            api.held = True
            os.kill(api.pid, signal.SIGTERM)  # lets it close its store; it is safe without, too
            self.supervisor.expect_exit(api.pid, lambda _: os._exit(0))
            self.supervisor.after(0.5, lambda: os._exit(0))
            return
        os._exit(0)


class DryLab(Lab):
    """A cluster on a fake kernel: API, controllers and agents, and nothing that a packet could cross."""

    def _build_underlay(self) -> None:
        return

    def _power_on_all(self) -> None:
        return

    def _start_agent(self, name: str) -> None:
        self.supervisor.start(
            f"{name}-agent", lambda ready: plane.run_dry_agent(name, self.config, self.cluster, self.identities, ready)
        )

    def _machine(self, name: str) -> Machine:
        raise PodwireError(f"{name} exists on a fake kernel only (--dry-kernel): it has no namespaces and no network")

    def op_node_stop(self, request: dict[str, Any], connection: socket.socket, fds: list[int]) -> dict[str, Any]:
        """End a node's agent."""
        self.supervisor.hold(f"{request['node']}-agent")
        self.off.add(request["node"])
        return {"node": request["node"], "power": "off"}

    def op_node_start(self, request: dict[str, Any], connection: socket.socket, fds: list[int]) -> dict[str, Any]:
        """Run a node's agent again."""
        self.supervisor.release(f"{request['node']}-agent")
        self.off.discard(request["node"])
        return {"node": request["node"], "power": "on"}


def _hang_up(connection: socket.socket, pid: int) -> None:
    """The command that asked for an exec has gone: end what it ran."""
    try:
        if connection.recv(1):
            return
    except OSError:
        pass
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _execute(request: dict[str, Any], stdio: tuple[int, ...]) -> None:
    """Become the requested command. Runs inside the node."""
    import fcntl
    import termios

    os.setsid()
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    for fd in stdio:
        os.close(fd)
    if request.get("tty"):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir("/root" if os.path.isdir("/root") and os.access("/root", os.X_OK) else "/")
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    environment |= {k: v for k, v in request.get("env", {}).items() if k in ("TERM", "LANG", "LC_ALL")}
    argv = request["argv"]
    try:
        os.execvpe(argv[0], argv, environment)
    except OSError as error:
        os.write(2, f"podwire: {argv[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
