"""Every scenario, served on loopback by the real server and read by dig."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import dnsworld
import pytest

from podwire.client.fake import FakeClient
from podwire.dns.agent import DnsAgent
from podwire.kernel import libc
from podwire.model.resources import ENDPOINTSLICES, NAMESPACES, PODS, SERVICES

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(not shutil.which("dig"), reason="needs dig")]
RESOURCES = {"Service": SERVICES, "EndpointSlice": ENDPOINTSLICES, "Namespace": NAMESPACES, "Pod": PODS}


@asynccontextmanager
async def served(case: Path) -> AsyncIterator[DnsAgent]:
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        libc.unshare(libc.CLONE_NEWNET)
    except OSError as error:
        os.close(before)
        pytest.skip(f"no network namespace: {error}")
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        client = FakeClient()
        for o in dnsworld.objects(case):
            client.seed(RESOURCES[o["kind"]], o)
        settings = replace(dnsworld.settings(case), port=5353, health=None, ready=None, prometheus=None, forwards=())
        agent = DnsAgent(settings, client)
        task = asyncio.create_task(agent.run())
        try:
            async with asyncio.timeout(5):
                await agent.ready.wait()
            yield agent
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    finally:
        libc.setns(before, libc.CLONE_NEWNET)
        os.close(before)


async def dig(file: Path, *more: str) -> list[tuple[str, list[str]]]:
    """Return (status, answer records) of every question in the file."""
    process = await asyncio.create_subprocess_exec(
        "dig", "@127.0.0.1", "-p", "5353", *more, "+tries=1", "+time=2", "-f", str(file), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    found = []
    for part in re.split(r"^;; ->>HEADER<<- ", out.decode(), flags=re.MULTILINE)[1:]:
        status = re.search(r"status: (\w+)", part)
        answer = re.search(r"ANSWER SECTION:\n(.*?)\n\n", part, re.DOTALL)
        rows = [line.split(None, 4) for line in answer[1].splitlines()] if answer else []
        assert status is not None
        found.append((status[1], sorted(f"{row[3]} {row[4]}" for row in rows)))
    return found


@pytest.mark.parametrize("case", dnsworld.SCENARIOS, ids=lambda c: c.name)
async def test_dig_reads_every_answer(case: Path, tmp_path: Path) -> None:
    asked = [q for q in dnsworld.questions(case) if q.tools and q.rcode != "FORWARDED"]
    file = tmp_path / "questions"
    file.write_text("".join(f"{q.name} {q.type}\n" for q in asked))
    async with served(case):
        for more in ((), ("+tcp",)):
            seen = await dig(file, *more)
            expected = [("NOERROR" if q.rcode == "NODATA" else q.rcode, sorted(q.answer)) for q in asked]
            assert seen == expected
