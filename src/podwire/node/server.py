"""The kubelet's HTTPS endpoint, port 10250: logs, exec, attach, port-forward, usage.

Client certificates of the cluster's CA only, and of those only the groups in ``NodeConfig.trusted_groups``:
who may reach a pod's streams is the API server's to decide, and it asks as system:masters.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from podwire.kernel.netns.port import NetnsPort
from podwire.model.objects import Key, timestamp
from podwire.node import logs, usage
from podwire.node.config import NodeConfig
from podwire.node.pod.worker import PodWorker
from podwire.node.runtime.values import Container
from podwire.node.streams import portforward, remote, session
from podwire.node.streams.link import RawLink, Upgraded, WebSocketLink, take_over
from podwire.node.streams.spdysession import SpdySession
from podwire.runtime.logging import get

if TYPE_CHECKING:
    from podwire.node.agent import Agent

_log = get("node")
_STREAMS_WITHIN_S: Final = 30.0
_BIND_AGAIN_S: Final = 1.0


async def serve(agent: Agent, netns: NetnsPort | None) -> None:
    """Serve until cancelled."""
    runner = web.AppRunner(Endpoint(agent, netns).app(), access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    context = tls_context(agent.config)
    try:
        waiting = list(agent.config.bind or map(str, agent.config.addresses))
        while True:
            waiting = [host for host in waiting if not await _bind(runner, host, agent.config, context)]
            await agent.node.clock.sleep(_BIND_AGAIN_S if waiting else 3600.0)
    finally:
        await runner.cleanup()


async def _bind(runner: web.AppRunner, host: str, config: NodeConfig, context: ssl.SSLContext) -> bool:
    site = web.TCPSite(runner, host, config.port, ssl_context=context, reuse_address=True)
    try:
        await site.start()
        return True
    except OSError as error:
        _log.warning("endpoint-not-bound", node=config.name, host=host, port=config.port, error=str(error))
        await site.stop()
        return False


def tls_context(config: NodeConfig) -> ssl.SSLContext:
    """Return a context with the node's certificate that demands one of the cluster's CA from clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(cadata=config.client_ca_pem)
    context.verify_mode = ssl.CERT_REQUIRED
    # OpenSSL reads key pairs from files only; the file is gone before this returns.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
        pair.write(config.tls_cert_pem + "\n" + config.tls_key_pem)
        pair.flush()
        context.load_cert_chain(pair.name)
    return context


