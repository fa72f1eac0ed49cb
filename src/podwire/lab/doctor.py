"""What this machine can do: every probe that podwire rests on, with a remedy for each that fails.

``fail``: `podwire up` cannot work. ``warn``: one named thing will not. ``ok``: it was tried and it worked.
Probes run in a throw-away process inside namespaces of its own; the host is only read.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from podwire.kernel import libc
from podwire.lab import namespaces
from podwire.model.errors import MachineError

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One probe's result."""

    verdict: Verdict
    what: str
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the finding as a JSON object."""
        return asdict(self)


_PROGRAMS = (
    ("nft", "fail", "sudo apt install nftables"),
    ("ip", "warn", "sudo apt install iproute2 (pods and nodes use it to show their network)"),
    ("kubectl", "warn", "sudo apt install kubernetes-client, or any kubectl from 1.27 on"),
    ("cc", "warn", "sudo apt install gcc libc6-dev (the CNI executable is then C in place of Python)"),
    ("dig", "warn", "sudo apt install dnsutils (for pods that ask the DNS)"),
    ("ping", "warn", "sudo apt install iputils-ping"),
    ("curl", "warn", "sudo apt install curl"),
    ("tcpdump", "warn", "sudo apt install tcpdump"),
)


def examine() -> list[Finding]:
    """Return all findings, the fundamental ones first."""
    findings = [
        Finding("ok", "kernel", f"{platform.system()} {platform.release()} {platform.machine()}"),
        _python(),
        Finding("ok", "user", "root" if os.geteuid() == 0 else f"uid {os.getuid()} (rootless)"),
    ]
    refused = namespaces.probe()
    if refused is not None:
        findings.append(Finding("fail", "namespaces", str(refused.cause), refused.hint))
    else:
        findings.append(Finding("ok", "namespaces", "user, mount, net, ipc, uts and pid can be entered"))
        findings += _inside()
    if os.geteuid() != 0:
        findings.append(_ids())
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for program, verdict, remedy in _PROGRAMS:
        found = shutil.which(program, path=path)
        findings.append(
            Finding("ok", program, found) if found else Finding(verdict, program, "not found", remedy)  # type: ignore[arg-type]
        )
    return findings


def _python() -> Finding:
    return Finding("ok", "python", f"{platform.python_version()} at {sys.executable}")


def _ids() -> Finding:
    if namespaces.subordinate_ids() and shutil.which("newuidmap"):
        return Finding("ok", "user ids", "a subordinate range is mapped: containers may run as any user")
    return Finding(
        "warn", "user ids", "one id is mapped: containers run as root of the namespace, runAsUser is refused",
        "sudo apt install uidmap, and a line for you in /etc/subuid and /etc/subgid",
    )  # fmt: skip


def _inside() -> list[Finding]:
    """Run the probes that need namespaces, in them, and return what they say."""
    read, write = os.pipe()

    def main() -> None:
        os.close(read)
        results = [asdict(_attempt(*probe)) for probe in _PROBES]
        with os.fdopen(write, "w") as out:
            json.dump(results, out)
        os._exit(0)

    namespaces.launch(main)  # type: ignore[arg-type]
    os.close(write)
    with os.fdopen(read) as source:
        text = source.read()
    if not text:
        return [Finding("fail", "probes", "died", "run as `PODWIRE_LOG=debug podwire doctor` and report it")]
    return [Finding(**raw) for raw in json.loads(text)]


def _attempt(what: str, act: Callable[[], str], verdict: Verdict, remedy: str) -> Finding:
    try:
        return Finding("ok", what, act())
    except MachineError as error:
        return Finding(verdict, what, str(error.cause).splitlines()[0], remedy)
    except Exception as error:
        return Finding(verdict, what, str(error) or type(error).__name__, remedy)


def _overlay() -> str:
    libc.mount("probe", "/run", "tmpfs")
    for name in ("upper", "work", "merged"):
        os.mkdir(f"/run/{name}")
    options = "lowerdir=/etc,upperdir=/run/upper,workdir=/run/work"
    try:
        libc.mount("overlay", "/run/merged", "overlay", 0, options + ",userxattr")
    except OSError:
        libc.mount("overlay", "/run/merged", "overlay", 0, options)
    return "works over tmpfs"


def _links() -> str:
    from podwire.kernel.link.real import RealLinks
    from podwire.kernel.link.values import Bridge, Veth

    links = RealLinks()
    links.create(Bridge("probe0"))
    links.create(Veth("probe1", "probe2"))
    return "bridge and veth can be made"


def _vxlan() -> str:
    from ipaddress import ip_address, ip_interface

    from podwire.kernel.link.real import RealLinks
    from podwire.kernel.link.values import Bridge, Vxlan

    links = RealLinks()
    base = links.create(Bridge("probe3"))
    links.add_address(base.index, ip_interface("192.0.2.1/24"))
    links.set_up(base.index)
    links.create(Vxlan("probe4", 1, 8472, ip_address("192.0.2.1"), base.index))
    return "VNI 1, UDP 8472"


def _nft() -> str:
    from podwire.kernel.nft.real import RealNft

    nft = RealNft()
    nft.apply(
        "table ip probe { map m { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }\n"
        "chain c { type nat hook prerouting priority dstnat; "
        "dnat ip to ip daddr . meta l4proto . th dport map @m\n}\n}\n"
    )
    return "dnat through concatenated maps"


def _bridge_filter() -> str:
    from podwire.kernel.sysctl.real import RealSysctl

    if not RealSysctl().set("net/bridge/bridge-nf-call-iptables", "1"):
        raise OSError("bridged packets do not pass netfilter: no br_netfilter")
    return "bridged packets pass netfilter"


def _ipvs() -> str:
    if os.path.exists("/proc/net/ip_vs"):
        return "present"
    raise OSError("this kernel has no ip_vs")


def _bpf() -> str:
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split()[2] == "1":
        raise OSError("needs real root")
    return "real root: programs can be loaded"


_PROBES: tuple[tuple[str, Callable[[], str], Verdict, str], ...] = (
    ("overlayfs", _overlay, "warn", "Linux 5.11 or later mounts it in user namespaces; pods then see a read-only root"),
    ("links", _links, "fail", "load the modules on the host: sudo modprobe bridge veth"),
    ("vxlan", _vxlan, "warn", "sudo modprobe vxlan on the host, or `podwire up --backend host-gw`"),
    ("nftables", _nft, "fail", "sudo modprobe nf_tables nft_chain_nat, and sudo apt install nftables"),
    (
        "br_netfilter",
        _bridge_filter,
        "warn",
        "sudo modprobe br_netfilter on the host, or pods of one node are under no policy and their Services fail",
    ),
    ("ipvs", _ipvs, "warn", "the Service modes nftables and iptables do not need it"),
    ("ebpf", _bpf, "warn", "only real root may load eBPF; nothing that podwire does today depends on it"),
)
