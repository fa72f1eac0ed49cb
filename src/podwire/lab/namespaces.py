"""Leave the host: enter namespaces of our own and become pid 1 in them.

    command ── fork ── A: unshare user, mount, net, ipc, uts, pid ── fork ── B: pid 1, lab init
                       A writes B's pid and leaves

An ordinary user gets a user namespace in which he is root; root needs none. Where ``newuidmap`` and a range
in /etc/subuid are there, 65536 ids are mapped, so that containers can run as other users; else just one.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from podwire.kernel import libc
from podwire.model.errors import MachineError, NotPermitted

PRIVATE = libc.CLONE_NEWNS | libc.CLONE_NEWNET | libc.CLONE_NEWIPC | libc.CLONE_NEWUTS | libc.CLONE_NEWPID


def launch(main: Callable[[], NoReturn]) -> int:
    """Run ``main`` as pid 1 of new namespaces, detached from the terminal; return its pid on the host.

    ``main`` runs in a process whose standard streams are still the caller's.
    Raises NotPermitted when the kernel refuses, with the command that allows it.
    """
    report_r, report_w = os.pipe()
    mapped_r, mapped_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(report_r)
        os.close(mapped_w)
        _become_init(main, report_w, mapped_r)
    os.close(report_w)
    os.close(mapped_r)
    with os.fdopen(report_r, "r") as report:
        if os.geteuid() != 0 and report.readline().startswith("unshared"):
            _map_ids(pid)
        os.write(mapped_w, b"m")
        os.close(mapped_w)
        answer = report.readline().split()
    os.waitpid(pid, 0)
    match answer:
        case ["pid", number]:
            return int(number)
        case ["error", call, number]:
            raise explain(call, int(number))
    raise MachineError("lab", "enter", "namespaces", "the process died without a word", "see `podwire doctor`")


def _become_init(main: Callable[[], NoReturn], report: int, mapped: int) -> NoReturn:
    call = "setsid"
    try:
        os.setsid()
        if os.geteuid() != 0:
            call = "unshare(CLONE_NEWUSER)"
            libc.unshare(libc.CLONE_NEWUSER)
            os.write(report, b"unshared\n")
        os.read(mapped, 1)
        os.close(mapped)
        call = "unshare(CLONE_NEWNS|NEWNET|NEWIPC|NEWUTS|NEWPID)"
        libc.unshare(PRIVATE)
        pid = os.fork()
    except OSError as error:
        os.write(report, f"error {call.replace(' ', '')} {error.errno}\n".encode())
        os._exit(1)
    if pid:
        os.write(report, f"pid {pid}\n".encode())
        os._exit(0)
    os.close(report)
    try:
        libc.mount("none", "/", "", libc.MS_REC | libc.MS_PRIVATE)
        libc.mount("proc", "/proc", "proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
        main()
    finally:
        os._exit(1)


def _map_ids(pid: int) -> None:
    """Map the ids of the user namespace of ``pid``: a subordinate range where there is one, else one id."""
    uid, gid = os.getuid(), os.getgid()
    ranges = subordinate_ids()
    if ranges and shutil.which("newuidmap") and shutil.which("newgidmap"):
        uids, gids = ranges
        commands = (
            ["newuidmap", str(pid), "0", str(uid), "1", "1", str(uids[0]), str(min(uids[1], 65535))],
            ["newgidmap", str(pid), "0", str(gid), "1", "1", str(gids[0]), str(min(gids[1], 65535))],
        )
        if all(subprocess.run(c, capture_output=True, check=False).returncode == 0 for c in commands):
            return
    Path(f"/proc/{pid}/uid_map").write_text(f"0 {uid} 1\n")
    Path(f"/proc/{pid}/setgroups").write_text("deny")
    Path(f"/proc/{pid}/gid_map").write_text(f"0 {gid} 1\n")


def subordinate_ids() -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return (start, count) of this user's subordinate uids and gids (subuid(5)), or None."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None
    found = []
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            lines = [line.split(":") for line in Path(path).read_text().splitlines()]
        except OSError:
            return None
        mine = [(int(p[1]), int(p[2])) for p in lines if len(p) == 3 and p[0] in (name, str(os.getuid()))]
        if not mine:
            return None
        found.append(mine[0])
    return found[0], found[1]


def _knob(path: str) -> str:
    try:
        return Path("/proc/sys", path).read_text().strip()
    except OSError:
        return ""


def explain(call: str, number: int) -> MachineError:
    """Return the exception for a refused namespace, with the switch that is closed and how to open it."""
    cause = f"{call}: {os.strerror(number)}"
    if number in (errno.EPERM, errno.EACCES):
        return NotPermitted("lab", "enter", "namespaces", cause, _remedy())
    if number in (errno.ENOSPC, errno.EUSERS):
        return NotPermitted(
            "lab", "enter", "namespaces", cause,
            "the limit of user namespaces is reached; raise it: sudo sysctl user.max_user_namespaces=15000",
        )  # fmt: skip
    return MachineError("lab", "enter", "namespaces", cause, "see `podwire doctor`")


def _remedy() -> str:
    if _knob("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor restricts user namespaces here; allow them: "
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if _knob("kernel/unprivileged_userns_clone") == "0":
        return "user namespaces are closed here; open them: sudo sysctl kernel.unprivileged_userns_clone=1"
    if os.geteuid() == 0:
        return (
            "root without CAP_SYS_ADMIN: this looks like a container; start it with --privileged, "
            "or use --dry-kernel for a cluster without packets"
        )
    return (
        "a container's seccomp profile is the usual reason; start the container with "
        "--security-opt seccomp=unconfined, or use --dry-kernel for a cluster without packets"
    )


def probe() -> MachineError | None:
    """Return None when namespaces can be entered here, else what would be raised by ``launch``."""
    try:
        launch(lambda: os._exit(0))
    except MachineError as error:
        return error
    return None