class Endpoint:
    """The routes."""

    def __init__(self, agent: Agent, netns: NetnsPort | None) -> None:
        self._agent, self._netns = agent, netns

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._authorize])
        routes: list[tuple[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = [
            ("/healthz", self._healthz),
            ("/pods", self._pods),
            ("/stats/summary", self._summary),
            ("/metrics/resource", self._metrics),
            ("/containerLogs/{namespace}/{pod}/{container}", self._logs),
        ]
        for path, answer in routes:
            app.router.add_get(path, answer)
        for verb, act in (("exec", self._exec), ("attach", self._attach)):
            app.router.add_route("*", f"/{verb}/{{namespace}}/{{pod}}/{{container}}", act)
            app.router.add_route("*", f"/{verb}/{{namespace}}/{{pod}}/{{uid}}/{{container}}", act)
        app.router.add_route("*", "/portForward/{namespace}/{pod}", self._port_forward)
        app.router.add_route("*", "/portForward/{namespace}/{pod}/{uid}", self._port_forward)
        return app

    @web.middleware
    async def _authorize(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        trusted = self._agent.config.trusted_groups
        certificate = request.get_extra_info("peercert")
        if certificate is not None and not trusted & _groups(certificate):
            return web.Response(status=403, text="Forbidden: the certificate names no group that may ask this\n")
        return await handler(request)

    # -- plain answers

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _pods(self, request: web.Request) -> web.Response:
        items = [w.pod | {"status": w.status()} for w in self._agent.workers.values()]
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def _summary(self, request: web.Request) -> web.Response:
        sample = await usage.observe(self._agent)
        return web.Response(body=orjson.dumps(usage.summary(sample)), content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=usage.metrics(await usage.observe(self._agent)))

    # -- logs

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        worker = self._worker(request)
        name = request.match_info["container"]
        attempts = worker.records.attempts(name)
        previous = _flag(request, "previous")
        if previous:
            attempts = attempts[:-1]
        if not attempts:
            pod = request.match_info["pod"]
            if previous:
                why = f'previous terminated container "{name}" in pod "{pod}" not found'
            else:
                why = f'container "{name}" in pod "{pod}" is waiting to start: {worker.why_waiting(name)}'
            raise web.HTTPBadRequest(text=why)
        return await self._send_log(request, worker, attempts[-1])

    async def _send_log(self, request: web.Request, worker: PodWorker, container: Container) -> web.StreamResponse:
        id, options = container.spec.id, self._log_options(request)

        def ended() -> bool:
            now = [c for c in worker.records.all() if c.spec.id == id]
            return not now or now[0].state == "exited"

        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        pieces = logs.read(container.spec.log_path, options, ended, self._agent.node.clock)
        try:
            async for piece in pieces:
                if piece:
                    await response.write(piece)
            await response.write_eof()
        except ConnectionError:
            pass  # the reader left
        return response

    def _log_options(self, request: web.Request) -> logs.LogOptions:
        query = request.query
        since = query.get("sinceTime", "")
        if query.get("sinceSeconds"):
            ago = timedelta(seconds=int(query["sinceSeconds"]))
            since = timestamp(self._agent.node.clock.now() - ago)
        stream = query.get("stream", "All").lower()
        return logs.LogOptions(
            follow=_flag(request, "follow"),
            timestamps=_flag(request, "timestamps"),
            tail_lines=_number(query.get("tailLines")),
            limit_bytes=_number(query.get("limitBytes")),
            since=since,
            stream="" if stream == "all" else stream,
        )

    # -- streams

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        container = self._running(request)
        command = request.query.getall("command", [])
        if not command:
            raise web.HTTPBadRequest(text="you must specify at least 1 command")

        async def work(options: session.Options, far: remote.Remote) -> None:
            runtime = self._agent.node.runtime
            await far.finish(await session.run_exec(runtime, container.spec.id, command, options, far))

        return await self._stream(request, work)

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        container = self._running(request)

        async def work(options: session.Options, far: remote.Remote) -> None:
            runtime = self._agent.node.runtime
            await far.finish(await session.run_attach(runtime, container.spec.id, options, far))

        return await self._stream(request, work)

    async def _stream(
        self,
        request: web.Request,
        work: Callable[[session.Options, remote.Remote], Awaitable[None]],
    ) -> web.StreamResponse:
        options = _options(request)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _over_websocket(request, options, work)
        return await _over_spdy(request, options, work)

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        worker = self._worker(request)
        place = worker.home.place
        if place is None:
            raise web.HTTPBadRequest(text="unable to forward port because pod is not running")
        path: Path | None = place.attachment.netns if place.attachment is not None else None
        connect = portforward.connector(self._netns, path)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            headers = _spdy_headers(request, (portforward.PROTOCOL,))
            link = await take_over(request, headers)
            await _until_closed(request, link, portforward.serve_spdy(SpdySession(link), connect))
            return Upgraded()
        ws = web.WebSocketResponse(protocols=(portforward.TUNNEL_PROTOCOL, *remote.WEBSOCKET_PROTOCOLS), max_msg_size=0)
        await ws.prepare(request)
        if ws.ws_protocol == portforward.TUNNEL_PROTOCOL:
            await portforward.serve_spdy(SpdySession(WebSocketLink(ws)), connect)
        else:
            asked = [*request.query.getall("ports", []), *request.query.getall("port", [])]
            ports = [int(p) for text in asked for p in text.split(",") if p]
            await portforward.serve_channels(ws, ports, connect)
        if not ws.closed:
            await ws.close()
        return ws

    # -- who is meant

    def _worker(self, request: web.Request) -> PodWorker:
        key = Key(request.match_info["namespace"], request.match_info["pod"])
        worker = self._agent.worker_of(*key)
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{key.name}" in namespace "{key.namespace}" is not on this node')
        return worker

    def _running(self, request: web.Request) -> Container:
        name = request.match_info["container"]
        container = self._worker(request).records.newest(name)
        if container is None or container.state != "running":
            raise web.HTTPNotFound(text=f'container not found ("{name}")')
        return container


def _groups(certificate: object) -> frozenset[str]:
    """Return the organizations that a verified peer certificate (``getpeercert``) names."""
    subject = certificate.get("subject", ()) if isinstance(certificate, dict) else ()
    return frozenset(value for part in subject for name, value in part if name == "organizationName")


def _flag(request: web.Request, *names: str) -> bool:
    return any(request.query.get(n, "").lower() in ("1", "true") for n in names)


def _number(text: str | None) -> int | None:
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"{text!r} is no number") from None


def _options(request: web.Request) -> session.Options:
    """Return the streams asked for, in the kubelet's words (input, output, error) or the API's."""
    tty = _flag(request, "tty")
    options = session.Options(
        _flag(request, "input", "stdin"),
        _flag(request, "output", "stdout"),
        _flag(request, "error", "stderr") and not tty,  # a terminal has one output
        tty,
    )
    if not (options.stdin or options.stdout or options.stderr):
        raise web.HTTPBadRequest(text="you must specify at least 1 of stdin, stdout, stderr")
    return options


async def _over_websocket(
    request: web.Request,
    options: session.Options,
    work: Callable[[session.Options, remote.Remote], Awaitable[None]],
) -> web.StreamResponse:
    ws = web.WebSocketResponse(protocols=remote.WEBSOCKET_PROTOCOLS, max_msg_size=0)
    await ws.prepare(request)
    far = remote.WebSocketRemote(ws)
    await far.greet(remote.STDOUT if options.stdout else remote.STDERR if options.stderr else remote.ERROR)
    reading = asyncio.ensure_future(far.run())
    try:
        await work(options, far)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return ws


async def _over_spdy(
    request: web.Request,
    options: session.Options,
    work: Callable[[session.Options, remote.Remote], Awaitable[None]],
) -> web.StreamResponse:
    headers = _spdy_headers(request, remote.SPDY_PROTOCOLS)
    protocol = headers["X-Stream-Protocol-Version"]
    link = await take_over(request, headers)
    spdy = SpdySession(link)
    wanted = {"error"} | {k for k in ("stdin", "stdout", "stderr") if getattr(options, k)}
    if options.tty and protocol in ("v4.channel.k8s.io", "v3.channel.k8s.io"):
        wanted.add("resize")

    async def joined() -> None:
        reading = asyncio.ensure_future(spdy.run())
        try:
            streams = await remote.gather_streams(spdy, wanted, _STREAMS_WITHIN_S)
            await work(options, remote.SpdyRemote(spdy, streams, protocol))
        except (TimeoutError, ConnectionError) as error:
            _log.debug("streams-missing", error=str(error))
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    await _until_closed(request, link, joined())
    return Upgraded()


async def _until_closed(request: web.Request, link: RawLink, work: Awaitable[None]) -> None:
    try:
        await work
    finally:
        link.close()
        request.protocol.force_close()


def _spdy_headers(request: web.Request, known: tuple[str, ...]) -> dict[str, str]:
    """Return the headers of the 101 answer, with the first protocol of the client that we know."""
    if not request.headers.get("Upgrade", "").lower().startswith("spdy/3.1"):
        raise web.HTTPBadRequest(text="unable to upgrade: missing upgrade headers in request")
    offered = [p.strip() for v in request.headers.getall("X-Stream-Protocol-Version", []) for p in v.split(",")]
    chosen = next((p for p in offered if p in known), None)
    if chosen is None:
        if offered:
            raise web.HTTPForbidden(text=f"unable to upgrade: unable to negotiate protocol: {', '.join(offered)}")
        chosen = known[-1]
    return {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": chosen}
