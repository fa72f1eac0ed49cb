"""The endpoint as it really runs: TLS with client certificates, on uvloop, streams taken over from both."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import pytest
import uvloop

from podwire.apiserver import pki
from podwire.client.fake import FakeClient
from podwire.model.objects import is_ready
from podwire.model.resources import PODS
from podwire.node import agent
from podwire.node.config import NodeConfig
from podwire.node.fake_network import FakeNetwork
from podwire.node.runtime.fake import ExecAnswer, FakeRuntime
from podwire.wire import spdy

PORT = 41250


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> pki.Pki:
    return pki.ensure(tmp_path_factory.mktemp("pki"))


def context(keys: pki.Pki, pair: pki.KeyPair | None, scratch: Path) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=keys.authority.cert_pem)
    if pair is not None:
        (scratch / "pair.pem").write_text(pair.cert_pem + pair.key_pem)
        made.load_cert_chain(scratch / "pair.pem")
    return made


def with_node(keys: pki.Pki, tmp_path: Path, act: Callable[[FakeClient], Awaitable[None]]) -> None:
    """Run ``act`` beside a node with one pod "web"."""

    async def main() -> None:
        pair = pki.mint(keys.authority, "system:node:node-0", ("system:nodes",), addresses=[ip_address("127.0.0.1")])
        client = FakeClient()
        runtime = FakeRuntime(exec_answer=lambda s, c: ExecAnswer(0, b"x" * 60_000, b""))
        config = NodeConfig(
            "node-0",
            (ip_address("127.0.0.1"),),
            state_dir=tmp_path / "s",
            log_dir=tmp_path / "l",
            port=PORT,
            tls_cert_pem=pair.cert_pem,
            tls_key_pem=pair.key_pem,
            client_ca_pem=keys.authority.cert_pem,
        )
        task = asyncio.create_task(agent.run(config, client, runtime, FakeNetwork()))
        spec = {"nodeName": "node-0", "hostNetwork": True, "containers": [{"name": "c", "image": "nginx"}]}
        await client.create(PODS, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
        async with asyncio.timeout(10):
            while not is_ready(await client.get(PODS, "web", "default")):
                await asyncio.sleep(0.01)
            await act(client)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_only_trusted_certificates(keys: pki.Pki, tmp_path: Path):
    async def act(client: FakeClient) -> None:
        async with aiohttp.ClientSession() as session:
            url = f"https://127.0.0.1:{PORT}/healthz"
            async with session.get(url, ssl=context(keys, keys.kubelet_client, tmp_path)) as response:
                assert (response.status, await response.text()) == (200, "ok")
            stranger = pki.mint(keys.authority, "system:node:node-1", ("system:nodes",))
            async with session.get(url, ssl=context(keys, stranger, tmp_path)) as response:
                assert response.status == 403
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                async with session.get(url, ssl=context(keys, None, tmp_path)) as response:
                    await response.read()

    with_node(keys, tmp_path, act)


async def _exec(keys: pki.Pki, scratch: Path) -> tuple[bytes, bytes]:
    """Return stdout and error of an exec over raw SPDY in TLS."""
    tls = context(keys, keys.kubelet_client, scratch)
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT, ssl=tls)
    writer.write(
        b"POST /exec/default/web/c?command=x&output=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
        b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    connection = spdy.Connection(server=False)
    error, stdout = (connection.open({"streamType": kind}) for kind in ("error", "stdout"))
    writer.write(connection.take())
    got = {error: b"", stdout: b""}
    while raw := await reader.read(65536):
        for event in connection.receive(raw):
            if isinstance(event, spdy.DataReceived):
                got[event.stream] += event.data
    writer.close()
    return got[stdout], got[error]


def test_spdy_within_tls(keys: pki.Pki, tmp_path: Path):
    async def act(client: FakeClient) -> None:
        for stdout, error in await asyncio.gather(*(_exec(keys, tmp_path) for _ in range(5))):
            assert stdout == b"x" * 60_000
            assert b'"Success"' in error

    with_node(keys, tmp_path, act)
