"""What the runtime is asked for and what it answers; modelled on the CRI, cut to what exists here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """A pod's sandbox: network, UTS and IPC namespaces (the pause container's job).

    ``host_network``: the node's own network namespace is used and no new one is made.
    The three text files are the pod's /etc/hostname, /etc/hosts and /etc/resolv.conf.
    """

    id: str  # unique: pod UID + attempt
    pod_uid: str
    namespace: str
    name: str
    hostname: str
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    share_process_namespace: bool = False
    sysctls: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that exists. ``netns`` is its path in the node's mount namespace (what CNI calls CNI_NETNS).

    Not ``ready``: stopped; its namespaces are gone.
    """

    spec: SandboxSpec
    netns: Path
    created_at: float  # seconds since the epoch
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Mount:
    """A path of the node's mount namespace seen inside the container."""

    source: Path
    target: str
    read_only: bool = False
    propagation: Literal["private", "host-to-container", "bidirectional"] = "private"


@dataclass(frozen=True, slots=True)
class PortSpec:
    """A declared container port: what a built-in server image listens on."""

    number: int
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    name: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One attempt of one container. Kubernetes words: ``command`` replaces the image's entrypoint."""

    id: str  # unique per attempt
    sandbox_id: str
    name: str
    attempt: int
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    mounts: tuple[Mount, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    log_path: Path = Path("/dev/null")
    log_max_bytes: int = 10 << 20
    log_max_files: int = 5
    user: int | None = None
    group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    read_only_root: bool = False
    privileged: bool = False
    no_new_privileges: bool = False  # allowPrivilegeEscalation: false
    capabilities_add: tuple[str, ...] = ()
    capabilities_drop: tuple[str, ...] = ()
    hosts_file: Path | None = None  # mounted at /etc/hosts
    resolv_file: Path | None = None  # mounted at /etc/resolv.conf
    termination_log: Path | None = None  # mounted at /dev/termination-log
    server_facts: tuple[tuple[str, str], ...] = ()  # pod, namespace, node, ip: what the built-in server tells


State = Literal["created", "running", "exited"]


@dataclass(frozen=True, slots=True)
class Container:
    """A container that exists. Times are seconds since the epoch; 0.0 means not yet."""

    spec: ContainerSpec
    state: State
    pid: int = 0  # as seen from the node's pid namespace
    exit_code: int = 0  # 128 + signal when killed by one
    signal: int = 0
    reason: str = ""  # "Completed", "Error", "OOMKilled", "ContainerCannotRun", "StartError"
    message: str = ""
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Image:
    """What an image name resolves to in the catalogue.

    ``entrypoint`` and ``default_args`` are ENTRYPOINT and CMD in an image's own words.
    """

    name: str
    kind: Literal["tools", "server", "directory", "binary", "unknown"]
    id: str  # shown as imageID
    entrypoint: tuple[str, ...] = ()
    default_args: tuple[str, ...] = ()  # the image's CMD: follows the entrypoint when there is no command and no args
    builtin: str = ""  # the built-in program that is the entrypoint; "" when a file is executed
    default_ports: tuple[PortSpec, ...] = ()  # what the built-in server listens on when no port is declared
    path: Path | None = None  # the directory or the binary on the host
    note: str = ""  # shown to the user in an event: what stands in for what


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """A container changed state (exited, or its attached sandbox vanished)."""

    container: Container


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """Resource use of a container: cumulative CPU nanoseconds, resident bytes, number of processes."""

    id: str
    cpu_ns: int
    memory_bytes: int
    processes: int
