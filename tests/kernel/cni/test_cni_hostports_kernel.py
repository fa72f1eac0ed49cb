"""Host ports with real packets: from outside, from the node, from the pod's neighbour and the pod itself."""

from __future__ import annotations

import os
import socket

import pytest

from podwire.model.errors import MachineError
from podwire.model.podnetwork import HostPort

pytestmark = pytest.mark.kernel

DUAL = """FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.1.1/24
FLANNEL_IPV6_NETWORK=fd00:10:244::/48
FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64
FLANNEL_MTU=1450
"""


def tables():
    return os.popen("nft list tables").read()


def test_a_host_port_is_reached_from_everywhere(run_node):
    async def body(node):
        client = node.outside("client", "192.0.2.9/24", "192.0.2.1/24")
        web = node.pod("web", HostPort(8080, 80), HostPort(5353, 53, "udp"))
        near = node.pod("near")
        await node.network.add(web)
        await node.network.add(near)
        await node.network.check(web)
        node.serve(web, 80, "hello")
        node.serve(web, 53, "dgram", "UDP")
        # from outside the pod sees the client's own address
        assert node.ask(client, "192.0.2.1", 8080) == "hello 192.0.2.9"
        assert node.ask(client, "192.0.2.1", 5353, "UDP").startswith("dgram")
        masqueraded = "hello 10.244.1.1"
        assert node.ask(near, "192.0.2.1", 8080) == masqueraded
        assert node.ask(web, "192.0.2.1", 8080) == masqueraded
        assert node.ask(near, "10.244.1.1", 8080) == masqueraded
        assert node.ask(None, "127.0.0.1", 8080) == masqueraded
        assert node.ask(None, "192.0.2.1", 8080).startswith("hello")
        assert node.ask(None, "127.0.0.1", 80) == ""  # nobody published that
        assert node.ask(client, "192.0.2.1", 80) == ""
        await node.network.delete(web)
        assert node.ask(client, "192.0.2.1", 8080) == ""
        assert tables() == ""

    run_node(body)


def test_dual_stack_host_ports(run_node):
    async def body(node):
        node.subnet_env(DUAL)
        client = node.outside("client", "2001:db8::9/64", "2001:db8::1/64")
        web, near = node.pod("web", HostPort(8080, 80)), node.pod("near")
        await node.network.add(web)
        await node.network.add(near)
        node.serve(web, 80, "hello")
        assert node.ask(client, "2001:db8::1", 8080) == ("hello 2001:db8::9")
        assert node.ask(near, "2001:db8::1", 8080).startswith("hello fd00")
        assert node.ask(None, "127.0.0.1", 8080).startswith("hello")
        await node.network.check(web)

    run_node(body)


def test_a_host_ip_narrows_the_port(run_node):
    async def body(node):
        client = node.outside("client", "192.0.2.9/24", "192.0.2.1/24")
        os.system("ip address add 192.0.2.2/24 dev u-client")
        web = node.pod("web", HostPort(8080, 80, host_ip="192.0.2.2"))
        await node.network.add(web)
        node.serve(web, 80, "hello")
        assert node.ask(client, "192.0.2.2", 8080).startswith("hello")
        assert node.ask(client, "192.0.2.1", 8080) == ""
        await node.network.check(web)

    run_node(body)


def test_a_port_that_is_taken(run_node):
    async def body(node):
        first = node.pod("first", HostPort(8080, 80))
        await node.network.add(first)
        for second in (
            node.pod("same", HostPort(8080, 81)),
            node.pod("narrow", HostPort(9, 9), HostPort(8080, 81, host_ip="192.0.2.1")),
        ):
            with pytest.raises(MachineError, match=r"host port 8080/tcp is held by container first \(code 103"):
                await node.network.add(second)
            await node.network.delete(second)
        await node.network.add(node.pod("udp", HostPort(8080, 80, "udp")))
        await node.network.check(first)
        await node.network.delete(first)
        await node.network.add(node.pod("next", HostPort(8080, 80)))

    run_node(body)


def test_a_table_that_somebody_flushed_is_noticed_and_made_again(run_node):
    async def body(node):
        client = node.outside("client", "192.0.2.9/24", "192.0.2.1/24")
        web = node.pod("web", HostPort(8080, 80))
        await node.network.add(web)
        node.serve(web, 80, "hello")
        assert os.system("nft flush ruleset") == 0
        with pytest.raises(MachineError, match="host port 8080 is not in table podwire-hostport"):
            await node.network.check(web)
        await node.network.add(node.pod("other", HostPort(8081, 80)))
        await node.network.check(web)
        assert node.ask(client, "192.0.2.1", 8080).startswith("hello")

    run_node(body)


def test_an_agent_that_is_new_keeps_and_frees_ports(run_node):
    async def body(node):
        client = node.outside("client", "192.0.2.9/24", "192.0.2.1/24")
        web, old = node.pod("web", HostPort(8080, 80)), node.pod("old", HostPort(8081, 80))
        await node.network.add(web)
        await node.network.add(old)
        node.serve(web, 80, "hello")
        node.serve(old, 80, "old")
        assert node.ask(client, "192.0.2.1", 8081).startswith("old")
        fresh = node.restart()
        await fresh.network.collect_garbage((web,))
        assert node.ask(client, "192.0.2.1", 8081) == ""
        assert node.ask(client, "192.0.2.1", 8080).startswith("hello")
        assert set(os.listdir(node.scratch / "data/cbr0/ports")) == {"epoch", "tcp:8080", "lock"}

    run_node(body)


def test_a_udp_client_that_never_pauses_reaches_the_next_pod(run_node):
    """One socket, one flow: before the port is published, with the first pod, with the second."""

    async def body(node):
        client = node.outside("client", "192.0.2.9/24", "192.0.2.1/24")
        speaker = node._socket(client, socket.AF_INET, "UDP")
        speaker.settimeout(20)
        speaker.connect(("192.0.2.1", 5353))

        def poke():
            """Send without caring for an answer: a flow that leads nowhere begins, or goes on."""
            try:
                speaker.send(b"x")
            except ConnectionRefusedError:  # the ICMP answer to an earlier datagram
                speaker.send(b"x")

        poke()
        for name in ("first", "second"):
            pod = node.pod(name, HostPort(5353, 53, "udp"))
            node.serve(pod, 53, name, "UDP")
            await node.network.add(pod)
            poke()
            try:
                said = speaker.recv(100)
            except ConnectionRefusedError:
                said = speaker.recv(100)
            assert said == f"{name} 192.0.2.9".encode()
            await node.network.delete(pod)
            poke()

    run_node(body)
