"""iptables of this machine, through `iptables-restore` and `iptables-save`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from podwire.kernel import libc
from podwire.model.errors import MachineError, NotPermitted, Unsupported

_ROOM = "kernel/iptables"
_LOCK_WAIT_S = "5"
_PROGRAMS = {4: "iptables", 6: "ip6tables"}


class RealIptables:
    """``IptablesPort`` of the network namespace in which it is made."""

    def __init__(self) -> None:
        self._netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def restore(self, version: int, script: str) -> None:
        """Apply a script without flushing what it does not name. Raises MachineError with the program's words."""
        done = self._run(f"{_PROGRAMS[version]}-restore", "--noflush", "-w", _LOCK_WAIT_S, input=script)
        if done.returncode != 0:
            raise _error("restore", _PROGRAMS[version], done.stderr, script)

    def save(self, version: int) -> str:
        """Return every table; "" when there is none."""
        done = self._run(f"{_PROGRAMS[version]}-save")
        if done.returncode != 0:
            raise _error("save", _PROGRAMS[version], done.stderr, "")
        return done.stdout

    def close(self) -> None:
        """Forget the namespace."""
        if self._netns >= 0:
            os.close(self._netns)
            self._netns = -1

    def _run(self, program: str, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")
        if path is None:
            hint = "install the package iptables, or use the proxy mode nftables"
            raise Unsupported(_ROOM, "find", program, "not installed", hint)
        return subprocess.run([path, *arguments], input=input, capture_output=True, text=True, preexec_fn=self._entry())

    def _entry(self) -> Callable[[], None] | None:
        """Return what the child must do to be in our namespace; None when it is there by birth."""
        here, ours = os.stat("/proc/self/ns/net"), os.fstat(self._netns)
        if (here.st_ino, here.st_dev) == (ours.st_ino, ours.st_dev):
            return None
        return lambda: libc.setns(self._netns, libc.CLONE_NEWNET)


def _error(act: str, program: str, stderr: str, script: str) -> MachineError:
    words = stderr.strip() or f"{program} failed without a word"
    kind = NotPermitted if "Permission denied" in words or "Operation not permitted" in words else MachineError
    lines = script.splitlines()
    number = next((w.rstrip(".") for w in words.split() if w.rstrip(".").isdigit()), "")
    at = lines[int(number) - 1] if "line" in words and number and 0 < int(number) <= len(lines) else ""
    return kind(_ROOM, act, f"{program} rules" + (f" ({at})" if at else ""), words.splitlines()[0])
