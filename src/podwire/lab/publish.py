"""`--publish`: a port of 127.0.0.1 on the host that leads to a Service.

The listening socket was opened on the host; this process inherits it and lives in node-0's namespaces, where the
Service's cluster IP works as on any node. Nothing is routed: bytes are copied.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.lab.config import Publish
from podwire.model.objects import Key, Obj
from podwire.model.resources import SERVICES
from podwire.runtime.logging import get

log = get("publish")


async def run(client: Client, pairs: Sequence[tuple[Publish, socket.socket]], ready: Callable[[], None]) -> None:
    """Relay until cancelled."""
    services = Informer(client, SERVICES)
    async with asyncio.TaskGroup() as group:
        group.create_task(services.run())
        await services.synced.wait()
        for publish, listener in pairs:
            relay = Relay(publish, services)
            server = await asyncio.start_server(relay.serve, sock=listener)
            group.create_task(server.serve_forever())
        ready()


class Relay:
    """One published port."""

    def __init__(self, publish: Publish, services: Informer) -> None:
        self._publish, self._services = publish, services

    def _target(self) -> tuple[str, int] | str:
        """Return the Service's address and port, or why there is none."""
        key = Key(self._publish.namespace, self._publish.service)
        service: Obj | None = self._services.objects.get(key)
        if service is None:
            return f"there is no Service {key}"
        ip = service["spec"].get("clusterIP")
        if not ip or ip == "None":
            return f"Service {key} has no cluster IP"
        for port in service["spec"].get("ports") or ():
            if self._publish.service_port in (str(port["port"]), port.get("name")):
                return ip, port["port"]
        return f"Service {key} has no port {self._publish.service_port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        target = self._target()
        if isinstance(target, str):
            log.warning("refused", publish=self._publish, why=target)
            writer.close()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError as error:
            log.warning("unreachable", publish=self._publish, to=f"{target[0]}:{target[1]}", why=error)
            writer.close()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, far_writer))
            group.create_task(_copy(far_reader, writer))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy until the end of ``source``, then close that direction of ``sink``."""
    try:
        while chunk := await source.read(1 << 16):
            sink.write(chunk)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except OSError:
        sink.close()
