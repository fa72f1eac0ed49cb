"""The guides' commands, with the tools that people have: dig and nslookup, on port 53 of a namespace."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from podwire.client.fake import FakeClient
from podwire.dns.agent import DnsAgent
from podwire.dns.corefile import parse_corefile
from podwire.dns.manifests import corefile
from podwire.kernel import libc
from podwire.model.objects import Obj
from podwire.model.resources import NAMESPACES, SERVICES

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not shutil.which("dig") or not shutil.which("nslookup"), reason="needs dig and nslookup"),
]


def service(name: str, **spec: Any) -> Obj:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def cluster() -> FakeClient:
    client = FakeClient()
    client.seed(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    https = [{"name": "https", "port": 443, "protocol": "TCP"}]
    client.seed(SERVICES, service("kubernetes", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1"], ports=https))
    client.seed(SERVICES, service("httpbin-org", type="ExternalName", externalName="httpbin.org"))
    return client


@asynccontextmanager
async def serving() -> AsyncIterator[None]:
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        libc.unshare(libc.CLONE_NEWNET)
    except OSError as error:
        os.close(before)
        pytest.skip(f"no network namespace: {error}")
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        settings = replace(parse_corefile(corefile("cluster.local")), forwards=())
        agent = DnsAgent(settings, cluster())
        task = asyncio.create_task(agent.run())
        try:
            async with asyncio.timeout(5):
                await agent.ready.wait()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    finally:
        libc.setns(before, libc.CLONE_NEWNET)
        os.close(before)


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(10):
        out, _ = await process.communicate()
    return out.decode()


async def test_the_guides_examples() -> None:
    async with serving():
        dig = ("dig", "@127.0.0.1", "+search", "+domain=default.svc.cluster.local")
        text = await run(*dig, "kubernetes")
        for line in ("status: NOERROR", ";; flags: qr aa rd; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 1",
                     "recursion requested but not available", "EDNS: version: 0, flags:; udp: 1232", "(echoed)",
                     "10.96.0.1", "MSG SIZE  rcvd: 129"):  # fmt: skip
            assert line in text
        assert await run(*dig, "+short", "httpbin-org", "CNAME") == "httpbin.org.\n"
        assert await run(*dig, "+short", "+tcp", "kubernetes") == "10.96.0.1\n"
        assert await run("dig", "@::1", "+short", "kubernetes.default.svc.cluster.local") == "10.96.0.1\n"
        text = await run("nslookup", "_https._tcp.kubernetes.default.svc.cluster.local", "127.0.0.1")
        assert "Address: 10.96.0.1" in text
        text = await run("nslookup", "10-244-1-101.default.pod.cluster.local", "127.0.0.1")
        assert "Address: 10.244.1.101" in text
        text = await run("nslookup", "10.96.0.1", "127.0.0.1")
        assert "kubernetes.default.svc.cluster.local" in text
        assert "NXDOMAIN" in await run("dig", "@127.0.0.1", "nope.default.svc.cluster.local")


async def test_hostile_datagrams_do_not_stop_it() -> None:
    async with serving():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for size in range(0, 600, 3):
                s.sendto(os.urandom(size), ("127.0.0.1", 53))
        text = await run("dig", "@127.0.0.1", "+short", "kubernetes.default.svc.cluster.local")
        assert text == "10.96.0.1\n"
