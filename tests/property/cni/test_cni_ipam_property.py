"""No address is ever held twice or lost, wherever a process dies and however many work at once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.cni.ipam import AddressPool, parse_range_sets
from podwire.cni.spec import CniError
from podwire.cni.store import Owner, Reservations

SETS = parse_range_sets({"ranges": [[{"subnet": "10.0.0.0/29"}], [{"subnet": "fd00::/125"}]]})


class Killed(BaseException):
    """The process died here."""


class Mortal:
    """System calls of a process that dies at the n-th of them, before or after it took effect.

    Once dead, every further call fails as well: nothing that Python would still run (finally, except)
    can touch the disk, as after a real SIGKILL.
    """

    def __init__(self, calls: int, after: bool) -> None:
        self.left, self.after, self.dead = calls, after, False

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)

        def call(*args: str) -> object:
            if self.dead:
                raise Killed
            self.left -= 1
            if self.left >= 0:
                return real(*args)
            self.dead = True
            if self.after:
                try:
                    real(*args)
                except OSError:
                    pass
            raise Killed

        return call


step = st.tuples(
    st.sampled_from(["add", "add", "del", "gc"]),
    st.integers(0, 6),  # which container
    st.one_of(st.none(), st.integers(0, 14)),  # dies at this call; None: lives
    st.booleans(),
)


def act(pool: AddressPool, what: str, container: int, alive: set[str]) -> None:
    if what == "add":
        pool.allocate(Owner(f"c{container}", "eth0"))
    elif what == "del":
        pool.release(f"c{container}", "eth0")
    else:
        pool.release_except({(name, "eth0") for name in alive})


@settings(max_examples=150, deadline=None)
@given(st.lists(step, max_size=14))
def test_killed_at_any_call_nothing_leaks_and_nothing_doubles(steps: list[tuple[str, int, int | None, bool]]):
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "net"
        maybe: set[str] = set()  # containers that a runtime would call DEL for
        got: dict[str, tuple[IPv4Address | IPv6Address, ...]] = {}
        for what, container, dies_at, after in steps:
            name = f"c{container}"
            calls = Mortal(dies_at, after) if dies_at is not None else None
            pool = AddressPool(Reservations(directory, calls), SETS)  # type: ignore[arg-type]
            if what == "add":
                maybe.add(name)
            try:
                act(pool, what, container, maybe)
            except Killed:
                pass
            except CniError as error:
                assert error.code == 101  # noqa: PT017
            pool = AddressPool(Reservations(directory), SETS)
            holders = {n: pool.held_by(n, "eth0") for n in maybe}
            doubled = [a for a, n in Counter(a for h in holders.values() for a in h).items() if n > 1]
            assert not doubled
            for survivor, before in got.items():
                if survivor != name:
                    assert holders[survivor] == before  # nobody else's address moved
            got = {n: h for n, h in holders.items() if len(h) == len(SETS)}
        for name in maybe:
            pool = AddressPool(Reservations(directory), SETS)
            pool.release(name, "eth0")
        left = [n for n in os.listdir(directory) if n[0] in "1f"] if directory.exists() else []
        assert left == []


@given(st.integers(0, 12), st.booleans())
@settings(max_examples=40, deadline=None)
def test_an_interrupted_add_can_be_repeated(dies_at: int, after: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        doomed = AddressPool(Reservations(directory, Mortal(dies_at, after)), SETS)  # type: ignore[arg-type]
        try:
            doomed.allocate(Owner("a", "eth0"))
        except Killed:
            pass
        pool = AddressPool(Reservations(directory), SETS)
        first = pool.allocate(Owner("a", "eth0"))
        assert len(first) == 2
        assert pool.allocate(Owner("a", "eth0")) == first
        assert len(pool.held_by("a", "eth0")) == 2


def take_many(directory: str, prefix: str, count: int, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    pool = AddressPool(Reservations(Path(directory)), parse_range_sets({"subnet": "10.0.0.0/24"}))
    mine = []
    for i in range(count):
        mine += [str(c.address.ip) for c in pool.allocate(Owner(f"{prefix}{i}", "eth0"))]
        if i % 3 == 0:
            pool.release(f"{prefix}{i}", "eth0")
            mine.pop()
    answers.put(mine)


def test_processes_at_once_share_a_range(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    workers = [context.Process(target=take_many, args=(str(tmp_path), f"p{n}-", 60, answers)) for n in range(4)]
    for worker in workers:
        worker.start()
    everything = [address for _ in workers for address in answers.get(timeout=60)]
    for worker in workers:
        worker.join(60)
    assert len(everything) == len(set(everything)) == 160


def churn(directory: str) -> None:
    pool = AddressPool(Reservations(Path(directory)), parse_range_sets({"subnet": "10.0.0.0/26"}))
    chance = random.Random(os.getpid())
    while True:
        name = f"c{chance.randrange(40)}"
        if chance.random() < 0.5:
            pool.allocate(Owner(name, "eth0"))
        else:
            pool.release(name, "eth0")


@pytest.mark.parametrize("seed", range(8))
def test_sigkill_under_churn(tmp_path: Path, seed: int) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=churn, args=(str(tmp_path),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    time.sleep(0.02 + random.Random(seed).random() * 0.05)
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(10)
    pool = AddressPool(Reservations(tmp_path), parse_range_sets({"subnet": "10.0.0.0/26"}))
    for i in range(40):
        assert len(pool.held_by(f"c{i}", "eth0")) <= 1
    assert pool.release_except(set()) is not None
    for i in range(61):
        pool.allocate(Owner(f"n{i}", "eth0"))
