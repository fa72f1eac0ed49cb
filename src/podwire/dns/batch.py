"""Many datagrams a system call: recvmmsg(2) and sendmmsg(2), over memory that is laid out once.

Every slot has a header, an address and a buffer. An answer is written over its query, so that the header which
received it sends it back: no address is ever decoded, no memory allocated.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import socket
import struct
import sys
from collections.abc import Iterable

SLOTS = 64
SLOT_BYTES = 4096
_NAME_BYTES = 28  # sockaddr_in6
_MSG_DONTWAIT = 0x40
_HEADER = struct.Struct("@PIxxxxPNPNixxxxIxxxx")  # struct mmsghdr of 64-bit Linux: msghdr, msg_len
_VECTOR = struct.Struct("@PN")

supported = sys.platform == "linux" and _HEADER.size == 64 and _VECTOR.size == 16
_libc = ctypes.CDLL(None, use_errno=True)


class Batch:
    """Receives up to SLOTS datagrams at once from a socket and sends their answers back."""

    def __init__(self) -> None:
        self._names = bytearray(SLOTS * _NAME_BYTES)
        self._buffer = bytearray(SLOTS * SLOT_BYTES)
        self._vectors = bytearray(SLOTS * _VECTOR.size)
        self._headers = bytearray(SLOTS * _HEADER.size)
        names, buffer, vectors, headers = (
            ctypes.addressof((ctypes.c_char * len(b)).from_buffer(b))
            for b in (self._names, self._buffer, self._vectors, self._headers)
        )
        for i in range(SLOTS):
            _VECTOR.pack_into(self._vectors, i * _VECTOR.size, buffer + i * SLOT_BYTES, SLOT_BYTES)
            _HEADER.pack_into(
                self._headers, i * _HEADER.size,
                names + i * _NAME_BYTES, _NAME_BYTES, vectors + i * _VECTOR.size, 1, 0, 0, 0, 0,
            )  # fmt: skip
        self._fresh_vectors, self._fresh_headers = bytes(self._vectors), bytes(self._headers)
        self._at = headers
        self.slots = memoryview(self._buffer)
        self.lengths = memoryview(self._headers).cast("I")[14::16]  # msg_len of each slot
        self._sizes = memoryview(self._vectors).cast("Q")[1::2]  # iov_len of each slot

    def receive(self, fd: int) -> int:
        """Take what is there; return how many datagrams, 0 for none. Raises OSError."""
        self._vectors[:] = self._fresh_vectors
        self._headers[:] = self._fresh_headers
        count: int = _libc.recvmmsg(fd, ctypes.c_void_p(self._at), SLOTS, _MSG_DONTWAIT, None)
        if count >= 0:
            return count
        number = ctypes.get_errno()
        if number in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(number, os.strerror(number))

    def answer(self, slot: int, tail: bytes) -> None:
        """Put an answer into a slot, all but the id, which is the query's own and there already."""
        start = slot * SLOT_BYTES + 2
        size = len(tail)
        self._buffer[start : start + size] = tail
        self._sizes[slot] = size + 2

    def drop(self, slot: int) -> None:
        """Leave a slot unanswered."""
        self._sizes[slot] = 0

    def client(self, slot: int) -> bytes:
        """Return the sender as the kernel wrote it (sockaddr), valid after the slot is used again."""
        return bytes(self._names[slot * _NAME_BYTES : (slot + 1) * _NAME_BYTES])

    def send(self, fd: int, count: int) -> None:
        """Send the answers of the first ``count`` slots. What the kernel refuses is lost, as UDP may be."""
        for start, end in self._runs(count):
            while start < end:
                at = ctypes.c_void_p(self._at + start * _HEADER.size)
                sent = _libc.sendmmsg(fd, at, end - start, 0)
                start += max(sent, 1)  # the first one was refused (unreachable, filtered): go on behind it

    def _runs(self, count: int) -> Iterable[tuple[int, int]]:
        sizes = self._sizes[:count].tolist()
        if 0 not in sizes:
            return ((0, count),)
        gaps = [-1, *(i for i, size in enumerate(sizes) if not size), count]
        return [(a + 1, b) for a, b in itertools.pairwise(gaps) if b > a + 1]


def sockaddr_host(raw: bytes) -> tuple[str, int]:
    """Return address and port of a sockaddr; IPv4 in IPv6 is written as IPv4."""
    family = int.from_bytes(raw[:2], sys.byteorder)
    port = int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), port
    packed = raw[8:24]
    if packed[:12] == b"\0" * 10 + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, packed[12:]), port
    return socket.inet_ntop(socket.AF_INET6, packed), port
