"""What a container uses, read from /proc without cgroups (which rootless podwire does not have)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from podwire.node.runtime.values import ContainerUsage

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def measure(id: str, roots: Iterable[int], cpu_ns_before: int) -> ContainerUsage:
    """Return the use of the processes ``roots`` and of all their descendants.

    Processor time counts ended children whose parents waited for them. Memory is the proportional set size:
    built-in programs share most of theirs with the shim, so resident size would count it many times.
    """
    cpu_ns, memory_bytes, processes = cpu_ns_before, 0, 0
    todo = list(roots)
    while todo:
        pid = todo.pop()
        try:
            cpu_ns += _read_cpu_ns(pid)
            memory_bytes += _read_memory_bytes(pid)
            todo += _children(pid)
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
        processes += 1
    return ContainerUsage(id, cpu_ns, memory_bytes, processes)


def _read_cpu_ns(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return sum(int(n) for n in fields[11:15]) * _TICK_NS  # utime, stime, cutime, cstime


def _read_memory_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except PermissionError:
        pass
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(p) for p in file.read().split()]
        except OSError:
            continue
    return found
