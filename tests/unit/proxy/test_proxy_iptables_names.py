"""Chain names, against the listing that the guides print."""

from __future__ import annotations

import pytest

from podwire.model.objects import Key
from podwire.proxy.render.iptables import endpoint_chain, service_chain

DNS = Key("kube-system", "kube-dns")


@pytest.mark.parametrize(
    ("service", "port", "protocol", "chain"),
    [
        (DNS, "dns-tcp", "TCP", "KUBE-SVC-ERIFXISQEP7F7OF4"),
        (DNS, "dns", "UDP", "KUBE-SVC-TCOU7JCQXEZGVUNU"),
        (DNS, "metrics", "TCP", "KUBE-SVC-JD5MR3NA4I4DYORP"),
        (Key("default", "kubernetes"), "https", "TCP", "KUBE-SVC-NPX46M4PTMTKRN6Y"),
        (Key("ingress-nginx", "ingress-nginx-controller"), "http", "TCP", "KUBE-SVC-CG5I4G2RS3ZVWGLK"),
        (Key("kube-system", "metrics-server"), "https", "TCP", "KUBE-SVC-Z4ANX4WAEWEBLCTM"),
    ],
)
def test_service_chains(service: Key, port: str, protocol: str, chain: str) -> None:
    assert service_chain(service, port, protocol) == chain


def test_endpoint_chains() -> None:
    assert endpoint_chain(DNS, "dns-tcp", "TCP", "10.244.1.99:53") == "KUBE-SEP-YXU7ECKUN6RQCSDC"
    assert endpoint_chain(DNS, "dns-tcp", "TCP", "10.244.2.142:53") == "KUBE-SEP-C4WJXZ3GDNSPOCVX"
