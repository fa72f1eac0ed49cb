"""One contract for FakeNft and RealNft. The real one runs in a network namespace of its own."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from podwire.kernel import libc
from podwire.kernel.nft.fake import FakeNft
from podwire.kernel.nft.port import Element, ElementChange, NftPort, Rule
from podwire.kernel.nft.real import RealNft
from podwire.model.errors import AlreadyInUse, MachineError
from podwire.wire import nfrules

SKELETON = """
table inet t {
    set ports { type inet_service; }
    map addresses { type ipv4_addr . inet_service : ipv4_addr . inet_service; }
    map verdicts { type ipv4_addr . inet_proto . inet_service : verdict; }
    set recent { type ipv4_addr; flags timeout; }
    chain one { return; }
    chain two { return; }
}
"""


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kernel)])
def nft(request: pytest.FixtureRequest) -> Iterator[NftPort]:
    if request.param == "fake":
        yield FakeNft()
        return
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        libc.unshare(libc.CLONE_NEWNET)
    except OSError as error:
        os.close(before)
        pytest.skip(f"no network namespace: {error}")
    real = RealNft()
    libc.setns(before, libc.CLONE_NEWNET)  # everything below must still act on the other namespace
    os.close(before)
    try:
        yield real
    finally:
        real.close()


def ip(text: str) -> bytes:
    return bytes(int(p) for p in text.split("."))


def port(n: int) -> bytes:
    return struct.pack(">HH", n, 0)


def change(set: str, add: tuple[Element, ...] = (), delete: tuple[Element, ...] = ()) -> ElementChange:
    return ElementChange("inet", "t", set, add, delete)


def test_a_table_is_none_until_it_is_applied(nft: NftPort) -> None:
    assert nft.list_table("inet", "t") is None
    nft.apply(SKELETON)
    text = nft.list_table("inet", "t")
    assert text is not None
    assert "map verdicts" in text


def test_a_bad_script_is_refused_whole(nft: NftPort) -> None:
    with pytest.raises(MachineError):
        nft.apply("table inet good { }\nnonsense inet t\n")
    assert nft.list_table("inet", "good") is None


def test_deleting_a_table_that_is_not_there_is_an_error(nft: NftPort) -> None:
    with pytest.raises(MachineError, match="No such file"):
        nft.apply("delete table inet absent")


def test_elements_come_back_as_they_were_added(nft: NftPort) -> None:
    nft.apply(SKELETON)
    address = Element(ip("10.0.0.1") + port(80), ip("10.0.0.2") + port(8080), comment="default/web:http")
    verdict = Element(ip("10.0.0.1") + b"\x06\0\0\0" + port(80), verdict="goto one", comment="default/web")
    nft.change([change("addresses", (address,)), change("verdicts", (verdict,))])
    assert nft.elements("inet", "t", "addresses") == (address,)
    assert nft.elements("inet", "t", "verdicts") == (verdict,)
    nft.change([change("addresses", delete=(address,))])
    assert nft.elements("inet", "t", "addresses") == ()


def test_a_set_that_is_not_there_has_no_elements(nft: NftPort) -> None:
    assert nft.elements("inet", "t", "ports") is None
    nft.apply(SKELETON)
    assert nft.elements("inet", "t", "absent") is None
    with pytest.raises(MachineError, match="No such file"):
        nft.change([change("absent", (Element(bytes([0, 1])),))])


def test_adding_the_same_again_changes_nothing(nft: NftPort) -> None:
    nft.apply(SKELETON)
    e = Element(ip("10.0.0.1") + port(80), ip("10.0.0.2") + port(8080))
    nft.change([change("addresses", (e,))])
    nft.change([change("addresses", (e,))])
    assert nft.elements("inet", "t", "addresses") == (e,)


def test_another_value_for_a_key_is_refused_and_names_the_element(nft: NftPort) -> None:
    nft.apply(SKELETON)
    old = Element(ip("10.0.0.1") + port(80), ip("10.0.0.2") + port(8080))
    other = Element(ip("10.0.0.9") + port(80), ip("10.0.0.3") + port(8080), comment="default/other")
    new = Element(old.key, ip("10.0.0.3") + port(8080), comment="default/web:http")
    nft.change([change("addresses", (old,))])
    with pytest.raises(AlreadyInUse, match=r"default/web:http.*File exists"):
        nft.change([change("addresses", (other, new))])
    assert nft.elements("inet", "t", "addresses") == (old,)
    nft.change([change("addresses", (new,), (old,))])
    assert nft.elements("inet", "t", "addresses") == (new,)


def test_a_batch_is_all_or_nothing(nft: NftPort) -> None:
    nft.apply(SKELETON)
    with pytest.raises(MachineError, match="delete element"):
        nft.change([change("ports", (Element(bytes([0, 80])),)), change("ports", delete=(Element(bytes([0, 81])),))])
    assert nft.elements("inet", "t", "ports") == ()


def test_a_jump_to_no_chain_is_refused(nft: NftPort) -> None:
    nft.apply(SKELETON)
    with pytest.raises(MachineError):
        nft.change([change("verdicts", (Element(ip("1.1.1.1") + b"\x06\0\0\0" + port(80), verdict="goto x"),))])


def test_the_generation_moves_with_every_transaction(nft: NftPort) -> None:
    first = nft.generation()
    nft.apply(SKELETON)
    second = nft.generation()
    nft.change([change("ports", (Element(bytes([0, 80])),))])
    assert len({first, second, nft.generation()}) == 3


def test_many_elements_go_through(nft: NftPort) -> None:
    nft.apply(SKELETON)
    many = tuple(
        Element(struct.pack(">I", 0x0A000000 + i) + port(80), ip("10.9.9.9") + port(80), comment=f"ns/svc-{i}")
        for i in range(20_000)
    )
    nft.change([change("addresses", many)])
    found = nft.elements("inet", "t", "addresses")
    assert found is not None
    assert sorted(found, key=lambda e: e.key) == list(many)


def test_an_encoded_rule_needs_its_chain(nft: NftPort) -> None:
    nft.apply(SKELETON)
    load = nfrules.load_meta(nfrules.META_L4PROTO, 0)
    before = nft.generation()
    nft.append([Rule("inet", "t", "one", (load,))])
    assert nft.generation() != before
    with pytest.raises(MachineError, match="add rule to inet t absent"):
        nft.append([Rule("inet", "t", "absent", (load,))])
