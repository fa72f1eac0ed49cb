"""Workers: processes that answer, each on a socket of its own on the same port (plugin `multisocket`).

The parent mirrors the API, holds the sockets open and forks the workers from its own memory: a worker begins with
the whole index, and hears of changes through a pipe. One that dies takes along the queries in its hands and no
others, for its socket, with what waits there, is the parent's; its successor is forked at once.
"""

from __future__ import annotations

import asyncio
import gc
import marshal
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from podwire.dns.engine import Engine
from podwire.dns.index import Index
from podwire.dns.metrics import Report, add_up
from podwire.dns.server import Sockets
from podwire.dns.settings import Settings
from podwire.kernel import libc
from podwire.model.objects import Key
from podwire.runtime.clock import SystemClock
from podwire.runtime.logging import get

Change = tuple[Any, ...]
"""One change of an index: a verb of ``apply_change``, and what it takes."""

_LENGTH = struct.Struct(">I")
_REPORT_EVERY_S = 1.0
_MAX_BACKLOG_BYTES = 64 << 20  # a worker that hears nothing for so long is replaced
_SHORT_LIFE_S, _PAUSE_S = 0.5, 0.2
_log = get("dns")


def apply_change(index: Index, change: Change) -> None:
    """Do to an index what a change says."""
    match change:
        case ("put", namespace, name, service, pieces):
            index.put(Key(namespace, name), service, pieces)
        case ("namespace", name, exists):
            index.set_namespace(name, exists)
        case ("pod", namespace, address, count):
            index.count_pod_address(namespace, address, count)
        case _:
            raise ValueError(f"no such change: {change[0]!r}")


@dataclass(slots=True)
class _Worker:
    """A worker as its parent knows it."""

    slot: int
    pid: int
    pidfd: int
    pipe: socket.socket
    born_s: float
    outgoing: bytearray = field(default_factory=bytearray)
    incoming: bytearray = field(default_factory=bytearray)
    report: Report = field(default_factory=Report)


