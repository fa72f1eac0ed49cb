"""Ranges and addresses: what is given out, in which order, and what is said when nothing is left."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from podwire.cni.ipam import AddressPool, parse_range, parse_range_sets, parse_requested
from podwire.cni.spec import CniError
from podwire.cni.store import Owner, Reservations, current_epoch, is_live_netns, parse_owner


def make_pool(directory: Path, *subnets: str) -> AddressPool:
    sets = parse_range_sets({"ranges": [[{"subnet": s}] for s in subnets]})
    return AddressPool(Reservations(directory), sets)


def addresses(pool: AddressPool, name: str, *requested: str) -> list[str]:
    wanted = parse_requested(requested, "test")
    return [str(c.address) for c in pool.allocate(Owner(name, "eth0"), wanted)]


@pytest.mark.parametrize(
    ("subnet", "size", "first", "last", "gateway"),
    [
        ("10.244.1.0/24", 253, "10.244.1.1", "10.244.1.254", "10.244.1.1"),
        ("10.244.1.1/24", 253, "10.244.1.1", "10.244.1.254", "10.244.1.1"),
        ("10.0.0.0/30", 1, "10.0.0.1", "10.0.0.2", "10.0.0.1"),
        ("fd00:10:244:1::/64", 2**64 - 2, "fd00:10:244:1::1", "fd00:10:244:1:ffff:ffff:ffff:ffff", None),
    ],
)
def test_a_subnet_gives(subnet: str, size: int, first: str, last: str, gateway: str | None) -> None:
    chosen = parse_range({"subnet": subnet}, "r")
    assert chosen.size == size
    assert (str(chosen.first), str(chosen.last)) == (first, last)
    assert str(chosen.gateway) == (gateway or "fd00:10:244:1::1")


@pytest.mark.parametrize(
    ("ipam", "says"),
    [
        ({"subnet": "10.0.0.0/31"}, "too small"),
        ({"subnet": "10.0.0.0/32"}, "too small"),
        ({"subnet": "10.0.0/24"}, "ipam.subnet"),
        ({"ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.5"}]]}, "ipam.ranges[0][0].rangeStart"),
        ({"ranges": [[{"subnet": "10.0.0.0/24", "gateway": "x"}]]}, "ipam.ranges[0][0].gateway"),
        ({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.128/25"}]]}, "overlap"),
        ({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}, "mixes"),
        ({"ranges": {}, "subnet": ""}, None),
        ({"ranges": {"a": 1}}, "ipam.ranges"),
        ({"ranges": [{}]}, "ipam.ranges[0]"),
        ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.5"}, "no range"),
        ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.1", "rangeEnd": "10.0.0.1"}, "gateway"),
    ],
)
def test_a_bad_range_names_its_field(ipam: dict[str, object], says: str | None) -> None:
    if says is None:
        assert parse_range_sets(ipam) == ()
        return
    with pytest.raises(CniError, match=says.replace("[", r"\[").replace("]", r"\]")) as caught:
        parse_range_sets(ipam)
    assert caught.value.code == 7


def test_addresses_go_round(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, "10.244.1.0/29")
    assert addresses(pool, "a") == ["10.244.1.2/29"]
    assert addresses(pool, "b") == ["10.244.1.3/29"]
    pool.release("a", "eth0")
    assert addresses(pool, "c") == ["10.244.1.4/29"]
    assert addresses(pool, "d") == ["10.244.1.5/29"]
    assert addresses(pool, "e") == ["10.244.1.6/29"]
    assert addresses(pool, "f") == ["10.244.1.2/29"]


def test_the_same_container_gets_the_same_again(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, "10.244.1.0/24", "fd00::/64")
    assert addresses(pool, "a") == addresses(pool, "a") == ["10.244.1.2/24", "fd00::2/64"]
    assert pool.held_by("a", "eth0") != ()
    pool.release("a", "eth0")
    pool.release("a", "eth0")
    assert pool.held_by("a", "eth0") == ()


def test_an_exhausted_range_says_which_and_what_to_do(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, "fd00::/64", "10.244.1.0/24")
    for i in range(253):
        addresses(pool, f"c{i}")
    with pytest.raises(CniError, match=r"range 10.244.1.0/24 is exhausted: 253 of 253 in use") as caught:
        addresses(pool, "one-too-many")
    assert caught.value.code == 101
    assert "larger ranges" in caught.value.details
    assert pool.held_by("one-too-many", "eth0") == ()  # nor the IPv6 address that was there
    pool.release("c7", "eth0")
    assert addresses(pool, "one-too-many")[1] == "10.244.1.9/24"


def test_requested_addresses(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, "10.244.1.0/24", "fd00::/64")
    assert addresses(pool, "a", "10.244.1.77") == ["10.244.1.77/24", "fd00::2/64"]
    assert addresses(pool, "a", "10.244.1.77/24") == ["10.244.1.77/24", "fd00::2/64"]
    with pytest.raises(CniError, match="held by container a") as caught:
        addresses(pool, "b", "10.244.1.77")
    assert caught.value.code == 102
    with pytest.raises(CniError, match="in no range"):
        addresses(pool, "b", "10.9.9.9")
    with pytest.raises(CniError, match="in no range"):
        addresses(pool, "b", "10.244.1.1")
    assert pool.held_by("b", "eth0") == ()


def test_gc_keeps_the_living(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, "10.244.1.0/24")
    for name in ("a", "b", "c"):
        addresses(pool, name)
    assert {o.container_id for o in pool.release_except({("b", "eth0")})} == {"a", "c"}
    assert pool.held_by("b", "eth0") == (ip_address("10.244.1.3"),)


def test_a_new_epoch_frees_what_has_no_netns(tmp_path: Path) -> None:
    store = Reservations(tmp_path)
    pool = AddressPool(store, parse_range_sets({"subnet": "10.244.1.0/24"}))
    pool.allocate(Owner("dead", "eth0", "/run/podwire/netns/dead"))
    pool.allocate(Owner("live", "eth0", "/run/podwire/netns/live"))
    with store.locked():
        assert [o.container_id for o in store.reclaim("boot-1", lambda p: p.endswith("live"))] == ["dead"]
        assert store.reclaim("boot-1", lambda p: False) == []
    assert pool.held_by("live", "eth0") == (ip_address("10.244.1.3"),)


def test_stray_files_are_neither_given_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "10.244.1.2").write_text("somebody's")
    (tmp_path / "README").write_text("hello")
    pool = make_pool(tmp_path, "10.244.1.0/24")
    assert addresses(pool, "a") == ["10.244.1.3/24"]
    pool.release_except(set())
    assert sorted(os.listdir(tmp_path)) == ["10.244.1.2", "README", "last_reserved_ip.0", "lock"]


def test_an_owner_can_be_read_back() -> None:
    owner = Owner("abc", "eth0", "/run/with blank/ns")
    assert parse_owner(owner.render()) == owner
    assert parse_owner("abc eth0") == Owner("abc", "eth0")
    assert parse_owner("") == Owner("", "")


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def symlink(self, target: str, path: str) -> None:
            raise OSError(28, "No space left on device")

    store = Reservations(tmp_path, Full())  # type: ignore[arg-type]
    with pytest.raises(CniError, match="No space left on device; free some space") as caught:
        AddressPool(store, parse_range_sets({"subnet": "10.0.0.0/24"})).allocate(Owner("a", "eth0"))
    assert caught.value.code == 5


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CniError, match="file/net/lock: Not a directory"):
        addresses(make_pool(tmp_path / "file" / "net", "10.0.0.0/24"), "a")


def test_the_epoch_is_the_same_for_one_boot() -> None:
    assert current_epoch() == current_epoch()
    assert current_epoch().count(":") == 2


def test_a_pinned_netns_is_told_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "left").write_text("")
    assert is_live_netns("/proc/self/ns/net")
    assert not is_live_netns(str(tmp_path / "left"))
    assert not is_live_netns(str(tmp_path / "none"))
    assert not is_live_netns("")
