"""The small cluster of namespaces, in both IP families, and a proxy in it, in both modes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from proxy_world import V4, V6, Proxy, World, build


@pytest.fixture(scope="module", params=[V4, V6], ids=["ipv4", "ipv6"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    try:
        w = build(request.param)
    except PermissionError as error:
        pytest.skip(f"no network namespaces: {error}")
    thread = threading.Thread(target=w.answer_for_ever)
    thread.start()
    yield w
    w.stop.set()
    thread.join()
    for key in list(w.selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    for fd in (*w.fds.values(), w.home):
        os.close(fd)


@pytest.fixture(params=["nftables", "iptables"])
def proxy(world: World, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    p = Proxy(world, request.param)
    yield p
    for mode in ("nftables", "iptables"):
        p.dataplane(mode).remove()
    p.flows.flush()
    p.nft.close()
    p.iptables.close()
    p.flows.close()
