"""A whole API server in the test's own event loop, on a loopback socket without TLS."""

import asyncio
import socket
from dataclasses import dataclass

import orjson
import pytest

from podwire.apiserver.agent import Config, serve
from podwire.apiserver.values import User
from podwire.client.http import Access, HttpClient
from podwire.model.resources import SERVICEACCOUNTS

ADMIN = User("admin", groups=("system:masters", "system:authenticated"))
ALICE = User("alice", groups=("system:authenticated",))


@dataclass
class Api:
    """The client, and raw requests for what it does not do."""

    client: HttpClient
    url: str

    async def call(self, method, path, body=None, headers=None, token="admin"):
        """Return (status, decoded or text, headers)."""
        given = {"Authorization": f"Bearer {token}", **(headers or {})}
        if isinstance(body, dict):
            body = orjson.dumps(body)
            given.setdefault("Content-Type", "application/json")
        async with self.client._session.request(method, path, data=body, headers=given) as response:
            raw = await response.read()
            try:
                return response.status, orjson.loads(raw), response.headers
            except orjson.JSONDecodeError:
                return response.status, raw.decode(), response.headers


class Running:
    """Starts and stops servers on one directory."""

    def __init__(self, directory):
        self.directory = directory
        self._task = None
        self._client = None

    async def start(self, **options):
        """Return the Api of a started server."""
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = Config(
            self.directory,
            plain_sockets=(listener,),
            static_tokens={"admin": ADMIN, "alice": ALICE},
            **options,
        )
        ready = asyncio.Event()
        self._task = asyncio.create_task(serve(config, ready=ready.set))
        waiter = asyncio.create_task(ready.wait())
        await asyncio.wait([self._task, waiter], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            waiter.cancel()
            self._task.result()
        self._client = HttpClient(Access(url, token="admin"))
        return Api(self._client, url)

    async def stop(self):
        """Stop the server, if it runs."""
        if self._client is not None:
            await self._client.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = self._client = None


@pytest.fixture
async def running(tmp_path):
    """A server's directory, to start and stop servers on."""
    made = Running(tmp_path / "state")
    yield made
    await made.stop()


@pytest.fixture
async def api(running):
    """A running API with the default ServiceAccount made."""
    made = await running.start()
    await made.client.create(
        SERVICEACCOUNTS,
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}},
    )
    return made
