"""What every runtime does, the one that runs nothing included."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from podwire.model.errors import MachineError
from podwire.node.runtime.port import RuntimePort
from podwire.node.runtime.values import Container, ContainerSpec, SandboxSpec

pytestmark = pytest.mark.kernel


async def _next_exit(runtime: RuntimePort, ready: asyncio.Event) -> Container:
    events = runtime.events()
    task = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.05)
    ready.set()
    return (await task).container


async def test_runs_and_forgets_a_pod(runtime: RuntimePort, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    sandbox = await runtime.run_sandbox(sandbox_spec)
    assert (sandbox.spec, sandbox.ready) == (sandbox_spec, True)
    assert await runtime.run_sandbox(sandbox_spec) == sandbox
    started = await runtime.start_container(spec)
    assert (started.spec, started.state) == (spec, "running")
    assert started.pid > 0
    assert await runtime.sandboxes() == (sandbox,)
    assert await runtime.containers() == (started,)
    stopped = await runtime.stop_container(spec.id, 0)
    assert (stopped.state, stopped.exit_code, stopped.signal) == ("exited", 137, 9)
    assert await runtime.stop_container(spec.id, 0) == stopped
    await runtime.stop_sandbox(sandbox_spec.id)
    assert not (await runtime.sandboxes())[0].ready
    await runtime.remove_container(spec.id)
    await runtime.remove_container(spec.id)
    assert await runtime.containers() == ()
    await runtime.remove_sandbox(sandbox_spec.id)
    await runtime.remove_sandbox(sandbox_spec.id)
    assert await runtime.sandboxes() == ()


async def test_stopping_a_sandbox_kills_its_containers_and_says_so(
    runtime: RuntimePort, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await runtime.run_sandbox(sandbox_spec)
    await runtime.start_container(spec)
    ready = asyncio.Event()
    event = asyncio.create_task(_next_exit(runtime, ready))
    await ready.wait()
    await runtime.stop_sandbox(sandbox_spec.id)
    told = await asyncio.wait_for(event, 5)
    assert (told.spec.id, told.state, told.exit_code) == (spec.id, "exited", 137)


async def test_a_server_leaves_by_itself_when_told(
    runtime: RuntimePort, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await runtime.run_sandbox(sandbox_spec)
    await runtime.start_container(replace(spec, image="nginx", command=()))
    stopped = await runtime.stop_container(spec.id, 20)
    assert (stopped.exit_code, stopped.reason) == (0, "Completed")


async def test_a_missing_program_is_an_error_and_a_record(
    runtime: RuntimePort, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await runtime.run_sandbox(sandbox_spec)
    with pytest.raises(MachineError) as caught:
        await runtime.start_container(replace(spec, command=("no-such-program",)))
    assert caught.value.cause == 'exec: "no-such-program": executable file not found in $PATH'
    for _ in range(100):
        (record,) = await runtime.containers()
        if record.state == "exited":
            break
        await asyncio.sleep(0.01)
    assert (record.state, record.exit_code, record.reason) == ("exited", 127, "StartError")
    assert record.message == caught.value.cause


async def test_what_does_not_run_is_refused(
    runtime: RuntimePort, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    with pytest.raises(MachineError):
        await runtime.start_container(spec)
    await runtime.run_sandbox(sandbox_spec)
    await runtime.start_container(spec)
    with pytest.raises(MachineError):
        await runtime.start_container(spec)
    with pytest.raises(MachineError):
        await runtime.remove_container(spec.id)
    await runtime.stop_container(spec.id, 0)
    with pytest.raises(MachineError):
        await runtime.exec(spec.id, ["true"])
    with pytest.raises(MachineError):
        await runtime.attach(spec.id)
    with pytest.raises(MachineError):
        await runtime.exec("nobody", ["true"])


async def test_exec_gives_output_and_exit_code(
    runtime: RuntimePort, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await runtime.run_sandbox(sandbox_spec)
    await runtime.start_container(spec)
    assert await (await runtime.exec(spec.id, ["false"])).wait() == 1
    reader, writer = os.pipe()
    session = await runtime.exec(spec.id, ["echo", "hello"], stdout=writer)
    os.close(writer)
    assert await session.wait() == 0
    assert os.read(reader, 100) == b"hello\n"
    os.close(reader)


async def test_images(runtime: RuntimePort) -> None:
    assert (await runtime.image("nginx:1.27")).kind == "server"
    assert (await runtime.image("docker.io/library/busybox")).kind == "tools"
    assert (await runtime.image("example.com/who/knows:1")).kind == "unknown"


async def test_usage_lists_running_containers(
    runtime: RuntimePort, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await runtime.run_sandbox(sandbox_spec)
    await runtime.start_container(spec)
    assert [u.id for u in await runtime.usage()] == [spec.id]
    await runtime.stop_container(spec.id, 0)
    assert await runtime.usage() == ()
