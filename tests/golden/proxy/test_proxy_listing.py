"""The table as `nft list table` shows it to a person. The expected text lies beside this file.

To accept a change: PODWIRE_ACCEPT=1 pytest tests/golden/proxy
"""

from __future__ import annotations

import os
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from podwire.kernel import libc
from podwire.kernel.nft.real import RealNft, find_nft
from podwire.model.objects import Key, Obj
from podwire.proxy.apply.nftables import NftablesDataplane
from podwire.proxy.desired import Here
from podwire.proxy.plan import plan_service
from podwire.proxy.programmer import Programmer

EXPECTED = Path(__file__).parent / "table.nft"


def service() -> Obj:
    return {
        "kind": "Service", "metadata": {"namespace": "default", "name": "web", "creationTimestamp": "2026"},
        "spec": {
            "type": "NodePort", "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
            "clusterIP": "10.96.0.50", "clusterIPs": ["10.96.0.50"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}],
        },
    }  # fmt: skip


def piece() -> Obj:
    return {
        "kind": "EndpointSlice", "metadata": {"namespace": "default", "name": "web-1"}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [f"10.244.{n}.5"], "nodeName": f"n{n}", "conditions": {"ready": True}}
                      for n in (1, 2)],
    }  # fmt: skip


def nft_version() -> str:
    path = find_nft()
    return subprocess.run([path, "--version"], capture_output=True, text=True).stdout if path else ""


@pytest.mark.kernel
@pytest.mark.skipif("v1.0.6" not in nft_version(), reason="other versions of nft print some things otherwise")
def test_the_table_reads_well() -> None:
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        libc.unshare(libc.CLONE_NEWNET)
    except OSError as error:
        pytest.skip(f"no network namespace: {error}")
    else:
        nft = RealNft()
    finally:
        libc.setns(before, libc.CLONE_NEWNET)
        os.close(before)
    programmer = Programmer(
        NftablesDataplane(nft, [4], [ip_network("10.244.0.0/16")], [ip_network("10.96.0.0/12")]), None
    )
    here = Here("n1", (ip_address("192.168.71.11"),))
    programmer.program({Key("default", "web"): plan_service(service(), [piece()], here)})
    text = nft.list_table("inet", "podwire-proxy")
    nft.close()
    assert text is not None
    if os.environ.get("PODWIRE_ACCEPT"):
        EXPECTED.write_text(text)
    assert text == EXPECTED.read_text()
