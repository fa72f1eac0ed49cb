"""Life in a user namespace of one id, where an ordinary user without /etc/subuid finds himself.

No second user or group exists there, so the kernel refuses setgroups(2), setuid(2) and chown(2) to any other
id, and programs that give up root (tcpdump), or unpack archives, stop. A seccomp filter lets these calls
succeed without effect: everything belongs to the one user anyway. Not used where more ids are mapped.
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache

from podwire.kernel import libc

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_RET_ALLOW, _RET_ERRNO_0 = 0x7FFF_0000, 0x0005_0000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_ARCHITECTURE_AT, _NUMBER_AT = 4, 0  # struct seccomp_data

# AUDIT_ARCH_*, and the numbers of: setuid setgid setreuid setregid setgroups setresuid setresgid setfsuid
# setfsgid chown fchown lchown fchownat (AArch64 has no chown and lchown)
_CALLS = {
    "x86_64": (0xC000_003E, (105, 106, 113, 114, 116, 117, 119, 122, 123, 92, 93, 94, 260)),
    "aarch64": (0xC000_00B7, (146, 144, 145, 143, 159, 147, 149, 151, 152, 55, 54)),
}


@cache
def has_single_id() -> bool:
    """Return whether exactly one user exists in this user namespace."""
    with open("/proc/self/uid_map") as file:
        lines = file.read().splitlines()
    return len(lines) == 1 and lines[0].split()[2] == "1"


def pretend_other_ids() -> None:
    """Install the filter for this process and its descendants. Does nothing on other processors."""
    program = encode_filter(os.uname().machine)
    if not program:
        return
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(header, len(header))
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(pointer))


@cache
def encode_filter(machine: str) -> bytes:
    """Return the BPF program: calls of another architecture and all other calls pass; b"": none for it."""
    if machine not in _CALLS:
        return b""
    architecture, numbers = _CALLS[machine]
    count = len(numbers)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 0, count + 1, architecture),
        (_LOAD, 0, 0, _NUMBER_AT),
        *((_JUMP_EQUAL, count - place, 0, number) for place, number in enumerate(numbers)),
        (_RETURN, 0, 0, _RET_ALLOW),
        (_RETURN, 0, 0, _RET_ERRNO_0),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
