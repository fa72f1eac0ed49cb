"""nftables of this machine: scripts through `nft`, set elements through our own nfnetlink socket."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from podwire.kernel import libc
from podwire.kernel.nft.port import ChainChange, Change, Element, ElementChange, Rule, SetChange
from podwire.model.errors import AlreadyInUse, MachineError, NotPermitted, Unsupported
from podwire.wire import nffilter, nfrules
from podwire.wire import nfnetlink as wire

_ROOM = "kernel/nft"
_NETLINK_NETFILTER = 12
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_WANTED_BUFFER_BYTES = 16 << 20
# Linux refuses a netlink datagram longer than the send buffer less 32 bytes.
_SEND_RESERVE_BYTES = 1024
_HINTS = {
    errno.EPERM: "needs CAP_NET_ADMIN in the namespace that owns this network namespace",
    errno.ENOENT: "the table, set, chain or element is not there",
    errno.EEXIST: "an element with this key and another value is there; is another agent using the table?",
}


def find_nft() -> str | None:
    """Return the path of the nft executable, or None."""
    return shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")


class RealNft:
    """``NftPort`` of the network namespace in which it is made."""

    def __init__(self) -> None:
        nft = find_nft()
        if nft is None:
            raise Unsupported(_ROOM, "find", "nft", "not installed", "install the package nftables")
        self._nft = nft
        self._netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._socket = _open_socket()
        self._room_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _SEND_RESERVE_BYTES
        self._sequence = 0

    def apply(self, script: str) -> None:
        """Apply a script atomically (`nft -f -`). Raises MachineError with nft's words."""
        done = self._run("-f", "-", input=script)
        if done.returncode != 0:
            raise _script_error(done.stderr, script)

    def list_table(self, family: str, table: str) -> str | None:
        """Return `nft list table` as text; None when there is no such table."""
        done = self._run("list", "table", family, table)
        if done.returncode == 0:
            return done.stdout
        if "No such file or directory" in done.stderr:
            return None
        raise _error("list", f"table {family} {table}", done.stderr.strip())

    def change(self, changes: Sequence[Change]) -> None:
        """Apply changes; see the port. Raises MachineError naming the element, rule or set."""
        pending: list[_Sent] = []
        size = wire.BATCH_FRAME_BYTES
        for sent in self._messages(changes):
            if pending and size + len(sent.raw) > self._room_bytes:
                self._commit(pending)
                pending, size = [], wire.BATCH_FRAME_BYTES
            pending.append(sent)
            size += len(sent.raw)
        if pending:
            self._commit(pending)

    def append(self, rules: Sequence[Rule]) -> None:
        """Append encoded rules, in one transaction. Raises MachineError naming the chain."""
        pending = []
        for rule in rules:
            self._sequence += 1
            raw = nfrules.encode_rule(rule, self._sequence)
            name = f"{rule.family} {rule.table} {rule.chain}"
            pending.append(_Sent(self._sequence, raw, "add rule to", name, ()))
        if pending:
            self._commit(pending)

    def elements(self, family: str, table: str, set: str) -> tuple[Element, ...] | None:
        """Return the elements of a set or map, unordered; None when there is no such set.

        The kernel resumes a long dump by counting elements from the start, so one that overlaps the growth
        of the set's hash table repeats some elements and misses as many: repeats mean reading again.
        """
        for attempt in range(8):
            found = self._dump(family, table, set)
            if found is None:
                return None
            if len({(e.key, e.key_end) for e in found}) == len(found):
                return tuple(found)
            time.sleep(0.002 * attempt)
        raise _error("read", f"{family} {table} {set}", "the ruleset changes too fast to be read")

    def _dump(self, family: str, table: str, set: str) -> list[Element] | None:
        for _ in range(20):
            self._sequence += 1
            self._socket.send(wire.dump_elements(family, table, set, self._sequence))
            found: list[Element] = []
            whole = True
            for reply in self._replies(self._sequence):
                if reply.error == errno.ENOENT:
                    return None
                if reply.error:
                    raise _kernel_error("read", f"{family} {table} {set}", reply)
                whole = whole and not reply.interrupted
                if reply.kind == wire.NLMSG_DONE and whole:
                    return found
                found += wire.parse_elements(reply.payload)
        raise _error("read", f"{family} {table} {set}", "the ruleset changes too fast to be read")

    def generation(self) -> int:
        """Return the ruleset's generation: it moves with every transaction of anybody in this namespace."""
        self._sequence += 1
        self._socket.send(wire.query_generation(self._sequence))
        for reply in self._replies(self._sequence):
            if reply.error:
                raise _kernel_error("read", "generation", reply)
            if reply.kind == wire.NEWGEN:
                return wire.parse_generation(reply.payload)[0]
        raise _error("read", "generation", "no answer")

    def close(self) -> None:
        """Close the socket and forget the namespace."""
        self._socket.close()
        if self._netns >= 0:
            os.close(self._netns)
            self._netns = -1

    def _run(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._nft, *arguments], input=input, capture_output=True, text=True, preexec_fn=self._entry()
        )

    def _entry(self) -> Callable[[], None] | None:
        """Return what the child must do to be in our namespace; None when it is there by birth."""
        here, ours = os.stat("/proc/self/ns/net"), os.fstat(self._netns)
        if (here.st_ino, here.st_dev) == (ours.st_ino, ours.st_dev):
            return None
        return lambda: libc.setns(self._netns, libc.CLONE_NEWNET)

    def _messages(self, changes: Sequence[Change]) -> Iterator[_Sent]:
        for change in changes:
            if isinstance(change, ElementChange):
                yield from self._element_messages(change)
            elif isinstance(change, ChainChange):
                yield from self._chain_messages(change)
            else:
                yield self._set_message(change)

    def _element_messages(self, change: ElementChange) -> Iterator[_Sent]:
        name = f"{change.family} {change.table} {change.set}"
        for kind, encode, elements in (
            (wire.DELSETELEM, wire.encode_key, change.delete),
            (wire.NEWSETELEM, wire.encode_element, change.add),
        ):
            encoded = [encode(e) for e in elements]
            first = 0
            for raw, count in wire.element_messages(
                kind, change.family, change.table, change.set, encoded, self._sequence + 1
            ):
                self._sequence += 1
                act = "add element to" if kind == wire.NEWSETELEM else "delete element from"
                yield _Sent(self._sequence, raw, act, name, elements[first : first + count])
                first += count

    def _chain_messages(self, change: ChainChange) -> Iterator[_Sent]:
        family, table, chain = change.family, change.table, change.chain
        name = f"{family} {table} {chain}"

        def sent(act: str, raw: bytes) -> _Sent:
            return _Sent(self._sequence, raw, act, name, ())

        self._sequence += 1
        if change.rules is not None:
            yield sent("make chain", nffilter.new_chain(family, table, chain, self._sequence))
            self._sequence += 1
        yield sent("flush chain", nffilter.flush_chain(family, table, chain, self._sequence))
        if change.rules is None:
            self._sequence += 1
            yield sent("delete chain", nffilter.delete_chain(family, table, chain, self._sequence))
        for rule in change.rules or ():
            self._sequence += 1
            yield sent(
                f"add rule ({rule.comment or rule.verdict}) to",
                nffilter.new_rule(family, table, chain, rule, self._sequence),
            )

    def _set_message(self, change: SetChange) -> _Sent:
        self._sequence += 1
        where = (change.family, change.table, change.set)
        name = " ".join(where)
        if change.kind is None:
            return _Sent(self._sequence, nffilter.delete_set(*where, self._sequence), "delete set", name, ())
        return _Sent(self._sequence, nffilter.new_set(*where, change.kind, self._sequence), "make set", name, ())

    def _commit(self, pending: Sequence[_Sent]) -> None:
        self._sequence += 1
        frame = self._sequence
        pending[-1].raw = wire.ask_acknowledgement(pending[-1].raw)
        data = wire.batch((s.raw for s in pending), frame)
        try:
            self._socket.send(data)
        except OSError as error:
            raise _error("change", pending[0].name, os.strerror(error.errno or 0), error.errno or 0) from error
        by_sequence = {s.sequence: s for s in pending}
        acknowledged = 0
        failure: MachineError | None = None
        for reply in self._drain():
            sent = by_sequence.get(reply.sequence)
            if reply.error and failure is None and (sent is not None or reply.sequence == frame):
                failure = _change_error(sent, reply, pending[0].name)
            acknowledged += sent is not None
        if failure is not None:
            raise failure
        if not acknowledged:
            raise _error("change", pending[0].name, "the kernel did not answer")

    def _drain(self) -> Iterator[wire.Reply]:
        """Yield what the kernel queued; a batch is worked off before send() returns."""
        while True:
            try:
                raw = self._socket.recv(1 << 20)
            except BlockingIOError:
                return
            except OSError as error:
                raise _error("change", "elements", f"answers were lost: {error}", error.errno or 0) from error
            yield from wire.parse_replies(raw)

    def _replies(self, sequence: int) -> Iterator[wire.Reply]:
        """Yield the answers to one request, up to the last."""
        while True:
            for reply in wire.parse_replies(self._socket.recv(1 << 20)):
                if reply.sequence == sequence:
                    yield reply
                    if reply.kind in (wire.NLMSG_DONE, wire.NLMSG_ERROR, wire.NEWGEN):
                        return


