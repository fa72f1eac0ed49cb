"""Real containers: what a process in one sees, and what its streams carry."""

from __future__ import annotations

import asyncio
import os
import re
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from podwire.model.errors import MachineError
from podwire.node.runtime.port import AttachSession
from podwire.node.runtime.real import RealRuntime
from podwire.node.runtime.values import Container, ContainerSpec, Mount, PortSpec, SandboxSpec

pytestmark = pytest.mark.kernel


async def run(real: RealRuntime, id: str, *command: str) -> str:
    """Return what a command in the container writes, both streams."""
    reader, writer = os.pipe()
    try:
        session = await real.exec(id, command, stdout=writer, stderr=writer)
    finally:
        os.close(writer)
    output = await asyncio.to_thread(read_all, reader)
    await asyncio.wait_for(session.wait(), 10)
    return output


def read_all(fd: int) -> str:
    with os.fdopen(fd, "rb") as file:
        return file.read().decode()


async def until_exited(real: RealRuntime, id: str) -> Container:
    for _ in range(500):
        for container in await real.containers():
            if container.spec.id == id and container.state == "exited":
                return container
        await asyncio.sleep(0.01)
    raise AssertionError("still running")


async def start(real: RealRuntime, sandbox: SandboxSpec, spec: ContainerSpec, *command: str) -> ContainerSpec:
    await real.run_sandbox(sandbox)
    chosen = replace(spec, command=command) if command else spec
    await real.start_container(chosen)
    return chosen


async def logged(real: RealRuntime, sandbox: SandboxSpec, spec: ContainerSpec, *command: str) -> list[str]:
    """Run a container to its end and return its log lines without their time stamps."""
    await start(real, sandbox, spec, *command)
    await until_exited(real, spec.id)
    lines = spec.log_path.read_text().splitlines()
    stamp = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")
    assert all(stamp.match(line) for line in lines)
    return [stamp.sub("", line) for line in lines]


