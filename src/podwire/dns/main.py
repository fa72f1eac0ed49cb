"""The program `coredns` of the image podwire/coredns: runs in a pod, as any cluster DNS does."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from podwire.client.http import HttpClient, in_cluster
from podwire.dns.agent import DnsAgent
from podwire.dns.corefile import Settings, parse_corefile
from podwire.model.errors import BadInput, Problem
from podwire.runtime.logging import get

_log = get("dns")


def main(argv: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT. Exits with 1 and a message when the Corefile or a port is no good."""
    parser = argparse.ArgumentParser(prog="coredns", description="The cluster's DNS server.")
    parser.add_argument("-conf", default="/etc/coredns/Corefile", metavar="FILE", help="the Corefile")
    path = Path(parser.parse_args(list(argv)).conf)
    try:
        settings = read_corefile(path)
        _run(_serve(settings, path))
    except (BadInput, OSError) as error:
        print(f"coredns: {error}", file=sys.stderr)
        sys.exit(1)


def read_corefile(path: Path) -> Settings:
    """Return the settings of a file. Raises BadInput."""
    try:
        text = path.read_text()
    except OSError as error:
        raise BadInput(Problem(str(path), "", error.strerror or str(error))) from error
    return parse_corefile(text, str(path))


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


async def _serve(settings: Settings, path: Path) -> None:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise BadInput(Problem("environment", "KUBERNETES_SERVICE_HOST", "not set: this program runs in a pod"))
    client = HttpClient(in_cluster(host, port), user_agent="coredns (podwire)")
    try:
        agent = DnsAgent(settings, client)
        serving = asyncio.ensure_future(agent.run())
        told = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, told.set)
        reloading = asyncio.ensure_future(_reload(agent, path, settings))
        stopping = asyncio.ensure_future(_leave(agent, told, lambda: settings.lameduck_s))
        done, pending = await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in (*pending, reloading):
            task.cancel()
        await asyncio.gather(*pending, reloading, return_exceptions=True)
        for task in done:
            _raise_plain(task)
    finally:
        await client.close()


def _raise_plain(task: asyncio.Future[None]) -> None:
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error


async def _leave(agent: DnsAgent, told: asyncio.Event, lameduck_s: Callable[[], float]) -> None:
    """Unready first, so that Services stop sending; the answers go on until they have."""
    await told.wait()
    agent.draining = True
    _log.info("leaving", lameduck_s=lameduck_s())
    await asyncio.sleep(lameduck_s())


async def _reload(agent: DnsAgent, path: Path, settings: Settings) -> None:
    """Look at the file now and then; a mistake in it leaves the settings as they are, and says so once."""
    complained = ""
    while settings.reload_s:
        await asyncio.sleep(settings.reload_s)
        try:
            fresh = read_corefile(path)
        except BadInput as error:
            if str(error) != complained:
                complained = str(error)
                _log.error("corefile-refused", error=complained, hint="the former one stays in force")
            continue
        complained = ""
        if fresh != settings:
            settings = fresh
            agent.reconfigure(fresh)
            _log.info("reloaded", file=path)