class _Sent:
    """A message on its way, with what is needed to name a refused element."""

    __slots__ = ("act", "elements", "name", "raw", "sequence")

    def __init__(self, sequence: int, raw: bytes, act: str, name: str, elements: Sequence[Element]) -> None:
        self.sequence, self.raw, self.act, self.name, self.elements = sequence, raw, act, name, elements


def _open_socket() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    sock.bind((0, 0))
    for forced, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, _WANTED_BUFFER_BYTES)
        except OSError:  # in a user namespace: as much as net.core.[rw]mem_max gives
            sock.setsockopt(socket.SOL_SOCKET, plain, _WANTED_BUFFER_BYTES)
    sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
    # The kernel works a request off before send() returns, so an answer is there or never comes.
    sock.setblocking(False)
    return sock


def _error(act: str, object: str, cause: str, number: int = 0) -> MachineError:
    kind = {errno.EPERM: NotPermitted, errno.EEXIST: AlreadyInUse, errno.EOPNOTSUPP: Unsupported}.get(
        number, MachineError
    )
    return kind(_ROOM, act, object, cause, _HINTS.get(number, ""))


def _kernel_error(act: str, object: str, reply: wire.Reply) -> MachineError:
    cause = os.strerror(reply.error) + (f" ({reply.words})" if reply.words else "")
    return _error(act, object, cause, reply.error)


def _change_error(sent: _Sent | None, reply: wire.Reply, fallback: str) -> MachineError:
    if sent is None:
        return _kernel_error("change", fallback, reply)
    act = sent.act
    index = wire.refused_element(sent.raw, reply.offset) if reply.offset else -1
    if 0 <= index < len(sent.elements):
        element = sent.elements[index]
        return _kernel_error(act, f"{sent.name}: {element.comment or element.key.hex()}", reply)
    return _kernel_error(act, sent.name, reply)


def _script_error(stderr: str, script: str) -> MachineError:
    words = stderr.strip() or "nft failed without a word"
    first = words.splitlines()[0]
    number = errno.EPERM if "Operation not permitted" in first else 0
    number = errno.EOPNOTSUPP if "not supported" in first else number
    table = next((line.strip() for line in script.splitlines() if line.strip()), "empty script")
    return _error("apply", f"script ({table[:60]} ...)", words, number)
