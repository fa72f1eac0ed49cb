"""Hints of endpoints: who should use them."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.controllers.endpoints.hints import TOPOLOGY_MODE, Topology, share_among_zones, with_hints
from podwire.controllers.endpoints.plan import Endpoint, Group

GROUP = Group("IPv4", ())


def endpoint(number: int, zone: str, ready: bool = True, node: str = "") -> Endpoint:
    return Endpoint(f"10.0.0.{number}", ready, ready, not ready, node or f"n-{zone}", zone)


def hints(endpoints: Any) -> list[str]:
    return ["".join(e.for_zones) + "".join("/" + n for n in e.for_nodes) for e in endpoints]


@pytest.mark.parametrize(
    ("distribution", "wanted"),
    [
        (None, ["", "", "", ""]),
        ("PreferClose", ["a", "b", "", ""]),
        ("PreferSameZone", ["a", "b", "", ""]),
        ("PreferSameNode", ["a/n-a", "b/n-b", "/n-x", ""]),
    ],
)
def test_traffic_distribution(distribution: str | None, wanted: list[str]) -> None:
    service: Any = {"metadata": {}, "spec": {"trafficDistribution": distribution}}
    given = [endpoint(1, "a"), endpoint(2, "b"), endpoint(3, "", node="n-x"), endpoint(4, "a", ready=False)]
    assert hints(with_hints(service, {GROUP: given}, Topology({}, {}))[GROUP]) == wanted


def test_the_annotation_goes_before_the_field() -> None:
    service: Any = {
        "metadata": {"annotations": {TOPOLOGY_MODE: "Auto"}}, "spec": {"trafficDistribution": "PreferClose"},
    }  # fmt: skip
    given = [endpoint(1, "a"), endpoint(2, "b")]
    assert hints(with_hints(service, {GROUP: given}, Topology({}, {}))[GROUP]) == ["", ""]
    assert hints(with_hints(service, {GROUP: given}, Topology({}, {"a": 1000, "b": 1000}))[GROUP]) == ["a", "b"]


@pytest.mark.parametrize(
    ("zones", "cpu", "wanted"),
    [
        ("ab", {"a": 2000, "b": 2000}, "ab"),
        ("aaab", {"a": 2000, "b": 2000}, "aabb"),  # b needs two of four: ceil(2 / 1.2)
        ("aaabbbccc", {"a": 4000, "b": 4000, "c": 4000}, "aaabbbccc"),
        ("aaaaaa", {"a": 2000, "b": 2000}, "aaabbb"),
        ("a", {"a": 2000, "b": 2000}, " "),  # fewer endpoints than zones
        ("aa", {"a": 2000}, "  "),  # one zone
        ("aax", {"a": 2000, "b": 2000}, "   "),  # an endpoint elsewhere
        ("ab", {"a": 9000, "b": 1000}, "  "),  # a alone would need both
    ],
)
def test_sharing_among_zones(zones: str, cpu: dict[str, int], wanted: str) -> None:
    found = share_among_zones([endpoint(n, z) for n, z in enumerate(zones)], cpu)
    assert sorted(h or " " for h in hints(found)) == sorted(wanted)


def test_unready_endpoints_count_for_nothing() -> None:
    found = share_among_zones([endpoint(1, "a"), endpoint(2, "b"), endpoint(3, "a", ready=False)], {"a": 1, "b": 1})
    assert hints(found) == ["a", "b", ""]


def test_rendering() -> None:
    service: Any = {"metadata": {}, "spec": {"trafficDistribution": "PreferSameNode"}}
    (found,) = with_hints(service, {GROUP: [endpoint(1, "a")]}, Topology({}, {}))[GROUP]
    assert found.render()["hints"] == {"forZones": [{"name": "a"}], "forNodes": [{"name": "n-a"}]}
    assert "hints" not in endpoint(1, "a").render()
