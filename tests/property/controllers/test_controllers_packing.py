"""Endpoint slices against a naive model: the same content, whatever came before; and few writes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.controllers.endpoints.plan import Endpoint, Group, Port
from podwire.controllers.endpoints.slices import SliceChanges, SliceOwner, group_of, plan_slices
from podwire.model.objects import Obj

OWNER: Obj = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default", "uid": "s"}}
GROUPS = [
    Group("IPv4", (Port("http", "TCP", 80),)),
    Group("IPv4", (Port("http", "TCP", 8080), Port("dns", "UDP", 53))),
    Group("IPv6", (Port("http", "TCP", 80),)),
]
MOST = 4


def endpoint(number: int, ready: bool) -> Endpoint:
    return Endpoint(f"10.0.0.{number}", ready, ready, False, name=f"p{number}", uid=f"u{number}", namespace="default")


contents = st.dictionaries(
    st.sampled_from(GROUPS),
    st.dictionaries(st.integers(0, 30), st.booleans(), max_size=15).map(
        lambda d: tuple(endpoint(n, ready) for n, ready in sorted(d.items()))
    ),
)


def apply(existing: list[Obj], changes: SliceChanges, serial: list[int]) -> list[Obj]:
    by_name = {s["metadata"]["name"]: s for s in existing}
    for s in changes.update:
        assert s["metadata"]["name"] in by_name
        by_name[s["metadata"]["name"]] = s
    for s in changes.delete:
        del by_name[s["metadata"]["name"]]
    for s in changes.create:
        serial[0] += 1
        name = f"web-{serial[0]}"
        by_name[name] = {**s, "metadata": {**s["metadata"], "name": name, "uid": name}}
    return list(by_name.values())


def content_of(slices: list[Obj]) -> Counter[tuple[Group, str, bool]]:
    return Counter((group_of(s), e["addresses"][0], e["conditions"]["ready"]) for s in slices for e in s["endpoints"])


@settings(max_examples=200, deadline=None)
@given(st.lists(contents, min_size=1, max_size=6))
def test_slices_hold_exactly_what_is_wanted(history: list[dict[Group, tuple[Endpoint, ...]]]) -> None:
    owner = SliceOwner(OWNER, {"a": "b"}, ("IPv4", "IPv6"))
    slices: list[Obj] = []
    serial = [0]
    for wanted in history:
        slices = apply(slices, plan_slices(owner, slices, wanted, max_endpoints=MOST), serial)
        expected = Counter((g, e.address, e.ready) for g, es in wanted.items() for e in es)
        assert content_of(slices) == expected
        assert all(len(s["endpoints"]) <= MOST for s in slices)
        assert {s["addressType"] for s in slices} == {"IPv4", "IPv6"}  # an empty family has its empty slice
        again = plan_slices(owner, slices, wanted, max_endpoints=MOST)
        assert again == SliceChanges((), (), ())


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.data())
def test_one_changed_endpoint_costs_one_write(size: int, data: st.DataObject) -> None:
    owner = SliceOwner(OWNER, {}, ("IPv4",))
    group = GROUPS[0]
    before = tuple(endpoint(n, True) for n in range(size))
    slices = apply([], plan_slices(owner, [], {group: before}, max_endpoints=MOST), [0])
    chosen = data.draw(st.integers(0, size - 1))
    flipped = tuple(endpoint(n, n != chosen) for n in range(size))
    changes = plan_slices(owner, slices, {group: flipped}, max_endpoints=MOST)
    assert (len(changes.create), len(changes.update), len(changes.delete)) == (0, 1, 0)
    without = tuple(e for e in before if e != before[chosen])
    changes = plan_slices(owner, slices, {group: without}, max_endpoints=MOST)
    assert len(changes.create) + len(changes.update) + len(changes.delete) == 1