async def test_logs_both_streams_and_the_unfinished_line(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    lines = await logged(real, sandbox_spec, spec, "sh", "-c", "echo a; echo b >&2; printf c; exit 3")
    assert sorted(lines) == ["stderr F b", "stdout F a", "stdout F c"]
    (container,) = await real.containers()
    assert (container.exit_code, container.reason) == (3, "Error")
    assert container.created_at <= container.started_at <= container.finished_at


async def test_long_lines_are_cut_and_files_rotated(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    small = replace(spec, log_max_bytes=40_000, log_max_files=3)
    script = "head -c 40000 /dev/zero | tr '\\0' x; echo; for i in 1 2 3 4 5 6 7 8; do sleep 0.02; head -c 15000 /dev/zero | tr '\\0' $i; echo; done"
    lines = await logged(real, sandbox_spec, small, "sh", "-c", script)
    names = sorted(p.name for p in spec.log_path.parent.iterdir())
    assert names == ["0.log", "0.log.1", "0.log.2"]
    assert lines[-1] == "stdout F " + "8" * 15000
    assert all(len(line) <= 16384 + 10 for line in lines)


async def test_the_root_is_private_and_the_host_untouched(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await start(real, sandbox_spec, spec)
    mark = f"/etc/podwire-test-{os.getpid()}"
    assert await run(real, spec.id, "sh", "-c", f"echo x > {mark} && cat {mark}") == "x\n"
    assert not Path(mark).exists()
    assert await run(real, spec.id, "cat", "/etc/hostname", "/proc/1/comm") == "web-host\nsleep\n"
    assert await run(real, spec.id, "hostname") == "web-host\n"
    devices = (await run(real, spec.id, "ls", "/dev")).split()
    assert {"null", "zero", "full", "random", "urandom", "tty", "pts", "shm", "ptmx", "stdout"} <= set(devices)
    assert await run(real, spec.id, "sh", "-c", "ls -A /run; ls -A /tmp; echo y > /dev/null; echo $$") != "1\n"
    assert "Read-only" in await run(real, spec.id, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    assert "127.0.0.1" in await run(real, spec.id, "ip", "addr", "show", "lo")
    mounts = await run(real, spec.id, "cat", "/proc/mounts")
    assert "mqueue /dev/mqueue" in mounts
    assert "shim" not in mounts, "the old root is gone"


async def test_environment_directory_and_arguments(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    asked = replace(spec, args=("x y",), env=(("A", "1"), ("HOME", "/h")), working_dir="/made/for/it")
    script = 'echo "$A $HOME $HOSTNAME $PATH"; pwd; echo "$0"; test -t 0 || echo notty'
    lines = await logged(real, sandbox_spec, asked, "sh", "-c", script)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert lines == [f"stdout F {x}" for x in (f"1 /h web-host {path}", "/made/for/it", "x y", "notty")]


async def test_mounts(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec, shared: Path) -> None:
    for name in ("volume", "nested", "secret"):
        (shared / name).mkdir()
        (shared / name).chmod(0o777)
    (shared / "secret" / "token").write_text("t")
    (shared / "hosts").write_text("10.0.0.1 web\n")
    (shared / "resolv").write_text("nameserver 10.96.0.10\n")
    (shared / "end").write_text("")
    (shared / "end").chmod(0o666)
    (shared / "one.conf").write_text("conf")
    asked = replace(
        spec,
        mounts=(
            Mount(shared / "nested", "/srv/data/inner"),
            Mount(shared / "volume", "/srv/data"),
            Mount(shared / "secret", "/var/run/secrets/kubernetes.io/serviceaccount", read_only=True),
            Mount(shared / "one.conf", "/usr/share/nginx/conf.d/one.conf", read_only=True),
        ),
        hosts_file=shared / "hosts",
        resolv_file=shared / "resolv",
        termination_log=shared / "end",
    )
    await start(real, sandbox_spec, asked)
    assert await run(real, spec.id, "cat", "/etc/hosts", "/etc/resolv.conf") == (
        "10.0.0.1 web\nnameserver 10.96.0.10\n"
    )
    assert await run(real, spec.id, "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token") == "t"
    assert await run(real, spec.id, "cat", "/run/secrets/kubernetes.io/serviceaccount/token") == "t"
    assert await run(real, spec.id, "cat", "/usr/share/nginx/conf.d/one.conf") == "conf"
    refused = await run(real, spec.id, "touch", "/var/run/secrets/kubernetes.io/serviceaccount/x")
    assert "Read-only file system" in refused
    await run(
        real, spec.id, "sh", "-c", "echo v > /srv/data/v; echo n > /srv/data/inner/n; echo bye > /dev/termination-log"
    )
    assert (shared / "volume" / "v").read_text() == "v\n"
    assert (shared / "nested" / "n").read_text() == "n\n"
    assert (shared / "end").read_text() == "bye\n"


async def test_a_read_only_root(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    await start(real, sandbox_spec, replace(spec, read_only_root=True))
    assert "Read-only file system" in await run(real, spec.id, "touch", "/etc/x")
    assert "Read-only file system" in await run(real, spec.id, "touch", "/x")
    assert await run(real, spec.id, "touch", "/tmp/x") == ""


async def test_a_missing_mount_source_is_told(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await real.run_sandbox(sandbox_spec)
    with pytest.raises(MachineError, match="mount source /no/such does not exist"):
        await real.start_container(replace(spec, mounts=(Mount(Path("/no/such"), "/x"),)))
    assert (await until_exited(real, spec.id)).reason == "ContainerCannotRun"


@pytest.mark.parametrize(
    ("command", "cause", "code"),
    [
        (("/no/such",), 'exec: "/no/such": stat /no/such: no such file or directory', 127),
        (("/etc/passwd",), 'exec: "/etc/passwd": permission denied', 126),
        (("/etc",), 'exec: "/etc": permission denied', 126),
    ],
)
async def test_what_cannot_be_executed(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec, command: tuple[str], cause: str, code: int
) -> None:
    await real.run_sandbox(sandbox_spec)
    with pytest.raises(MachineError) as caught:
        await real.start_container(replace(spec, command=command))
    assert caught.value.cause == cause
    record = await until_exited(real, spec.id)
    assert (record.exit_code, record.reason) == (code, "StartError")


async def test_pid_1_is_deaf_to_sigterm_and_killed_after_the_grace(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await start(real, sandbox_spec, spec)
    stopped = await real.stop_container(spec.id, 0.1)
    assert (stopped.exit_code, stopped.signal) == (137, 9)


async def test_sigterm_reaches_a_process_that_listens(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    await start(real, sandbox_spec, spec, "sh", "-c", script)
    while not spec.log_path.read_text():
        await asyncio.sleep(0.01)
    assert (await real.stop_container(spec.id, 20)).exit_code == 7
    assert spec.log_path.read_text().endswith("stdout F bye\n")


async def test_everything_dies_with_pid_1(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    script = "setsid sleep 1000 & setsid sleep 1000 & sleep 0.1"
    await start(real, sandbox_spec, spec, "sh", "-c", script)
    assert (await until_exited(real, spec.id)).exit_code == 0
    second = replace(spec, id="c-1")
    await start(real, sandbox_spec, second)
    assert (await run(real, "c-1", "sh", "-c", "ls /proc | grep -c '^[0-9]'")).strip().isdigit()
    assert [u.processes for u in await real.usage()] == [1]


async def test_containers_of_a_pod_share_the_network_and_nothing_else(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    server = replace(spec, image="nginx", command=())
    await start(real, sandbox_spec, server)
    await real.start_container(replace(spec, id="c-1"))
    assert "pod: web\nnamespace: default\nnode: n" in await run(real, "c-1", "curl", "-s", "http://localhost")
    assert await run(real, "c-1", "curl", "-s", "http://127.0.0.1/hostname") == "web-host"
    assert "PODWIRE" not in await run(real, spec.id, "env"), "what the built-in server is told is its own"
    assert (await run(real, spec.id, "cat", "/proc/1/cmdline")).strip("\0") == "nginx\0-g\0daemon off;"
    await run(real, spec.id, "touch", "/etc/here")
    assert "No such file" in await run(real, "c-1", "ls", "/etc/here")
    assert "sleep" not in await run(real, spec.id, "sh", "-c", "cat /proc/[0-9]*/comm")
    await real.stop_container(spec.id, 5)
    await real.start_container(replace(server, id="c-2", attempt=1))
    assert await run(real, "c-1", "curl", "-s", "http://[::1]/hostname") == "web-host"


async def test_two_servers_on_one_port_of_a_pod(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    server = replace(spec, image="nginx", command=(), ports=(PortSpec(8080),))
    await start(real, sandbox_spec, server)
    await real.start_container(replace(spec, id="c-9"))
    while "pod:" not in await run(real, "c-9", "curl", "-s", "http://localhost:8080"):
        await asyncio.sleep(0.01)
    second = replace(server, id="c-1", log_path=spec.log_path.with_name("second.log"))
    await real.start_container(second)
    assert (await until_exited(real, "c-1")).exit_code == 1
    assert "bind() to 0.0.0.0:8080 failed (98: Address already in use)" in second.log_path.read_text()


async def test_a_shared_process_namespace(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    await start(real, replace(sandbox_spec, share_process_namespace=True), spec)
    await real.start_container(replace(spec, id="c-1", command=("tail", "-f", "/dev/null")))
    names = await run(real, spec.id, "sh", "-c", "cat /proc/[0-9]*/comm")
    assert {"pause", "sleep", "tail"} <= set(names.split())
    await real.stop_container("c-1", 0.05)
    for _ in range(100):
        names = await run(real, spec.id, "sh", "-c", "cat /proc/[0-9]*/comm")
        if "tail" not in names:
            break
    assert "tail" not in names
    await real.stop_sandbox(sandbox_spec.id)


async def test_the_nodes_own_network_and_processes(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    sandbox = replace(sandbox_spec, host_network=True, host_pid=True, host_ipc=True)
    await start(real, sandbox, spec, "sh", "-c", "sleep 1000 & sleep 1000")
    assert "shim" in await run(real, spec.id, "cat", "/proc/2/comm")
    await real.stop_container(spec.id, 0)
    await real.start_container(replace(spec, id="c-1"))
    for _ in range(100):  # killed already; the init may not have reaped it yet
        names = (await run(real, "c-1", "sh", "-c", "cat /proc/[0-9]*/comm")).split()
        if names.count("sleep") == 1:
            break
    assert names.count("sleep") == 1


async def test_exec_with_stdin(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    await start(real, sandbox_spec, spec)
    in_reader, in_writer = os.pipe()
    out_reader, out_writer = os.pipe()
    session = await real.exec(spec.id, ["cat"], stdin=in_reader, stdout=out_writer)
    os.close(in_reader)
    os.close(out_writer)
    os.write(in_writer, b"through")
    os.close(in_writer)
    assert await asyncio.to_thread(read_all, out_reader) == "through"
    assert await session.wait() == 0


async def test_exec_on_a_terminal(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    await start(real, sandbox_spec, spec)
    session = await real.exec(spec.id, ["sh", "-c", "tty; read x; stty size; exit 5"], tty=True)
    assert session.terminal is not None
    await session.resize(33, 99)
    os.write(session.terminal, b"\n")
    assert await session.wait() == 5
    seen = b""
    try:
        while True:
            seen += os.read(session.terminal, 4096)
    except OSError:
        pass  # EIO: the end of a terminal whose other side is closed
    assert b"/dev/pts/0" in seen
    assert b"33 99" in seen
    os.close(session.terminal)


async def test_killing_a_command(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    await start(real, sandbox_spec, spec)
    session = await real.exec(spec.id, ["sleep", "1000"])
    await session.kill()
    assert await session.wait() == 137
    with pytest.raises(MachineError) as caught:
        await real.exec(spec.id, ["no-such"])
    assert caught.value.cause == 'exec: "no-such": executable file not found in $PATH'


async def frames(session: AttachSession) -> AsyncIterator[tuple[int, bytes]]:
    """Yield stream number and bytes until the end."""
    with os.fdopen(os.dup(session.output), "rb") as file:
        while head := await asyncio.to_thread(file.read, 5):
            stream, length = struct.unpack(">BI", head)
            yield stream, await asyncio.to_thread(file.read, length)


async def test_attach_and_stdin_once(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    await start(real, sandbox_spec, replace(spec, stdin=True, stdin_once=True), "sh", "-c", "cat; echo end >&2")
    session = await real.attach(spec.id)
    assert session.stdin is not None
    os.write(session.stdin, b"typed\n")
    os.close(session.stdin)
    session.stdin = None
    assert [f async for f in frames(session)] == [(1, b"typed\n"), (2, b"end\n")]
    await session.close()
    assert (await until_exited(real, spec.id)).exit_code == 0


async def test_attach_to_a_terminal(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    await start(real, sandbox_spec, replace(spec, tty=True, stdin=True), "sh")
    session = await real.attach(spec.id)
    assert session.stdin is not None
    await session.resize(40, 120)
    os.write(session.stdin, b"echo $TERM; stty size; exit 4\n")
    seen = b"".join([chunk async for _, chunk in frames(session)])
    assert b"xterm\r\n40 120\r\n" in seen
    await session.close()
    assert (await until_exited(real, spec.id)).exit_code == 4


async def test_the_first_to_attach_sees_what_came_before(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await start(real, sandbox_spec, replace(spec, stdin=True), "sh", "-c", "echo early; cat")
    while not spec.log_path.read_text():
        await asyncio.sleep(0.01)
    first, second = await real.attach(spec.id), await real.attach(spec.id)
    assert os.read(first.output, 100) == struct.pack(">BI", 1, 6) + b"early\n"
    assert first.stdin is not None
    os.write(first.stdin, b"late\n")
    for session in (first, second):
        assert os.read(session.output, 100) == struct.pack(">BI", 1, 5) + b"late\n"
        await session.close()


async def test_a_slow_reader_slows_the_container_and_loses_nothing(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await start(real, sandbox_spec, replace(spec, stdin=True), "sh", "-c", "read x; seq 1 300000")
    session = await real.attach(spec.id)
    assert session.stdin is not None
    os.write(session.stdin, b"\n")
    await asyncio.sleep(0.2)
    whole = b"".join([chunk async for _, chunk in frames(session)])
    assert whole.split() == [str(n).encode() for n in range(1, 300001)]
    await session.close()


async def test_users_groups_and_capabilities(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec, shim: object
) -> None:
    await start(real, sandbox_spec, replace(spec, capabilities_drop=("ALL",), capabilities_add=("NET_RAW",)))
    status = await run(real, spec.id, "cat", "/proc/self/status")
    assert "CapEff:\t0000000000002000" in status
    nobody = replace(spec, id="c-1", user=65534, group=65534, supplemental_groups=(7,), no_new_privileges=True)
    if getattr(shim, "rootless", False):
        with pytest.raises(MachineError, match="runAsUser 65534 does not exist in this user namespace"):
            await real.start_container(nobody)
        return
    await real.start_container(nobody)
    assert await run(real, "c-1", "id", "-u") == "65534\n"
    assert await run(real, "c-1", "id", "-G") == "65534 7\n"
    assert "NoNewPrivs:\t1" in await run(real, "c-1", "cat", "/proc/self/status")


async def test_ping_and_tcpdump_have_what_they_need(
    real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec
) -> None:
    await start(real, sandbox_spec, spec)
    assert "1 received" in await run(real, spec.id, "ping", "-c", "1", "127.0.0.1")
    assert "listening on lo" in await run(real, spec.id, "timeout", "1", "tcpdump", "-ni", "lo", "-c", "1")


async def test_network_sysctls(real: RealRuntime, sandbox_spec: SandboxSpec, spec: ContainerSpec) -> None:
    await start(real, replace(sandbox_spec, sysctls={"net.ipv4.tcp_keepalive_time": "77"}), spec)
    assert await run(real, spec.id, "cat", "/proc/sys/net/ipv4/tcp_keepalive_time") == "77\n"
    with pytest.raises(MachineError, match=r"net\.no\.such"):
        await real.run_sandbox(replace(sandbox_spec, id="other", sysctls={"net.no.such": "1"}))
    assert len(await real.sandboxes()) == 1