class Workers:
    """The workers of one server."""

    def __init__(self, settings: Settings, index: Index, sockets: list[Sockets]) -> None:
        self._settings, self._index, self._sockets = settings, index, sockets
        self._workers: dict[int, _Worker] = {}
        self._past: list[Report] = []  # of workers that are gone, added up
        self._synced = self._closing = False
        self.restarts = 0

    @property
    def port(self) -> int:
        """The port that all of them answer on."""
        return self._sockets[0].port

    @property
    def pids(self) -> list[int]:
        """The workers' processes, by slot."""
        return [self._workers[slot].pid for slot in sorted(self._workers)]

    def start(self) -> None:
        """Fork all of them. Call it in a running loop."""
        for slot in range(len(self._sockets)):
            self._fork(slot)

    def announce_synced(self) -> None:
        """The index is whole: answer from it."""
        self._synced = True
        self.broadcast(("synced",))

    def broadcast(self, change: Change) -> None:
        """Tell every worker of a change."""
        raw = marshal.dumps(change)
        framed = _LENGTH.pack(len(raw)) + raw
        for worker in list(self._workers.values()):
            worker.outgoing += framed
            if len(worker.outgoing) > _MAX_BACKLOG_BYTES:
                os.kill(worker.pid, signal.SIGKILL)
            elif len(worker.outgoing) == len(framed):
                self._push(worker)

    def reconfigure(self, settings: Settings, index: Index) -> None:
        """Replace the workers by ones with other settings, one socket after the other; no query is lost."""
        self._settings, self._index = settings, index
        for worker in self._workers.values():
            os.kill(worker.pid, signal.SIGTERM)

    def report(self) -> Report:
        """Return the sum of all workers' numbers, at most a second old."""
        return add_up([*self._past, *(w.report for w in self._workers.values())])

    def close(self) -> None:
        """End them."""
        self._closing = True
        for worker in list(self._workers.values()):
            os.kill(worker.pid, signal.SIGKILL)
            self._bury(worker)
        for sockets in self._sockets:
            sockets.close()

    # --- life and death

    def _fork(self, slot: int) -> None:
        if self._closing:
            return
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _be_worker(self._settings, self._index, self._sockets[slot], theirs, self._synced, parent)
        theirs.close()
        ours.setblocking(False)
        worker = _Worker(slot, pid, os.pidfd_open(pid), ours, time.monotonic())
        self._workers[slot] = worker
        loop = asyncio.get_running_loop()
        loop.add_reader(worker.pidfd, self._died, worker)
        loop.add_reader(ours, self._hear, worker)

    def _died(self, worker: _Worker) -> None:
        self._hear(worker)
        status = self._bury(worker)
        self._past = [add_up([*self._past, worker.report])]
        self.restarts += 1
        if status != 0:
            _log.warning("worker-died", pid=worker.pid, exit=os.waitstatus_to_exitcode(status))
        if time.monotonic() - worker.born_s < _SHORT_LIFE_S:
            asyncio.get_running_loop().call_later(_PAUSE_S, self._fork, worker.slot)
        else:
            self._fork(worker.slot)

    def _bury(self, worker: _Worker) -> int:
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.pidfd)
        loop.remove_reader(worker.pipe)
        loop.remove_writer(worker.pipe)
        _, status = os.waitpid(worker.pid, 0)
        os.close(worker.pidfd)
        worker.pipe.close()
        if self._workers.get(worker.slot) is worker:
            del self._workers[worker.slot]
        return status

    def _push(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()
        try:
            sent = worker.pipe.send(worker.outgoing)
            del worker.outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:  # it is dying; ``_died`` will say so
            worker.outgoing.clear()
        if worker.outgoing:
            loop.add_writer(worker.pipe, self._push, worker)
        else:
            loop.remove_writer(worker.pipe)

    def _hear(self, worker: _Worker) -> None:
        try:
            while chunk := worker.pipe.recv(1 << 16):
                worker.incoming += chunk
        except OSError:
            pass
        for message in take_frames(worker.incoming):
            worker.report = Report(*message)


def take_frames(buffer: bytearray) -> list[Any]:
    """Return the whole messages at the front of ``buffer``, and take them out."""
    found, at = [], 0
    while len(buffer) - at >= _LENGTH.size:
        (size,) = _LENGTH.unpack_from(buffer, at)
        if len(buffer) - at - _LENGTH.size < size:
            break
        at += _LENGTH.size
        found.append(marshal.loads(buffer[at : at + size]))
        at += size
    del buffer[:at]
    return found


# --- inside a worker


def _be_worker(
    settings: Settings, index: Index, sockets: Sockets, pipe: socket.socket, synced: bool, parent: int
) -> NoReturn:
    """Be a worker, in a process that was just forked out of a running loop. Never returns.

    The parent's loop, tasks and connections exist here as memory only. Nothing may touch them, the collector
    neither: they would close descriptors whose numbers are others' by now.
    """
    code = 1
    try:
        gc.freeze()
        libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.set_process_name("dns-worker")
        if os.getppid() != parent:
            os._exit(0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        kept = sorted({0, 1, 2, sockets.udp.fileno(), sockets.tcp.fileno(), pipe.fileno()})
        for low, high in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
            os.closerange(low + 1, high)
        loop = _new_loop()
        loop.run_until_complete(_work(settings, index, sockets, pipe, synced, parent))
        code = 0
    except BaseException as error:  # whatever it is, the parent's code must not go on in this process
        _log.error("worker-failed", error=repr(error))
    finally:
        os._exit(code)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


async def _work(
    settings: Settings, index: Index, sockets: Sockets, pipe: socket.socket, synced: bool, parent: int
) -> None:
    engine = Engine(settings, index, SystemClock())
    engine.responder.synced = synced
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    pipe.setblocking(False)
    buffer = bytearray()

    def hear() -> None:
        try:
            chunk = pipe.recv(1 << 20)
        except BlockingIOError:
            return
        if not chunk:
            told.set()
        buffer.extend(chunk)
        for change in take_frames(buffer):
            if change[0] == "synced":
                engine.responder.synced = True
            else:
                apply_change(index, change)

    loop.add_reader(pipe, hear)
    await engine.start(sockets)
    reporting = asyncio.ensure_future(_send_reports(engine.report, pipe))
    watching = asyncio.ensure_future(_watch_loops(engine, parent))
    await told.wait()
    reporting.cancel()
    watching.cancel()
    engine.server.stop_reading()
    _send(pipe, engine.report())


async def _watch_loops(engine: Engine, parent: int) -> None:
    """End the server when a probe of its own has come back: it is the parent's to say so and leave."""
    await engine.loop_found.wait()
    _log.error("loop", hint="the upstream resolvers send queries back to this server; see the node's resolv.conf")
    os.kill(parent, signal.SIGTERM)


async def _send_reports(report: Callable[[], Report], pipe: socket.socket) -> None:
    former: Report | None = None
    while True:
        await asyncio.sleep(_REPORT_EVERY_S)
        now = report()
        if now != former:
            _send(pipe, now)
            former = now


def _send(pipe: socket.socket, report: Report) -> None:
    """Send the numbers. A pipe that is full loses them: the next ones say it all again."""
    r = report
    raw = marshal.dumps((r.counts, r.clients, r.upstreams, r.cache_hits, r.cache_misses, r.cache_entries))
    try:
        pipe.setblocking(True)  # a report is sent whole or not at all; the parent reads whenever it can
        pipe.sendall(_LENGTH.pack(len(raw)) + raw)
    except OSError:
        pass
    finally:
        pipe.setblocking(False)
