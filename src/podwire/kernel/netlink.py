"""One netlink socket: requests, batches and dumps, with the kernel's own words in errors.

A socket stays in the network namespace in which it was opened. Used by every room of ``kernel`` that
speaks netlink (rtnetlink, nfnetlink).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from podwire.model.errors import AlreadyInUse, MachineError, NotPermitted, Unsupported
from podwire.wire.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    NLMSG_OVERRUN,
    Message,
    NetlinkError,
    decode_error,
    decode_messages,
    encode_message,
)

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_EXT_ACK = 11
_NETLINK_CAP_ACK = 10
_NETLINK_GET_STRICT_CHK = 12
_SO_RCVBUFFORCE = 33

_BUFFER_BYTES = 1 << 16  # the kernel builds dump packets of at most 32 KiB
_BATCH = 48  # acknowledgements of one batch must fit the receive buffer
_BATCH_BYTES = 32 << 10  # and its requests the send buffer, which a user namespace cannot enlarge
_DUMP_TRIES = 20
_PATIENCE_S = 10


class Request(NamedTuple):
    """One request; NLM_F_REQUEST and NLM_F_ACK are added when it is sent."""

    type: int
    flags: int
    body: bytes


class Reply(NamedTuple):
    """What the kernel answered: an error (None: done) and messages (for GET requests)."""

    error: NetlinkError | None
    messages: tuple[Message, ...]


class NetlinkSocket:
    """A blocking netlink socket, bound to the namespace that the thread is in when it is made."""

    def __init__(self, protocol: int = NETLINK_ROUTE, *, strict: bool = True) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        # No agent may hang on a reply that never comes.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _PATIENCE_S, 0))
        for option, wanted in (
            (_NETLINK_EXT_ACK, True),  # errors in words
            (_NETLINK_CAP_ACK, True),  # and without a copy of the request
            (_NETLINK_GET_STRICT_CHK, strict),  # dumps filtered by the kernel (Linux 4.20)
        ):
            if wanted:
                try:
                    self._socket.setsockopt(_SOL_NETLINK, option, 1)
                except OSError:
                    continue  # an old kernel: errors are terser, dumps are filtered by us as well
        self._sequence = 0

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def subscribe(self, groups: Sequence[int]) -> None:
        """Join multicast groups, make the socket non-blocking and its buffer large where that is allowed."""
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.setblocking(False)

    def receive(self) -> list[Message]:
        """Return the messages of one datagram. Raises BlockingIOError, and OSError ENOBUFS after a loss."""
        return list(decode_messages(self._socket.recv(_BUFFER_BYTES)))

    def transact(self, requests: Sequence[Request]) -> list[Reply]:
        """Send the requests in as few system calls as fit and return their replies, in order.

        The kernel carries each out whether or not the one before it failed.
        Raises OSError for trouble with the socket itself.
        """
        replies: list[Reply] = []
        batch: list[Request] = []
        size = 0
        for request in requests:
            if batch and (len(batch) == _BATCH or size + len(request.body) > _BATCH_BYTES):
                replies += self._transact(batch)
                batch, size = [], 0
            batch.append(request)
            size += len(request.body) + 16
        if batch:
            replies += self._transact(batch)
        return replies

    def _transact(self, batch: Sequence[Request]) -> list[Reply]:
        first = self._sequence + 1
        self._sequence += len(batch)
        self._socket.send(
            b"".join(
                encode_message(r.type, r.flags | NLM_F_REQUEST | NLM_F_ACK, first + i, r.body)
                for i, r in enumerate(batch)
            )
        )
        found: list[list[Message]] = [[] for _ in batch]
        ends: list[NetlinkError | None] = [None] * len(batch)
        open_replies = set(range(len(batch)))
        while open_replies:
            for message in self._receive():
                i = message.sequence - first
                if i not in open_replies:
                    continue  # the rest of an exchange that was given up
                if message.type == NLMSG_ERROR:
                    ends[i] = decode_error(message)
                    open_replies.discard(i)
                else:
                    found[i].append(message)
        return [Reply(e if e is not None and e.errno else None, tuple(m)) for e, m in zip(ends, found, strict=True)]

    def dump(self, type: int, body: bytes) -> list[Message]:
        """Return every object of one kind, as one consistent view.

        A dump that the kernel marks as interrupted by a change is made again (NLM_F_DUMP_INTR).
        Raises OSError with the kernel's errno.
        """
        for _ in range(_DUMP_TRIES):
            messages, interrupted = self._dump(type, body)
            if not interrupted:
                return messages
        raise OSError(errno.EINTR, "the objects changed during each of 20 readings")

    def _dump(self, type: int, body: bytes) -> tuple[list[Message], bool]:
        self._sequence += 1
        self._socket.send(encode_message(type, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, body))
        messages: list[Message] = []
        interrupted = False
        while True:
            for message in self._receive():
                if message.sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(message.flags & NLM_F_DUMP_INTR)
                if message.type in (NLMSG_DONE, NLMSG_ERROR):
                    end = decode_error(message)
                    if end.errno:
                        raise OSError(end.errno, end.text or os.strerror(end.errno))
                    return messages, interrupted
                messages.append(message)

    def _receive(self) -> list[Message]:
        try:
            return [m for m in self.receive() if m.type not in (NLMSG_NOOP, NLMSG_OVERRUN)]
        except BlockingIOError:
            raise OSError(errno.ETIMEDOUT, f"the kernel did not answer in {_PATIENCE_S} s") from None


def machine_error(room: str, act: str, object: str, number: int, said: str = "") -> MachineError:
    """Return the exception for an errno and the kernel's extended acknowledgement."""
    cause = f"{os.strerror(number)} ({said})" if said else os.strerror(number)
    if number in (errno.EPERM, errno.EACCES) and not said:
        hint = "needs CAP_NET_ADMIN over the network namespace: run as root or in a user namespace"
        return NotPermitted(room, act, object, cause, hint)
    if number == errno.EPERM:
        return NotPermitted(room, act, object, cause)
    if number == errno.EEXIST:
        return AlreadyInUse(room, act, object, cause)
    if number in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
        return Unsupported(room, act, object, cause, "this kernel lacks it; see `podwire doctor`")
    return MachineError(room, act, object, cause)
