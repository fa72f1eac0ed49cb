"""The shim's own life: what outlives whom, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from podwire.node.runtime.real import RealRuntime
from podwire.node.runtime.values import Container, ContainerSpec, PortSpec, SandboxSpec

pytestmark = pytest.mark.kernel


class Shim(Protocol):
    """The fixture's shim process."""

    socket: Path
    rootless: bool
    shim_pid: int

    def descendants(self) -> list[int]: ...
    def kill(self) -> None: ...


def is_gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


async def until_gone(pids: list[int]) -> None:
    for _ in range(500):
        if all(is_gone(pid) for pid in pids):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("still there")


async def test_containers_outlive_the_agent(
    real: RealRuntime, shim: Shim, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await real.run_sandbox(sandbox_spec)
    started = await real.start_container(spec)
    await real.close()
    again = RealRuntime(shim.socket)
    assert await again.containers() == (started,)
    assert (await again.stop_container(spec.id, 0)).exit_code == 137
    await again.close()


async def test_a_new_shim_is_found_and_lost_containers_are_announced(
    shared: Path,
    sandbox_spec: SandboxSpec,
    spec: ContainerSpec,
    start_another: Callable[[], Shim],
) -> None:
    first = start_another()
    real = RealRuntime(first.socket)
    events = real.events()
    told = asyncio.ensure_future(anext(events))
    await real.run_sandbox(sandbox_spec)
    await real.start_container(spec)
    containers = first.descendants()[2:]
    os.kill(first.shim_pid, signal.SIGKILL)
    await until_gone(containers)
    assert len(containers) == 1
    start_another()
    event = await asyncio.wait_for(told, 10)
    assert (event.container.spec.id, event.container.reason) == (spec.id, "ContainerStatusUnknown")
    assert await real.containers() == ()
    await real.close()


async def test_nothing_is_left_of_removed_pods(
    real: RealRuntime, shim: Shim, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await real.version()
    pid = shim.shim_pid
    before = sorted(os.listdir(f"/proc/{pid}/fd"))

    async def live(number: int) -> None:
        id = f"uid-{number}"
        sandbox = replace(sandbox_spec, id=id, share_process_namespace=number % 4 == 0)
        await real.run_sandbox(sandbox)
        image = "nginx" if number % 2 else "busybox"
        command = () if number % 2 else ("sleep", "9")
        await real.start_container(
            replace(
                spec,
                id=f"c-{number}",
                sandbox_id=id,
                image=image,
                command=command,
                tty=number % 3 == 0,
                stdin=number % 5 == 0,
                log_path=spec.log_path.with_name(f"{number}.log"),
            )
        )
        assert await (await real.exec(f"c-{number}", ["true"])).wait() == 0
        attached = await real.attach(f"c-{number}")
        await real.stop_sandbox(id)
        await attached.close()
        await real.remove_sandbox(id)

    await asyncio.gather(*(live(n) for n in range(20)))
    assert await real.containers() == ()
    for _ in range(100):
        if sorted(os.listdir(f"/proc/{pid}/fd")) == before and len(shim.descendants()) == 2:
            break
        await asyncio.sleep(0.02)
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == before
    assert len(shim.descendants()) == 2
    root = Path(f"/proc/{pid}/root/run/podwire")
    if os.access(root, os.R_OK):
        assert os.listdir(root / "containers") == []
        assert os.listdir(root / "netns") == []


async def test_the_shim_ends_its_containers_when_told_to_leave(
    real: RealRuntime, shim: Shim, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await real.run_sandbox(sandbox_spec)
    await real.start_container(spec)
    await real.exec(spec.id, ["sleep", "1000"])
    inside = shim.descendants()
    assert len(inside) == 4
    os.kill(shim.shim_pid, signal.SIGTERM)
    await until_gone(inside[1:])


async def test_long_lists_and_long_specifications(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await real.run_sandbox(sandbox_spec)
    long = replace(spec, env=tuple((f"NAME_{n}", "v" * 1000) for n in range(500)))
    for number in range(6):
        await real.start_container(replace(long, id=f"c-{number}"))
    listed = await real.containers()
    assert [c.spec for c in listed] == [replace(long, id=f"c-{n}") for n in range(6)]


async def test_many_starts_at_once(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    async def start(number: int) -> Container:
        id = f"uid-{number}"
        await real.run_sandbox(replace(sandbox_spec, id=id, hostname=f"host-{number}"))
        server = replace(spec, id=f"c-{number}", sandbox_id=id, image="nginx", command=(), ports=(PortSpec(80),))
        return await real.start_container(replace(server, log_path=spec.log_path.with_name(f"{number}.log")))

    started = await asyncio.gather(*(start(n) for n in range(30)))
    assert {c.state for c in started} == {"running"}
    reader, writer = os.pipe()
    session = await real.exec(
        "c-7", ["curl", "-s", "--retry-connrefused", "--retry", "5", "http://127.0.0.1/hostname"], stdout=writer
    )
    os.close(writer)
    assert await session.wait() == 0
    assert os.read(reader, 100) == b"host-7"
    os.close(reader)


async def test_a_built_in_server_is_small(
    real: RealRuntime, shim: Shim, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    if shim.rootless and os.getuid() != 0:
        pytest.skip("cannot look into another user's process")
    await real.run_sandbox(sandbox_spec)
    await real.start_container(replace(spec, image="nginx", command=()))
    await asyncio.sleep(0.3)
    pid = shim.descendants()[-1]
    private_kb = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean", "Private_Dirty")):
            private_kb += int(line.split()[1])
    assert private_kb <= 6 * 1024
