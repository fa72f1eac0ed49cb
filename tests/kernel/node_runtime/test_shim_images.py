"""What images become: mapped directories and binaries, programs of the lab, agnhost, privileged pods."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podwire.model.errors import MachineError
from podwire.node.runtime.real import RealRuntime
from podwire.node.runtime.shim import ShimConfig
from podwire.node.runtime.values import Container, ContainerSpec, Mount, SandboxSpec

pytestmark = pytest.mark.kernel


def announce(arguments: Sequence[str]) -> int:
    """A program of the lab's."""
    print("announce", *arguments, os.environ["WHO"], os.uname().nodename, os.getpid())
    print("fds", len(os.listdir("/proc/self/fd")))
    return 3


def copy_program(name: str, root: Path) -> None:
    """Copy a program of the host's with its libraries."""
    source = shutil.which(name)
    assert source is not None
    shutil.copy(source, root / "bin" / name)
    listed = subprocess.run(["ldd", source], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+) \(", listed):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


@pytest.fixture(params=["root", "rootless"])
async def mapped(request: pytest.FixtureRequest, shared: Path, shim_starter: Any) -> AsyncIterator[RealRuntime]:
    """A client of a shim with images of its user's."""
    if request.param == "root" and os.getuid() != 0:
        pytest.skip("needs root")
    root = shared / "rootfs"
    (root / "bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc" / "motd").write_text("of the image\n")
    (root / "etc" / "resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    (root / "var").mkdir()
    (root / "var" / "outside").symlink_to("../../../../etc")
    copy_program("cat", root)
    (shared / "tool").write_text("#!/bin/sh\necho tool $0 $*\n")
    (shared / "tool").chmod(0o755)
    (shared / "secret").mkdir()
    (shared / "secret" / "key").write_text("k")
    process = shim_starter(
        shared,
        request.param == "rootless",
        lambda d: ShimConfig(
            node_name="n",
            socket_path=d / "shim.sock",
            images={"mine": root, "tool": d / "tool"},
            builtins={"podwire/announce": announce},
            hidden=("/usr/share",),
        ),
    )
    real = RealRuntime(process.socket)
    yield real
    await real.close()
    process.kill()


async def run_to_end(real: RealRuntime, sandbox: SandboxSpec, spec: ContainerSpec) -> tuple[Container, list[str]]:
    await real.run_sandbox(sandbox)
    await real.start_container(spec)
    for _ in range(500):
        (container,) = await real.containers()
        if container.state == "exited":
            break
        await asyncio.sleep(0.01)
    return container, [line.split(" ", 3)[3] for line in spec.log_path.read_text().splitlines()]


async def test_a_program_of_the_lab(mapped: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    asked = replace(spec, image="podwire/announce:1", command=(), args=("a", "b"), env=(("WHO", "me"),))
    container, lines = await run_to_end(mapped, sandbox_spec, asked)
    assert lines == ["announce a b me web-host 1", "fds 4"]  # 0, 1, 2 and the listing's own
    assert container.exit_code == 3


async def test_a_mapped_binary(mapped: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    asked = replace(spec, image="example.com/tool:2", command=(), args=("x",))
    container, lines = await run_to_end(mapped, sandbox_spec, asked)
    assert (lines, container.exit_code) == (["tool /usr/local/bin/tool x"], 0)


async def test_a_mapped_directory(
    mapped: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec, shared: Path
) -> None:
    assert (await mapped.image("mine")).kind == "directory"
    (shared / "resolv").write_text("nameserver 10.96.0.10\n")
    (shared / "linked").write_text("through the link\n")
    asked = replace(
        spec,
        image="mine",
        command=("cat", "/etc/motd", "/etc/resolv.conf", "/etc/hostname", "/etc/linked"),
        resolv_file=shared / "resolv",
        mounts=(Mount(shared / "linked", "/var/outside/linked"),),
    )
    container, lines = await run_to_end(mapped, sandbox_spec, asked)
    assert lines == ["of the image", "nameserver 10.96.0.10", "web-host", "through the link"]
    assert container.exit_code == 0
    with pytest.raises(MachineError, match="stat /bin/ls: no such file"):
        await mapped.start_container(replace(spec, id="c-1", image="mine", command=("/bin/ls",)))
    assert sorted(os.listdir(shared / "rootfs" / "etc")) == ["motd", "resolv.conf"]


async def test_hidden_directories_look_empty(
    mapped: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    asked = replace(spec, command=("sh", "-c", "ls -A /usr/share | wc -l"))
    assert (await run_to_end(mapped, sandbox_spec, asked))[1] == ["0"]


async def test_agnhost_connects_and_says_how_it_went(
    mapped: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    image = "registry.k8s.io/e2e-test-images/agnhost:2.53"
    server = replace(spec, image=image, command=(), args=("netexec", "--http-port=8085"))
    await mapped.run_sandbox(sandbox_spec)
    await mapped.start_container(server)
    for port, code, said in (("8085", 0, ""), ("9", 1, "REFUSED\n")):
        for _ in range(100):  # the server may be just starting
            reader, writer = os.pipe()
            command = ["/agnhost", "connect", f"127.0.0.1:{port}", "--timeout=2s"]
            session = await mapped.exec(spec.id, command, stderr=writer)
            os.close(writer)
            got = await session.wait()
            with os.fdopen(reader) as file:
                text = file.read()
            if (got, text) == (code, said):
                break
            await asyncio.sleep(0.02)
        assert (got, text) == (code, said)


async def test_a_privileged_container_may_change_sysctls(
    mapped: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    script = "echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward"
    asked = replace(spec, privileged=True, command=("sh", "-c", script))
    assert (await run_to_end(mapped, sandbox_spec, asked))[1] == ["1"]


async def test_a_built_in_server_over_udp(mapped: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    server = replace(spec, image="agnhost", command=(), args=("netexec", "--udp-port=5000"))
    await mapped.run_sandbox(sandbox_spec)
    await mapped.start_container(server)
    script = (
        "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.settimeout(5);"
        "s.sendto(b'hostname',('127.0.0.1',5000));print(s.recv(99).decode())"
    )
    for _ in range(100):
        reader, writer = os.pipe()
        session = await mapped.exec(spec.id, ["/usr/bin/python3", "-c", script], stdout=writer)
        os.close(writer)
        await session.wait()
        with os.fdopen(reader) as file:
            text = file.read()
        if text:
            break
    assert text == "web-host\n"
    assert socket.gethostname() != "web-host"
