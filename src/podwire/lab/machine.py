"""One node as a machine: its namespaces, its pid 1, and how it is powered on and off.

    init ── fork ── keeper ── unshare net mount uts ipc pid, fork ── pid 1 of the node: builds the view, then is
                    waits                                            the container runtime's shim
    init ── fork ── keeper ── setns into all of them, fork ── the node's agent (and `podwire node NODE -- CMD`)

The node's pid namespace ends with its pid 1, and everything on the node with it: power off is one kill.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from podwire.kernel import libc
from podwire.kernel.link.port import LinkPort
from podwire.lab import underlay, view
from podwire.lab.config import LabConfig
from podwire.lab.underlay import NodeAddresses
from podwire.model.errors import MachineError

KINDS = {"net": libc.CLONE_NEWNET, "uts": libc.CLONE_NEWUTS, "ipc": libc.CLONE_NEWIPC,
         "pid": libc.CLONE_NEWPID, "mnt": libc.CLONE_NEWNS}  # fmt: skip
ISOLATED = libc.CLONE_NEWNET | libc.CLONE_NEWUTS | libc.CLONE_NEWIPC | libc.CLONE_NEWPID | libc.CLONE_NEWNS


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a node is made of."""

    index: int
    name: str
    state_dir: Path
    addresses: NodeAddresses
    mtu_bytes: int


def spec_of(config: LabConfig, index: int, state_dir: Path) -> MachineSpec:
    """Return the machine of node number ``index``."""
    name = config.node_names[index]
    addresses = underlay.node_addresses(config, index)
    return MachineSpec(index, name, state_dir, addresses, config.underlay_mtu_bytes)


def power_on(spec: MachineSpec, line: socket.socket, pid1: Callable[[], None], keeper: int = -1) -> NoReturn:
    """Be a node's keeper: make its namespaces, run ``pid1`` as its first process, and end when that ends.

    Runs in a process forked by init. Tells init the pid over ``line``; pid 1 waits there for its eth0 to be
    plugged in before it goes on. ``keeper``: a descriptor of the keeper's executable, -1 when there is none.
    """
    libc.prctl(libc.PR_SET_PDEATHSIG, 9)
    libc.unshare(ISOLATED)
    pid = os.fork()
    if pid == 0:
        libc.prctl(libc.PR_SET_PDEATHSIG, 9)
        libc.sethostname(spec.name)
        _quicken_ipv6()
        view.build(spec.name, spec.state_dir)
        line.sendall(b"built\n")
        if line.recv(16) != b"plugged\n":
            os._exit(1)
        _configure(spec)
        line.sendall(b"up\n")
        line.close()
        pid1()
        os._exit(0)
    line.sendall(f"pid {pid}\n".encode())
    line.close()
    _keep(keeper)


def _keep(executable: int) -> NoReturn:
    """Wait for this process's only child and end as it ended; as a page of C where that could be compiled."""
    if executable >= 0:
        try:
            os.execve(executable, ["podwire-keeper"], {})
        except OSError:  # a libc that cannot run it here: wait in Python
            pass
    _, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    os._exit(128 - code if code < 0 else code)


def _quicken_ipv6() -> None:
    """Skip duplicate address detection: nobody else hands out addresses here, and it holds traffic back for 1 s."""
    from podwire.kernel.sysctl.real import RealSysctl

    sysctl = RealSysctl()
    for which in ("all", "default"):
        sysctl.set(f"net/ipv6/conf/{which}/dad_transmits", "0")


def _configure(spec: MachineSpec) -> None:
    """Set eth0 up with its addresses and default routes. Runs inside the node."""
    from ipaddress import ip_network

    from podwire.kernel.link.real import RealLinks
    from podwire.kernel.route.real import RealRoutes
    from podwire.kernel.route.values import Route

    links, routes = RealLinks(), RealRoutes()
    by_name = {link.name: link for link in links.links()}
    eth0 = by_name["eth0"]
    for interface in spec.addresses.interfaces:
        links.add_address(eth0.index, interface)
    links.set_up(by_name["lo"].index)
    links.set_up(eth0.index)
    for via in spec.addresses.gateways:
        anywhere = ip_network("0.0.0.0/0" if via.version == 4 else "::/0")
        routes.replace(Route(anywhere, link=eth0.index, via=via))
    links.close()
    routes.close()


class Machine:
    """A node that is powered on, as init holds it: descriptors of its namespaces."""

    def __init__(self, spec: MachineSpec, line: socket.socket) -> None:
        """Take the node over from its keeper, who has forked pid 1; ``line`` is init's end."""
        self.spec = spec
        self.is_cut = False
        self._reader = line.makefile("rb")
        self._line = line
        self._said: dict[str, str] = {}
        self.pid1 = int(self._expect("pid"))
        self.namespaces: dict[str, int] = {}

    def _expect(self, word: str) -> str:
        """Return what the node says after ``word``; keeper and pid 1 speak on one line, in any order."""
        while word not in self._said:
            line = self._reader.readline().decode().split()
            if not line:
                raise MachineError("lab", "boot", self.spec.name, "it died on the way", "see `podwire logs`")
            self._said[line[0]] = line[1] if len(line) > 1 else ""
        return self._said[word]

    def plug(self, links: LinkPort, bridge: int) -> None:
        """Wait for the node's view, give it its eth0, and wait until it is configured."""
        self._expect("built")
        self.namespaces = {k: os.open(f"/proc/{self.pid1}/ns/{k}", os.O_RDONLY | os.O_CLOEXEC) for k in KINDS}
        underlay.plug(links, bridge, self.spec.index, self.namespaces["net"], self.spec.mtu_bytes)
        self._line.sendall(b"plugged\n")
        self._expect("up")
        self._reader.close()
        self._line.close()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a process needs to inherit to be able to ``enter``."""
        return tuple(self.namespaces.values())

    def close(self) -> None:
        """Let go of the namespaces: they end once nobody is in them."""
        for fd in self.namespaces.values():
            os.close(fd)
        self.namespaces = {}


def enter(machine: Machine, body: Callable[[], None], *, keeper: int = -1) -> NoReturn:
    """Run ``body`` inside the node and leave with its exit status. Runs in a process forked by init."""
    libc.prctl(libc.PR_SET_PDEATHSIG, 9)
    for kind, fd in machine.namespaces.items():  # mount last: /proc and paths stay init's until then
        libc.setns(fd, KINDS[kind])
    machine.close()
    pid = os.fork()  # a pid namespace is entered by children only
    if pid == 0:
        libc.prctl(libc.PR_SET_PDEATHSIG, 9)
        body()
        os._exit(0)
    _keep(keeper)
