"""One look at a container: exec, httpGet, tcpSocket or grpc. From the node's network namespace."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from podwire.model.errors import MachineError
from podwire.node.runtime.port import RuntimePort
from podwire.node.runtime.values import Container
from podwire.node.streams.pipes import read_all
from podwire.wire.grpc_health import SERVING, STATUS_NAMES, HealthCheck

_MAX_BODY_BYTES = 10 << 10
_MAX_REDIRECTS = 10


@dataclass(frozen=True, slots=True)
class Target:
    """What is looked at."""

    container: Container
    spec: Mapping[str, Any]  # the container in the pod's spec: named ports
    host: str  # the pod's address


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it looked; ``output`` is what an event says."""

    ok: bool
    output: str = ""


async def check(handler: Mapping[str, Any], target: Target, runtime: RuntimePort, timeout_s: float) -> Outcome:
    """Return how the container answered. Never raises but for cancellation."""
    try:
        async with asyncio.timeout(timeout_s):
            if "exec" in handler:
                return await check_exec(handler["exec"].get("command") or (), target.container, runtime)
            if "httpGet" in handler:
                return await check_http(handler["httpGet"], target)
            if "tcpSocket" in handler:
                return await _check_tcp(handler["tcpSocket"], target)
            if "grpc" in handler:
                return await _check_grpc(handler["grpc"], target)
            return Outcome(False, "missing probe handler")
    except TimeoutError:
        return Outcome(False, f"probe timed out after {timeout_s:g}s")
    except MachineError as error:
        return Outcome(False, str(error.cause))
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        return Outcome(False, str(error) or type(error).__name__)


async def check_exec(command: Sequence[str], container: Container, runtime: RuntimePort) -> Outcome:
    """Run a command in the container; exit code 0 is success."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        session = await runtime.exec(container.spec.id, command, stdout=writer, stderr=writer)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    output = asyncio.ensure_future(read_all(reader, _MAX_BODY_BYTES))
    try:
        code = await session.wait()
        done, _ = await asyncio.wait({output}, timeout=1.0)  # a child may hold the pipe open
        text = output.result().decode("utf-8", "replace") if done else ""
        return Outcome(code == 0, text)
    except BaseException:
        await session.kill()
        raise
    finally:
        output.cancel()
        await asyncio.gather(output, return_exceptions=True)


def port_number(port: Any, container: Mapping[str, Any]) -> int:
    """Return the number of a port given by number or by name. Raises ValueError."""
    if isinstance(port, int) or str(port).isdigit():
        return int(port)
    for declared in container.get("ports") or ():
        if declared.get("name") == port:
            return int(declared["containerPort"])
    raise ValueError(f"couldn't find port: {port}")


async def check_http(action: Mapping[str, Any], target: Target) -> Outcome:
    """GET; 200 to 399 is success. Redirects are followed on the same host only."""
    host = action.get("host") or target.host
    scheme = (action.get("scheme") or "HTTP").lower()
    port = port_number(action["port"], target.spec)
    path = action.get("path") or "/"
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    url = f"{scheme}://{netloc}{path if path.startswith('/') else '/' + path}"
    headers = {h["name"]: h.get("value", "") for h in action.get("httpHeaders") or ()}
    for _ in range(_MAX_REDIRECTS):
        code, location, body = await _get(url, headers)
        if location and 300 <= code < 400:
            following = urljoin(url, location)
            if urlsplit(following).hostname == urlsplit(url).hostname:
                url = following
                continue
        if 200 <= code < 400:
            return Outcome(True, body)
        return Outcome(False, f"HTTP probe failed with statuscode: {code}")
    return Outcome(False, f'Get "{url}": stopped after {_MAX_REDIRECTS} redirects')


async def _get(url: str, headers: Mapping[str, str]) -> tuple[int, str, str]:
    """Return status code, Location and the body's start."""
    parts = urlsplit(url)
    context = None
    if parts.scheme == "https":  # probes do not verify certificates
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = parts.port or (443 if context else 80)
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
    except OSError as error:
        raise OSError(f'Get "{url}": dial tcp {parts.netloc}: connect: {error.strerror or error}') from error
    try:
        sent = {"Host": parts.netloc, "User-Agent": "kube-probe/1.36", "Accept": "*/*", **headers}
        query = f"?{parts.query}" if parts.query else ""
        lines = [f"GET {parts.path or '/'}{query} HTTP/1.1", *(f"{k}: {v}" for k, v in sent.items())]
        writer.write(("\r\n".join(lines) + "\r\nConnection: close\r\n\r\n").encode())
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *rest = head.split("\r\n")
        fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)}
        length = fields.get("content-length", "")
        limit = min(_MAX_BODY_BYTES, int(length)) if length.isdigit() else _MAX_BODY_BYTES
        body = await reader.read(limit) if limit else b""
        return int(status.split()[1]), fields.get("location", ""), body.decode("utf-8", "replace")
    except IndexError as error:
        raise ValueError(f'Get "{url}": malformed HTTP response') from error
    finally:
        writer.close()


async def _check_tcp(action: Mapping[str, Any], target: Target) -> Outcome:
    host = action.get("host") or target.host
    port = port_number(action["port"], target.spec)
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return Outcome(False, f"dial tcp {host}:{port}: connect: {error.strerror or error}")
    writer.close()
    return Outcome(True)


async def _check_grpc(action: Mapping[str, Any], target: Target) -> Outcome:
    port = int(action["port"])
    call = HealthCheck(f"{target.host}:{port}", action.get("service") or "")
    try:
        reader, writer = await asyncio.open_connection(target.host, port)
    except OSError as error:
        return Outcome(False, f'timeout: failed to connect service "{target.host}:{port}": {error}')
    try:
        writer.write(call.start())
        while not call.finished:
            data = await reader.read(65536)
            if not data:
                call.end()
            writer.write(call.receive(data))
        if call.status == SERVING:
            return Outcome(True, "SERVING")
        state = STATUS_NAMES.get(-1 if call.status is None else call.status, call.failure)
        return Outcome(False, f'service unhealthy (responded with "{state}")')
    finally:
        writer.close()
