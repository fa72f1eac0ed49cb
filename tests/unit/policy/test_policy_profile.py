"""The network plugin that a lab stands for decides whether policies are enforced."""

from __future__ import annotations

import pytest

from podwire.lab import config
from podwire.model.errors import BadInput


def test_policies_are_enforced_unless_one_asks_for_flannel() -> None:
    assert config.parse({}).cni_profile == "podwire"
    chosen = config.parse({"cniProfile": "flannel"})
    assert chosen.cni_profile == "flannel"
    assert config.load(config.dump(chosen), "cluster.json").cni_profile == "flannel"


def test_an_unknown_plugin_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="podwire, flannel"):
        config.parse({"cniProfile": "weave"})
