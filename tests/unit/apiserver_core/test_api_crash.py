"""kill -9 of the server under writes: every answered write is there afterwards, and no revision twice."""

import asyncio
import contextlib
import signal
import sys

from podwire.apiserver.store.sqlite import SqliteStore
from podwire.client.errors import ApiError
from podwire.client.http import HttpClient, from_kubeconfig
from podwire.model.objects import Key
from podwire.model.resources import CONFIGMAPS


def config_map(name):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}


async def start(directory):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "podwire.apiserver", "--dir", str(directory), stdout=asyncio.subprocess.PIPE
    )
    assert (await process.stdout.readline()).startswith(b"ready")
    return process


async def write(client, prefix, answered):
    with contextlib.suppress(ApiError):
        for n in range(100_000):
            made = await client.create(CONFIGMAPS, config_map(f"{prefix}-{n}"))
            answered[made["metadata"]["name"]] = made["metadata"]["resourceVersion"]


async def test_answered_writes_survive_kill_nine(tmp_path):
    answered = {}
    for turn in range(3):
        process = await start(tmp_path)
        client = HttpClient(from_kubeconfig(tmp_path / "kubeconfig"))
        writers = [asyncio.create_task(write(client, f"t{turn}-w{w}", answered)) for w in range(8)]
        while len(answered) < 150 * (turn + 1):
            await asyncio.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await asyncio.gather(*writers)
        await client.close()
    store = SqliteStore(tmp_path / "store.db")
    for name, version in answered.items():
        row = store.get("configmaps", Key("default", name))
        assert row is not None, name
        assert str(row.revision) == version
    assert len(set(answered.values())) == len(answered)
    store.close()
